package Test::Nginx::DERP::Client;

# One connection: a socket, plain or TLS, that never blocks, with what has come
# in and what is still to go out.  It knows how to open, move bytes and end; what
# the bytes mean is the conversation's.

use v5.36;

use Errno qw( EAGAIN EWOULDBLOCK EINTR );
use FFI::CheckLib qw( find_lib_or_die );
use FFI::Platypus;
use IO::Socket::IP;
use IO::Socket::SSL;
use Socket qw( IPPROTO_TCP SOCK_STREAM SOL_SOCKET SO_LINGER SO_RCVBUF
               TCP_NODELAY );

use constant READ_SIZE => 1 << 17;

# Counts whatever changes which sockets are to be read and written, so that this
# is found out anew only then.
our $Changes = 0;


sub new ($class, $name) {
    my $self = bless { name => $name }, $class;

    $self->clear;

    return $self;
}


sub clear ($self) {
    delete @$self{qw( sock tls worker response seen )};

    @$self{qw( in out held frames )} = ('', '', undef, []);
    @$self{qw( eof deaf blocked logged_in path )} = (0, 0, 0, 0, '/derp');
    $Changes++;
}


# host, port, tls (true or false), rcvbuf, timeout

sub open ($self, %to) {
    $self->clear;

    my $sock = IO::Socket::IP->new(
        PeerHost => $to{host}, PeerPort => $to{port}, Type => SOCK_STREAM,
        Timeout => $to{timeout},

        # before the connection is made, for the window that is announced
        $to{rcvbuf}
            ? (Sockopts => [ [ SOL_SOCKET, SO_RCVBUF, pack 'i', $to{rcvbuf} ] ])
            : (),
    ) or die "cannot connect to $to{host} port $to{port}: $@\n";

    $sock->setsockopt(IPPROTO_TCP, TCP_NODELAY, 1);
    $sock->blocking(1);

    $self->{tls} = !!$to{tls};
    $self->{sock} = $sock;
    $self->handshake(%to) if $to{tls};
    $sock->blocking(0);
    $Changes++;
}


sub handshake ($self, %to) {
    IO::Socket::SSL->start_SSL(
        $self->{sock},
        SSL_reuse_ctx => context($to{alpn} // '', $to{fragments} // 0),
        SSL_hostname => 'localhost', Timeout => $to{timeout},
    ) or die "the TLS handshake failed: $SSL_ERROR\n";
}


# Made once: a new one takes longer than all else of a connection.

sub context ($alpn, $fragments) {
    state %context;

    return $context{"$alpn $fragments"} //= do {
        my $context = IO::Socket::SSL::SSL_Context->new(
            SSL_verify_mode => SSL_VERIFY_NONE,
            length $alpn ? (SSL_alpn_protocols => [$alpn]) : (),
        ) // die "no TLS context: $SSL_ERROR\n";

        limit_fragments($context->{context}, $fragments) if $fragments;
        $context;
    };
}


# RFC 6066: 512, 1024, 2048 or 4096 bytes a record are numbered from 1.

sub limit_fragments ($context, $bytes) {
    openssl('SSL_CTX_set_tlsext_max_fragment_length', 'opaque', 'uint8')
        ->call($context, int(0.5 + log($bytes / 256) / log(2))) == 1
        or die "no fragments of $bytes bytes\n";
}

sub openssl ($name, @types) {
    state $ffi = FFI::Platypus->new(api => 2,
                                    lib => find_lib_or_die(lib => 'ssl'));

    return $ffi->function($name => [@types] => 'int');
}


# TLS 1.3's KeyUpdate, and the other side is to send one as well.

sub rekey ($self) {
    state $key_update = openssl('SSL_key_update', 'opaque', 'int');

    my $ssl = $self->{sock}->_get_ssl_object;

    forget_errors();

    $key_update->call($ssl, 1);
    Net::SSLeay::do_handshake($ssl);
}


sub is_open ($self) { defined $self->{sock} }

sub local_address ($self) {
    return ($self->{sock}->sockhost, $self->{sock}->sockport);
}

sub local_port ($self) { $self->{sock}->sockport }

sub wants_read ($self) { $self->{sock} && !$self->{eof} && !$self->{deaf} }

sub wants_write ($self) { $self->{sock} && $self->{blocked} }

sub set ($self, $flag, $value) {
    return if $self->{$flag} == $value;

    $self->{$flag} = $value;
    $Changes++;
}


# Bytes go out at once, or wait together with others while held.

sub write ($self, $bytes) {
    die "$self->{name} is not connected\n" if !$self->{sock};

    if (defined $self->{held}) {
        $self->{held} .= $bytes;

    } else {
        $self->{out} .= $bytes;
        $self->flush;
    }
}


sub flush ($self) {
    while (length $self->{out}) {
        forget_errors();

        my $n = $self->{sock}->syswrite($self->{out});

        if (defined $n) {
            substr $self->{out}, 0, $n, '';
            next;
        }

        return $self->set(blocked => 1) if $self->again;

        # the other side has gone: reading will tell
        $self->{out} = '';
    }

    $self->set(blocked => 0);
}


sub fill ($self) {
    while ($self->wants_read) {
        forget_errors();

        my $n = $self->{sock}->sysread($self->{in}, READ_SIZE,
                                       length $self->{in});
        next if $n;
        return if !defined $n && $self->again;

        $self->set(eof => 1);
    }
}


# OpenSSL has one queue of errors for all connections, and takes one left by
# another for one of this.

sub forget_errors () { Net::SSLeay::ERR_clear_error() }


sub again ($self) {
    return $SSL_ERROR == SSL_WANT_READ || $SSL_ERROR == SSL_WANT_WRITE
        if $self->{tls} && $!{EWOULDBLOCK};

    return $!{EAGAIN} || $!{EWOULDBLOCK} || $!{EINTR};
}


sub close ($self) {
    my $sock = delete $self->{sock} // return;

    $sock->close;
    $Changes++;
}


# The connection ends with a RST.

sub reset ($self) {
    my $sock = $self->{sock} // return;

    $sock->setsockopt(SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0);

    return $self->close if !$self->{tls};

    # without TLS's own goodbye
    delete $self->{sock};
    $sock->close(SSL_no_shutdown => 1);
    $Changes++;
}


sub shutdown ($self) { CORE::shutdown $self->{sock}, 1 }

1;
