package Test::Nginx::DERP::Steps::Login;

# Steps of the login, good and bad, and the server's key, which must not change.

use v5.36;

use JSON::PP ();

use Test::Nginx::DERP::Frame qw( frame );
use Test::Nginx::DERP::Script qw( options );
use Test::Nginx::DERP::Sodium qw( seal unseal );

# of ClientInfo: key, nonce, MAC
use constant INFO_OVERHEAD => 32 + 24 + 16;


# ClientInfo; options as under LOGIN in Test::Nginx::DERP

sub do_info ($self, $client, $rest) {
    my %opt = options($rest);

    $self->write_info($client, \%opt);
}


sub do_login ($self, $client, $rest) {
    $self->do_info($client, $rest);
    $self->do_server_info($client, '');
}


sub write_info ($self, $client, $opt) {
    my $body = $self->info_body($client, $opt);

    if (defined $opt->{flip}) {
        substr($body, $opt->{flip}, 1) ^.= "\x01";
    }

    $body = substr $body, 0, $opt->{cut} if defined $opt->{cut};
    $client->write(frame('client_info', $body, $opt->{length} // length $body));
}


sub info_body ($self, $client, $opt) {
    my $pair = $self->pair($opt->{key} // $client->{name});

    $self->{keys}{ $client->{name} } = $pair;

    my $claimed = defined $opt->{claim} ? $self->key($opt->{claim})
                                        : $pair->[0];
    my $json = $self->info_json($opt);

    $json .= ' ' x ($opt->{size} - INFO_OVERHEAD - length $json)
        if defined $opt->{size};

    return $claimed . seal($json, $self->box_key($client, $opt), $pair->[1]);
}


# Whom the box is for: another than the server makes it a bad one.

sub box_key ($self, $client, $opt) {
    return $self->key($opt->{to}) if defined $opt->{to};
    return $self->server_key($client->{path});
}


sub info_json ($self, $opt) {
    return $self->value_of($opt->{json}) if defined $opt->{json};

    my $mesh = $opt->{mesh} // '""';

    $mesh = $mesh eq '1' ? $self->{mesh_key} : $self->value_of($mesh);

    return JSON::PP->new->canonical->encode({
        version => 2, CanAckPings => JSON::PP::true,
        length $mesh ? (meshKey => $mesh) : (),
        $opt->{prober} ? (IsProber => JSON::PP::true) : (),
    });
}


# Login, seen from the client

sub note_server_key ($self, $path, $key) {
    my $known = $self->{server_keys}{$path} //= $key;

    $known eq $key or die "the server's key changed\n";
}


# Of a server not met yet, by an upgrade of our own.

sub server_key ($self, $path) {
    return $self->{server_keys}{$path} if defined $self->{server_keys}{$path};

    my $probe = $self->probe("key of $path");

    $self->write_upgrade($probe, { at => $path });
    $self->do_status($probe, '101');
    $probe->close;

    return $self->{server_keys}{$path}
        // die "no Derp-Public-Key came\n";
}


sub do_server_key ($self, $client, $rest) {
    my $magic = $Test::Nginx::DERP::Frame::MAGIC;
    my $body = $self->expect_frame($client, 'ServerKey', 'server_key',
        sub ($body) {
            length $body == 40 && substr($body, 0, 8) eq $magic
                ? undef : 'came as ServerKey';
        });

    $self->note_server_key($client->{path}, substr $body, 8);
}


sub do_server_info ($self, $client, $rest) {
    my $secret = $self->pair($client->{name})->[1];
    my $from = $self->server_key($client->{path});
    my $body = $self->expect_frame($client, 'ServerInfo', 'server_info',
                                   sub ($body) { undef });

    my $text = unseal($body, $from, $secret)
        // die "ServerInfo cannot be opened\n";
    my $info = eval { JSON::PP->new->decode($text) }
        // die "ServerInfo is no JSON: $text\n";

    ($info->{version} // 0) == 2 or die "ServerInfo says $text\n";
    $client->{logged_in} = 1;
}

1;
