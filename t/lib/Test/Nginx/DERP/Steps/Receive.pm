package Test::Nginx::DERP::Steps::Receive;

# Steps that expect what the server sends.

use v5.36;

use List::Util qw( min none );
use Socket qw( AF_INET AF_INET6 inet_pton );
use Time::HiRes qw( time );

use Test::Nginx::DERP::Frame qw( difference frame_type printable take_frame
                                 type_name );
use Test::Nginx::DERP::Script qw( options words );

use constant COARSE => 0.02;

my %REASON = (disconnected => 0, 'not-here' => 1);
my %FLAG = (regular => 1, mesh => 2, prober => 4, 'not-ideal' => 8);


sub gather ($client) {
    while (my @frame = take_frame(\$client->{in})) {
        push @{ $client->{frames} }, \@frame;
    }

    return $client->{frames};
}


# Nothing came that was not expected yet.

sub no_more ($self, $client) {
    die $self->seen($client), "\n"
        if first_frame(gather($client)) || length $client->{in};
}


sub is_keepalive ($frame) { $frame->[0] == frame_type('keepalive') }


# The next frame, that of a sync and keep-alives apart, or with "pick" the first
# one that fits.  $differs says what is wrong with a body, or nothing.

sub expect_frame ($self, $client, $what, $type, $differs) {
    my $number = frame_type($type);
    my $wrong = sub ($frame) {
        return 'came instead' if $frame->[0] != $number;
        return $differs->($frame->[1]);
    };

    my $frame = $self->next_frame($client, $what, $wrong);

    return $frame->[1];
}


sub next_frame ($self, $client, $what, $wrong) {
    my $found;

    $self->wait_for(
        sub { (ref $what ? $what->() : $what) . '; ' . $self->seen($client) },
        sub {
            $found = $self->look_for($client, $wrong);
            return 1 if $found;

            die "the connection ended; ", $self->seen($client), "\n"
                if $client->{eof};
            return 0;
        }
    );

    return $found;
}


sub look_for ($self, $client, $wrong) {
    my $frames = gather($client);

    if ($self->{pick}) {
        for my $i (0 .. $#$frames) {
            return splice @$frames, $i, 1 if !$wrong->($frames->[$i]);
        }

        return undef;
    }

    my $frame = first_frame($frames) // return undef;
    my $why = $wrong->($frame);

    die $self->describe($frame), " $why\n" if $why;

    return shift @$frames;
}


sub first_frame ($frames) {
    shift @$frames while @$frames && is_keepalive($frames->[0]);

    return $frames->[0];
}


