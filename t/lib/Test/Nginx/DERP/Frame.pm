package Test::Nginx::DERP::Frame;

# DERP frames: type (1), length (4, big-endian), body.

use v5.36;

use List::Util qw( min );
use Exporter qw( import );

our @EXPORT_OK = qw( difference frame frame_type printable take_frame type_name );

our $MAGIC = "DERP\xf0\x9f\x94\x91";
our $DISCO = "TS\xf0\x9f\x92\xac";

# A client would refuse what is longer.
use constant MAX_LEN => 1 << 20;

my %TYPE = (
    server_key => 0x01,
    client_info => 0x02,
    server_info => 0x03,
    send_packet => 0x04,
    recv_packet => 0x05,
    keepalive => 0x06,
    note_preferred => 0x07,
    peer_gone => 0x08,
    peer_present => 0x09,
    forward_packet => 0x0a,
    watch_conns => 0x10,
    close_peer => 0x11,
    ping => 0x12,
    pong => 0x13,
    health => 0x14,
    restarting => 0x15,
);

my %NAME = reverse %TYPE;


sub frame_type ($word) {
    return $TYPE{$word} // ($word =~ /^0x[0-9a-f]+$/i ? hex $word : undef)
        // die "no frame type \"$word\"\n";
}


sub type_name ($type) {
    return $NAME{$type} // sprintf '0x%02x', $type;
}


sub frame ($type, $body, $length = length $body) {
    return pack('CN', frame_type($type), $length) . $body;
}


# Takes the first whole frame off the buffer: (type, body), or nothing.

sub take_frame ($buffer) {
    return if length $$buffer < 5;

    my ($type, $length) = unpack 'CN', $$buffer;

    die sprintf "a frame of type 0x%02x and length %u came\n", $type, $length
        if $length > MAX_LEN;

    return if length $$buffer < 5 + $length;

    my $whole = substr $$buffer, 0, 5 + $length, '';

    return ($type, substr $whole, 5);
}


# Bytes as a person can read them, cut when long.

sub printable ($bytes, $max = 48) {
    my $head = substr $bytes, 0, $max;

    $head =~ s/([\\"])/\\$1/g;
    $head =~ s/\n/\\n/g;
    $head =~ s/\r/\\r/g;
    $head =~ s/([^\x20-\x7e])/sprintf '\\x%02x', ord $1/ge;

    return length $bytes > $max
        ? sprintf '"%s"... (%d bytes)', $head, length $bytes
        : qq{"$head"};
}


# What is wrong with bytes that came, or nothing.

sub difference ($got, $wanted) {
    return undef if $got eq $wanted;

    my $at = ($got ^. $wanted) =~ /^(\0*)/ ? length $1 : 0;

    return sprintf 'came, other than expected from byte %d on: %s', $at,
                   printable(substr $wanted, min($at, length $wanted));
}

1;
