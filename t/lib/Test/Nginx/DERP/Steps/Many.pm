package Test::Nginx::DERP::Steps::Many;

# Steps with many packets, which carry a number.

use v5.36;

use Test::Nginx::DERP::Frame qw( difference frame frame_type );
use Test::Nginx::DERP::Script qw( options words );
use Test::Nginx::DERP::Sodium qw( noise );

# What may wait to be sent before the rest waits to be made.
use constant STREAM_BUFFER => 1 << 20;


# burst TO COUNT [size=N] [from=FIRST]: packets with a number, however they fare

sub do_burst ($self, $client, $rest) {
    my ($to, $count, @more) = words($rest);
    my %opt = options("@more");
    my $key = $self->key($to);
    my $first = $opt{from} // 1;

    for my $i ($first .. $first + $count - 1) {
        $client->write(frame('send_packet', $key . numbered($i, $opt{size})));

        next if length $client->{out} < STREAM_BUFFER;

        $self->wait_for('room to send',
                        sub { length $client->{out} < STREAM_BUFFER / 2 });
    }
}


sub numbered ($i, $size) {
    state $filler = noise(1 << 16);

    return pack('N', $i) . substr $filler, $i & 0xff, ($size // 16) - 4;
}


# ascending FROM LAST [size=N]: numbered packets, some of them lost, but in
# their order, unharmed, and the last one among them

sub do_ascending ($self, $client, $rest) {
    my ($from, $last, @more) = words($rest);
    my %opt = options("@more");
    my $key = $self->key($from);
    my ($previous, $n) = (0, 0);

    while ($previous != $last) {
        my $body = $self->expect_frame($client, "packet $last (last $previous)",
                                       'recv_packet', sub ($body) { undef });
        my $i = unpack 'x32 N', $body;

        $i > $previous or die "packet $i came after $previous\n";
        $body eq $key . numbered($i, $opt{size}) or die "packet $i is harmed\n";
        ($previous, $n) = ($i, $n + 1);
    }

    $self->{count} = $n;
    die "none was lost\n" if $opt{lossy} && $n == $last;
}


# reach TO: packets, until one arrives, for ways that are still being made; of all
# of them nothing is left

sub do_reach ($self, $client, $rest) {
    my $receiver = $self->client($rest);
    my ($key, $source) = ($self->key($rest), $self->key($client->{name}));
    my $is_ours = sub ($frame) {
        $frame->[0] != frame_type('recv_packet')
            || $frame->[1] !~ /^\Q$source\Ereach \d+$/s;
    };
    my $n = 0;

    local $self->{pick} = 1;

    $self->look_until("a packet at $rest", sub {
        return 1 if $self->look_for($receiver, $is_ours);

        $client->write(frame('send_packet', $key . 'reach ' . ++$n));
        return 0;
    });

    my $last = $source . 'reach ' . ++$n;

    $client->write(frame('send_packet', $key . substr $last, length $source));

    while (1) {
        my $frame = $self->next_frame($receiver, 'the last of them', $is_ours);

        return if $frame->[1] eq $last;
    }
}


# stream TO COUNT [size=N] [window=N]: so many packets, with so many on their way
# at a time, and each arrives, in order, unharmed

sub do_stream ($self, $client, $rest) {
    my ($to, $count, @more) = words($rest);
    my %opt = (size => 16, window => 16, options("@more"));
    my $receiver = $self->client($to);
    my ($key, $source) = ($self->key($to), $self->key($client->{name}));
    my ($sent, $got) = (0, 0);

    while ($got < $count) {
        while ($sent < $count && $sent - $got < $opt{window}) {
            $client->write(frame('send_packet',
                                 $key . numbered(++$sent, $opt{size})));
        }

        my $body = $self->expect_frame($receiver, 'packet ' . ++$got,
                                       'recv_packet', sub ($body) { undef });

        my $why = difference($body, $source . numbered($got, $opt{size}));
        die "packet $got $why\n" if $why;
    }
}

1;
