package Test::Nginx::DERP::Steps::Stats;

# Steps that look at what the server has counted, by derp_status.  Whatever they
# ask about is polled until it is so.

use v5.36;

use JSON::PP ();
use List::Util qw( sum0 );

use Test::Nginx::DERP::Client;
use Test::Nginx::DERP::Script qw( words );

use constant {
    POLL => 0.01,
    FROZEN_PATIENCE => 0.5,
};

my %COMPARE = (
    '=' => sub ($is, $n) { $is == $n },
    '!=' => sub ($is, $n) { $is != $n },
    '<' => sub ($is, $n) { $is < $n },
    '<=' => sub ($is, $n) { $is <= $n },
    '>' => sub ($is, $n) { $is > $n },
    '>=' => sub ($is, $n) { $is >= $n },
);

my $NUMBER = qr/ \d+ | workers /x;

# what is of one worker, and no count
my %IDENTITY = map { $_ => 1 } qw( slot pid configuration );


# mark [PATH]: the numbers that are counted from

sub nginx_mark ($self, $rest) {
    my $path = length $rest ? $rest : '/status';

    $self->look_until("an answer to GET $path", sub {
        $self->{marks}{$path} = $self->read_stats($path);
    });
}


# stats [PATH] [of CLIENT] TERM ...

sub nginx_stats ($self, $rest) {
    my $path = $rest =~ s{^(/\S*)\s*}{} ? $1 : '/status';
    my $pid = $rest =~ s/^of (\w+)\s*//
              ? $self->worker_of($self->client($1)) : undef;
    my @terms = map { $self->term($_) } words($rest);
    my $wrong = "an answer to GET $path";

    $self->wait_for(sub { $wrong }, sub {
        my $stats = $self->read_stats($path) // return 0;
        my $mark = $self->{marks}{$path};

        ($stats, $mark) = map { part_of($_, $pid) } $stats, $mark
            if defined $pid;

        $wrong = join ', ', map { unlike_term($stats, $mark, $_) } @terms;

        return $wrong eq '';
    }, POLL);
}


sub term ($self, $word) {
    my ($path, $compare, $more, $sum) =
        $word =~ / ^ ([\w.]+ (?:\.\*)?) (!?=|[<>]=?) (\+?)
                     ( $NUMBER (?: \+ $NUMBER )* ) $ /x
            or die "not a term: $word\n";
    my $n = sum0 map { $_ eq 'workers' ? $self->{server}{workers} : $_ }
                     split /\+/, $sum;

    return { word => $word, path => $path, compare => $COMPARE{$compare},
             more => $more, n => $n };
}


# What is wrong with it, or nothing

sub unlike_term ($stats, $mark, $term) {
    my $is = number_at($stats, $term->{path});

    if ($term->{more}) {
        $is -= number_at($mark // die("there is no mark\n"), $term->{path});
    }

    return if $term->{compare}->($is, $term->{n});
    return "$term->{word} (it is " . ($term->{more} ? '+' : '') . "$is)";
}


sub number_at ($stats, $path) {
    my $all = $path =~ s/\.\*$//;
    my $at = $stats;

    for my $name (split /\./, $path) {
        $at = ref $at eq 'HASH' ? $at->{$name}
              : ref $at eq 'ARRAY' && $name =~ /^\d+$/ ? $at->[$name] : undef;
    }

    return $at ? 1 : 0 if JSON::PP::is_bool($at);

    return sum0 values %{ { leaves($at) } } if $all && ref $at eq 'HASH';
    return scalar @$at if ref $at eq 'ARRAY';
    return $at if defined $at && !ref $at && !$all;

    die "there is no number \"$path\"\n";
}


# The part of a worker, which may have counted nothing yet at the mark.

sub part_of ($stats, $pid) {
    return undef if !$stats;

    my ($worker) = grep { $_->{pid} == $pid } @{ $stats->{workers} };

    return $worker // die "worker $pid is not in the status\n";
}


# One reading of it; nothing if it did not come.  A worker that hangs does not
# answer, but another will.

sub read_stats ($self, $path) {
    my $probe = $self->{probes}{stats} = Test::Nginx::DERP::Client->new('stats');

    local $self->{timeout} = FROZEN_PATIENCE if %{ $self->{frozen} };

    $self->open_anywhere($probe, { plain => 1 });
    $self->write_request($probe, "GET $path HTTP/1.1", 'Connection: close');

    my $response = eval { $self->response($probe, 'GET') };

    $probe->close;

    return undef if !$response;
    die "GET $path: $response->{status}\n" if $response->{status} != 200;

    my $stats = JSON::PP->new->decode($response->{body});

    check_sums($stats);

    return $stats;
}


sub check_sums ($stats) {
    my %total = leaves($stats);
    my %sum;

    for my $part ($stats->{past}, @{ $stats->{workers} }) {
        my %part = leaves($part);

        $sum{$_} += $part{$_} for grep { !$IDENTITY{$_} } keys %part;
    }

    for (sort keys %sum) {
        my $total = $total{$_} // die "the status has no $_\n";

        die "the status has $_ $total, but $sum{$_} in all workers\n"
            if $total != $sum{$_};
    }
}


# "packets.sent" => number, ...

sub leaves ($object, $prefix = '') {
    my %leaves;

    for my $name (keys %$object) {
        my $value = $object->{$name};

        %leaves = (%leaves, ref $value eq 'HASH'
                            ? leaves($value, "$prefix$name.")
                            : ("$prefix$name" => $value));
    }

    return %leaves;
}

1;
