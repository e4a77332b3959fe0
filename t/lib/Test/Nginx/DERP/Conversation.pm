package Test::Nginx::DERP::Conversation;

# Carries out the steps of a conversation.  A verb of a client is a method do_VERB
# in one of the Steps modules, a verb without a client is nginx_VERB.  Whatever
# waits does so in wait_for(), which moves the bytes of all connections meanwhile
# and gives up after a time, saying what it waited for.

use v5.36;

use List::Util qw( min );
use Time::HiRes qw( time );

use Test::Nginx::DERP::Client;
use Test::Nginx::DERP::Script qw( steps value words );
use Test::Nginx::DERP::Sodium qw( keypair );

use parent map { "Test::Nginx::DERP::Steps::$_" }
           qw( Connect Http Login Many Receive Send Server Stats Sync );

# How often something is looked at that no socket tells of.
use constant TICK => 0.003;


# server, tls (whether clients speak TLS when nothing is said), mesh_key,
# timeout, rewrite (called at a reload with the number of the configuration)

sub new ($class, %args) {
    return bless {
        timeout => 5,
        %args,
        clients => {}, keys => {}, names => {}, server_keys => {}, slots => [],
        probes => {}, allowed => [],
        frozen => {}, generation => 1, dirty => 0,
    }, $class;
}


# Dies with a message at the first step that fails.

sub run ($self, $text) {
    local $SIG{PIPE} = 'IGNORE';

    for my $step (steps($text)) {
        next if eval { $self->step($step); 1 };

        chomp(my $reason = $@);
        die "line $step->{line}, \"$step->{text}\": $reason\n";
    }
}


sub step ($self, $step) {
    my ($rest, $verb) = @$step{qw( rest verb )};

    local $self->{timeout} = $1 if $rest =~ s/(?:^|\s+)within=([\d.]+)$//;
    local $self->{pick} = $verb eq 'pick';

    if ($self->{pick}) {
        $rest =~ s/^(\S+)\s*//;
        $verb = $1;
    }

    my $who = $step->{who};
    my $prefix = @$who ? 'do_' : 'nginx_';
    my $method = $self->can($prefix . ($verb =~ tr/-/_/r))
        // die "there is no such step\n";

    if (@$who) {
        $self->$method($self->client($_), $rest) for @$who;

    } elsif (!$self->{server}->remote) {
        $self->$method($rest);
    }
}


sub finish ($self) {
    kill 'CONT', keys %{ $self->{frozen} };
    $_->close for values %{ $self->{clients} }, values %{ $self->{probes} };
}


# Who, and which key

sub client ($self, $name) {
    return $self->{clients}{$name} //= Test::Nginx::DERP::Client->new($name);
}

sub pair ($self, $name) {
    return $self->{keys}{$name} //= do {
        my @pair = keypair();

        $self->{names}{ $pair[0] } //= $name;
        \@pair;
    };
}

sub key ($self, $name) {
    return $self->server_key('/derp') if $name eq 'server';
    return $self->pair($name)->[0];
}

sub name ($self, $key) {
    return $self->{names}{$key} // 'key ' . unpack 'H*', $key;
}

sub value_of ($self, $word) {
    return value($word, sub ($name) { $self->key($name) });
}

sub values_of ($self, $count, $rest) {
    my @words = words($rest);

    die "$count words are needed here\n" if @words != $count;

    return @words;
}


# Waiting

sub wait_for ($self, $what, $done, $tick = undef) {
    my $deadline = time + $self->{timeout};

    until ($done->()) {
        my $left = $deadline - time;

        die "waited $self->{timeout} s for ", ref $what ? $what->() : $what,
            "\n" if $left <= 0;

        $self->move(defined $tick ? min($left, $tick) : $left);
    }
}

# For what the connections do not tell of.

sub look_until ($self, $what, $done) { $self->wait_for($what, $done, TICK) }


# Lets every connection read and write what it can, for at most so long.

sub move ($self, $seconds) {
    my $changes = $Test::Nginx::DERP::Client::Changes;

    $self->{polled} = $self->polled($changes)
        if ($self->{polled}{changes} // -1) != $changes;

    my ($readable, $writable, $client) = @{ $self->{polled} }{qw( r w client )};

    return if select($readable, $writable, undef, $seconds) <= 0;

    $client->{$_}->flush for bits($writable);
    $client->{$_}->fill for bits($readable);
}


sub polled ($self, $changes) {
    my %polled = (r => '', w => '', client => {}, changes => $changes);

    for my $client (values %{ $self->{clients} }, values %{ $self->{probes} }) {
        next if !$client->is_open;

        my $fd = $client->{sock}->fileno;

        $polled{client}{$fd} = $client;
        vec($polled{r}, $fd, 1) = 1 if $client->wants_read;
        vec($polled{w}, $fd, 1) = 1 if $client->wants_write;
    }

    return \%polled;
}


sub bits ($vector) {
    my $text = unpack 'b*', $vector;
    my @set;

    for (my $i = -1; ($i = index $text, '1', $i + 1) >= 0; ) {
        push @set, $i;
    }

    return @set;
}

1;
