package Test::Nginx::DERP::Sodium;

# Keys and boxes (NaCl crypto_box) by libsodium.  A key is 32 raw bytes, a box
# is its 24-byte nonce followed by the sealed text, as DERP sends it.

use v5.36;

use Exporter qw( import );
use FFI::CheckLib qw( find_lib_or_die );
use FFI::Platypus;
use FFI::Platypus::Buffer qw( scalar_to_pointer );

our @EXPORT_OK = qw( keypair public_key seal unseal noise );

use constant {
    KEY_LEN => 32,
    NONCE_LEN => 24,
    MAC_LEN => 16,
};

my $ffi = FFI::Platypus->new(api => 1);
$ffi->lib(find_lib_or_die(lib => 'sodium'));

$ffi->attach(sodium_init => [] => 'int');
$ffi->attach(randombytes_buf => [qw( opaque size_t )] => 'void');
$ffi->attach(randombytes_buf_deterministic =>
             [qw( opaque size_t opaque )] => 'void');
$ffi->attach(crypto_box_keypair => [qw( opaque opaque )] => 'int');
$ffi->attach(crypto_scalarmult_base => [qw( opaque opaque )] => 'int');
$ffi->attach(crypto_box_easy =>
             [qw( opaque opaque uint64 opaque opaque opaque )] => 'int');
$ffi->attach(crypto_box_open_easy =>
             [qw( opaque opaque uint64 opaque opaque opaque )] => 'int');

sodium_init() >= 0 or die "libsodium cannot be used\n";


sub ptr { scalar_to_pointer($_[0]) }

sub zeros ($n) { "\0" x $n }


# (public, secret)

sub keypair () {
    my ($public, $secret) = (zeros(KEY_LEN), zeros(KEY_LEN));

    crypto_box_keypair(ptr($public), ptr($secret));

    return ($public, $secret);
}


sub public_key ($secret) {
    my $public = zeros(KEY_LEN);

    crypto_scalarmult_base(ptr($public), ptr($secret));

    return $public;
}


sub seal ($text, $to, $secret) {
    my $nonce = zeros(NONCE_LEN);
    my $box = zeros(MAC_LEN + length $text);

    randombytes_buf(ptr($nonce), NONCE_LEN);

    crypto_box_easy(ptr($box), ptr($text), length $text, ptr($nonce),
                    ptr($to), ptr($secret)) == 0
        or die "crypto_box_easy() failed\n";

    return $nonce . $box;
}


# undef if the box is not from that sender, or not for us

sub unseal ($sealed, $from, $secret) {
    return undef if length $sealed < NONCE_LEN + MAC_LEN;

    my $nonce = substr $sealed, 0, NONCE_LEN;
    my $box = substr $sealed, NONCE_LEN;
    my $text = zeros(length($box) - MAC_LEN + 1);

    return undef if crypto_box_open_easy(ptr($text), ptr($box), length $box,
                                         ptr($nonce), ptr($from),
                                         ptr($secret));
    chop $text;

    return $text;
}


# Incompressible bytes that are the same in every run.

sub noise ($len, $number = 0) {
    my $seed = pack 'x28 N', $number;
    my $bytes = zeros($len + 1);

    randombytes_buf_deterministic(ptr($bytes), $len, ptr($seed));
    chop $bytes;

    return $bytes;
}

1;
