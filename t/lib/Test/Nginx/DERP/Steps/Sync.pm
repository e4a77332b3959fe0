package Test::Nginx::DERP::Steps::Sync;

# Barriers: steps after which the server is known to have got so far.

use v5.36;

use Test::Nginx::DERP::Frame qw( frame frame_type );


# The server has dealt with all that the client has sent, and the client has got
# what was to be told to it.

sub do_sync ($self, $client, $rest) {
    state $count = 0;

    return $self->do_settle($client, '') if !$client->{logged_in};

    my $token = pack 'a4N', 'sync', ++$count;
    my $is_it = sub ($frame) {
        $frame->[0] != frame_type('pong') || $frame->[1] ne $token;
    };

    $client->write(frame('ping', $token));

    local $self->{pick} = 1;
    $self->next_frame($client, 'the pong of a sync', $is_it);
}


# The worker of the client has read all that the client has sent.  Known by two
# requests on another connection to it: the events of a loop come in their order,
# those posted for its end before the second request.

sub do_settle ($self, $client, $rest) {
    return if $self->{server}->remote;

    my $pid = $self->worker_of($client);
    my $probe = $self->{probes}{$pid} // $self->probe($pid, $pid);

    $self->wait_for('its writing', sub { !$client->wants_write });

    for (1, 2) {
        $self->ask_worker($probe) // die "worker $pid has closed\n";
    }
}


# nothing [via SENDER]: no frame is there after a sync, or after a packet that
# took the way from SENDER

sub do_nothing ($self, $client, $rest) {
    state $count = 0;

    if ($rest =~ /^via (\w+)$/) {
        my $marker = '"marker ' . ++$count . '"';

        $self->do_send($self->client($1), "$client->{name} $marker");
        return $self->do_recv($client, "$1 $marker");
    }

    $self->do_sync($client, '');
    $self->no_more($client);
}

1;