sub seen ($self, $client) {
    my $frames = gather($client);
    my @rest = length $client->{in} ? 'bytes ' . printable($client->{in}) : ();

    return "$client->{name} has got "
        . (join(', ', (map { $self->describe($_) }
                       @$frames[0 .. min($#$frames, 9)]), @rest) || 'nothing')
        . (@$frames > 10 ? sprintf ' and %d more', @$frames - 10 : '');
}


sub describe ($self, $frame) {
    my ($type, $body) = @$frame;
    my $name = type_name($type);
    my $keyed = $name =~ /^(?:recv_packet|peer_gone|peer_present)$/
                && length $body >= 32;

    return "$name " . printable($body) if !$keyed;
    return "$name of " . $self->name(substr $body, 0, 32, '') . ' '
           . printable($body);
}


sub do_recv ($self, $client, $rest) {
    my ($from, $data) = $self->values_of(2, $rest);
    my $wanted = $self->key($from) . $self->value_of($data);

    $self->expect_frame($client, 'that packet', 'recv_packet',
                        sub ($body) { difference($body, $wanted) });
}

sub do_pong ($self, $client, $rest) {
    my $wanted = $self->value_of($rest);

    $self->expect_frame($client, 'that pong', 'pong',
                        sub ($body) { difference($body, $wanted) });
}

sub do_gone ($self, $client, $rest) {
    my ($name, $why) = words($rest);
    my $reason = $REASON{ $why // 'disconnected' } // die "gone how?\n";
    my $wanted = $self->key($name) . pack 'C', $reason;

    $self->expect_frame($client, "PeerGone of $name", 'peer_gone',
                        sub ($body) { difference($body, $wanted) });
}


# present NAME [flags=A,B] [from=CLIENT]

sub do_present ($self, $client, $rest) {
    my ($name, @more) = words($rest);
    my %opt = options("@more");
    my $key = $self->key($name);
    my @flags = map { $FLAG{$_} // die "no flag \"$_\"\n" }
                    split /,/, $opt{flags} // '';
    my $address = defined $opt{from}
                  ? $self->address_of($self->client($opt{from})) : undef;

    $self->expect_frame($client, "PeerPresent of $name", 'peer_present',
        sub ($body) {
            return 'came, not 51 bytes' if length $body != 51;
            return 'came, of another key' if substr($body, 0, 32) ne $key;
            return 'came, with other flags'
                if @flags && ord(substr $body, 50) != eval join '|', @flags;
            return defined $address
                   ? difference(substr($body, 32, 18), $address) : undef;
        });
}


# sees NAME ...: until the clients that a watcher has been told of are just those;
# a{1..9} are nine names

sub do_sees ($self, $client, $rest) {
    my %wanted = map { $self->key($_) => $_ } map { names($_) } words($rest);
    my $seen = $client->{seen} //= {};

    local $self->{pick} = 0;

    until (keys %$seen == keys %wanted && none { !$wanted{$_} } keys %$seen) {
        my $frame = $self->next_frame($client,
            sub { $self->unlike($seen, \%wanted) },
            sub ($frame) {
                type_name($frame->[0]) =~ /^peer_/ ? undef : 'came instead';
            });
        my $key = substr $frame->[1], 0, 32;

        # what changes during the flood may be told by both
        type_name($frame->[0]) eq 'peer_present'
            ? $seen->{$key} = 1 : delete $seen->{$key};
    }
}

sub names ($word) {
    return $word =~ /^(\w+)\{(\d+)\.\.(\d+)\}$/ ? map { "$1$_" } $2 .. $3 : $word;
}

sub unlike ($self, $seen, $wanted) {
    my @missing = map { $self->name($_) } grep { !$seen->{$_} } keys %$wanted;
    my @extra = map { $self->name($_) } grep { !$wanted->{$_} } keys %$seen;

    return sprintf 'PeerPresent of (%s), PeerGone of (%s)',
                   join(', ', sort @missing), join(', ', sort @extra);
}


sub address_of ($self, $client) {
    my ($host, $port) = $client->local_address;
    my $family = $host =~ /:/ ? AF_INET6 : AF_INET;
    my $bytes = inet_pton($family, $host);

    $bytes = "\0" x 10 . "\xff\xff" . $bytes if length $bytes == 4;

    return $bytes . pack 'n', $port;
}


sub do_health ($self, $client, $rest) {
    my $wanted = $self->value_of($rest);

    $self->expect_frame($client, 'that Health', 'health',
                        sub ($body) { difference($body, $wanted) });
}

# restarting [in=MIN..MAX] [for=MIN..MAX], in milliseconds

sub do_restarting ($self, $client, $rest) {
    my %opt = options($rest);

    $self->expect_frame($client, 'Restarting', 'restarting',
        sub ($body) {
            return 'came, not 8 bytes' if length $body != 8;

            my %got;
            @got{qw( in for )} = unpack 'NN', $body;

            for (grep { defined $opt{$_} } keys %got) {
                my ($min, $max) = split /\.\./, $opt{$_};

                return "came, with $_=$got{$_}"
                    if $got{$_} < $min || $got{$_} > $max;
            }

            return undef;
        });
}


# keepalive [after=SECONDS since the connection was opened]

sub do_keepalive ($self, $client, $rest) {
    my %opt = options($rest);

    $self->wait_for(
        sub { 'KeepAlive; ' . $self->seen($client) },
        sub {
            my $frame = gather($client)->[0] // return $client->{eof};

            is_keepalive($frame) or die $self->describe($frame), " came\n";
            return 1;
        }
    );

    shift @{ $client->{frames} } // die "the connection ended\n";
    $self->not_before($client, $opt{after});
}


# nginx has the time from a coarse clock

sub not_before ($self, $client, $seconds) {
    return if !defined $seconds;

    my $age = time - $client->{opened};

    $age >= $seconds - COARSE or die sprintf "it came after %.1f s\n", $age;
}


sub do_expect ($self, $client, $rest) {
    my ($type, $word) = words($rest);
    my $wanted = defined $word ? $self->value_of($word) : '';

    $self->expect_frame($client, "frame $type", $type,
                        sub ($body) { difference($body, $wanted) });
}


# bytes VALUE: what came, be it frames or not

sub do_bytes ($self, $client, $rest) {
    my $wanted = $self->value_of($rest);

    $self->wait_for(
        sub { length($wanted) . ' bytes; ' . $self->seen($client) },
        sub { length $client->{in} >= length $wanted || $client->{eof} }
    );

    my $got = substr $client->{in}, 0, length $wanted, '';

    die printable($got), " came\n" if $got ne $wanted;
}


# closed [after=SECONDS]: and nothing came that was not asked about

sub do_closed ($self, $client, $rest) {
    my %opt = options($rest);

    $self->wait_for(sub { 'its end; ' . $self->seen($client) },
                    sub { $client->{eof} || first_frame(gather($client)) });
    $self->no_more($client);

    $self->not_before($client, $opt{after});
    $client->close;
}


sub do_ends ($self, $client, $rest) {
    $self->wait_for(sub { 'its end; ' . $self->seen($client) },
                    sub { $client->{eof} });
    $client->close;
}

1;
