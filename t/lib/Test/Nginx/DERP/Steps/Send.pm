package Test::Nginx::DERP::Steps::Send;

# Steps that send: frames, raw bytes, many packets, and the end.

use v5.36;

use Test::Nginx::DERP::Frame qw( frame );
use Test::Nginx::DERP::Script qw( options words );


sub do_hold ($self, $client, $rest) { $client->{held} //= '' }


# All at once, or with by=N in pieces, each read by the server before the next.

sub do_flush ($self, $client, $rest) {
    my %opt = options($rest);
    my $bytes = delete $client->{held} // die "nothing is held\n";

    return $client->write($bytes) if !$opt{by};

    while (length $bytes) {
        $client->write(substr $bytes, 0, $opt{by}, '');
        $self->do_settle($client, '');
    }
}


sub do_raw ($self, $client, $rest) {
    $client->write($self->value_of($rest));
}


# frame TYPE [BODY] [length=N]

sub do_frame ($self, $client, $rest) {
    my $length = $rest =~ s/\s+length=(\d+)$// ? $1 : undef;
    my ($type, $word) = words($rest);
    my $body = defined $word ? $self->value_of($word) : '';

    $client->write(frame($type, $body, $length // length $body));
}


sub do_send ($self, $client, $rest) {
    my ($to, $data) = $self->values_of(2, $rest);

    $client->write(frame('send_packet', $self->key($to)
                                        . $self->value_of($data)));
}

sub do_forward ($self, $client, $rest) {
    my ($from, $to, $data) = $self->values_of(3, $rest);

    $client->write(frame('forward_packet', $self->key($from) . $self->key($to)
                                           . $self->value_of($data)));
}

sub do_ping ($self, $client, $rest) {
    $client->write(frame('ping', $self->value_of($rest)));
}

sub do_prefer ($self, $client, $rest) {
    my %byte = (yes => "\1", no => "\0");

    $client->write(frame('note_preferred', $byte{$rest}
                                           // die "yes or no?\n"));
}

sub do_watch ($self, $client, $rest) {
    $client->write(frame('watch_conns', ''));
}

sub do_close_peer ($self, $client, $rest) {
    $client->write(frame('close_peer', $self->key($rest)));
}

sub do_close ($self, $client, $rest) { $client->close }

sub do_reset ($self, $client, $rest) { $client->reset }

sub do_shutdown ($self, $client, $rest) { $client->shutdown }

sub do_rekey ($self, $client, $rest) { $client->rekey }

sub do_deaf ($self, $client, $rest) { $client->set(deaf => 1) }

sub do_hear ($self, $client, $rest) { $client->set(deaf => 0) }

1;
