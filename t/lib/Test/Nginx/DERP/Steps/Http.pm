package Test::Nginx::DERP::Steps::Http;

# Steps of the HTTP phase, and of HTTP/2 no more than a refusal needs.

use v5.36;

use List::Util qw( none );

use Test::Nginx::DERP::Frame qw( printable );
use Test::Nginx::DERP::Script qw( matches options );


sub do_upgrade ($self, $client, $rest) {
    my %opt = options($rest);

    $self->write_upgrade($client, \%opt);
    $self->accept_upgrade($client) if !$opt{fast} && !defined $client->{held};
}


sub write_upgrade ($self, $client, $opt) {
    my $with = $opt->{with} // [];
    my @more = map { $self->value_of($_) } ref $with ? @$with : $with;

    my $uri = $opt->{at} // '/derp';

    $client->{path} = $uri =~ s/\?.*//r;
    $self->write_request($client, "GET $uri HTTP/1.1",
                         'Upgrade: DERP', 'Connection: Upgrade',
                         $opt->{fast} ? 'Derp-Fast-Start: 1' : (), @more);
}


sub accept_upgrade ($self, $client) {
    $self->do_status($client, '101');
    $self->do_header($client, 'Upgrade: DERP');
    $self->do_header($client, 'Derp-Version: 2');
}


# request GET /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | | body

sub do_request ($self, $client, $rest) {
    my ($head, $body) = split /\s*\|\s*\|\s*/, $rest, 2;
    my ($line, @headers) = split /\s*\|\s*/, $head;

    $client->{path} = $1 if $line =~ m{^\S+ (/[^ ?]*)};
    $self->write_request($client, $line, @headers, defined $body ? \$body : ());
}


sub write_request ($self, $client, $line, @headers) {
    my $body = @headers && ref $headers[-1] ? ${ pop @headers } : '';

    unshift @headers, 'Host: localhost'
        if $line =~ m{HTTP/1.1$} && none { /^Host:/i } @headers;

    $client->{method} = (split ' ', $line)[0];
    delete $client->{response};
    $client->write(join "\r\n", $line, @headers, '', $body);
}


sub response ($self, $client, $method) {
    my ($head, $response);

    $self->wait_for(
        sub { "the response to $method, with " . printable($client->{in}) },
        sub {
            $response //= parse_head(\$client->{in});
            return $client->{eof} if !$response;

            my $length = $method eq 'HEAD' || $response->{status} =~ /^1|204|304/
                         ? 0 : $response->{headers}{'content-length'}[0] // 0;

            return $client->{eof} if length $client->{in} < $length;

            $response->{body} = substr $client->{in}, 0, $length, '';
            return 1;
        }
    );

    return $client->{response} = $response;
}


sub parse_head ($in) {
    $$in =~ s{^HTTP/1\.[01] (\d{3})[^\r\n]*\r\n(.*?)\r\n\r\n}{}s
        or $$in =~ s{^HTTP/1\.[01] (\d{3})[^\r\n]*()\r\n\r\n}{}s or return undef;

    my ($status, $text) = ($1, $2);
    my %headers;

    for (split /\r\n/, $text) {
        my ($name, $value) = split /:\s*/, $_, 2;

        push @{ $headers{ lc $name } }, $value;
    }

    return { status => $status, headers => \%headers };
}


sub do_status ($self, $client, $rest) {
    my $response = $self->response($client, $client->{method})
        // die "the connection ended without a response, after ",
               printable($client->{in}), "\n";

    my $wanted = $rest =~ s/x/\\d/gr;

    $response->{status} =~ /^$wanted$/ or die "it is $response->{status}\n";

    my $key = $response->{headers}{'derp-public-key'} // return;

    $key->[0] =~ /^[0-9a-f]{64}$/ or die "Derp-Public-Key is \"$key->[0]\"\n";
    $self->note_server_key($client->{path}, pack 'H*', $key->[0]);
}


# header Name: value, header Name: /re/, header !Name

sub do_header ($self, $client, $rest) {
    my $headers = ($client->{response} // die "there is no response\n")
                      ->{headers};

    if ($rest =~ /^!(\S+)$/) {
        my $values = $headers->{ lc $1 } // return;

        die "it is \"@$values\"\n";
    }

    my ($name, $wanted) = split /:\s*/, $rest, 2;
    my $values = $headers->{ lc $name } // die "there is no such header\n";

    @$values == 1 or die "it came ", scalar @$values, " times\n";
    matches($values->[0], $wanted) or die "it is \"$values->[0]\"\n";
}


sub do_body ($self, $client, $rest) {
    my $body = ($client->{response} // die "there is no response\n")->{body};
    my $same = $rest =~ m{^/} ? matches($body, $rest)
                              : $body eq $self->value_of($rest);

    $same or die "it is ", printable($body), "\n";
}


# HTTP/2, no more of it than a refusal needs

sub do_h2_get ($self, $client, $rest) {
    my $headers = "\x82\x86" . "\x04" . chr(length $rest) . $rest
                  . "\x41\x09localhost";

    $client->write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . h2_frame(4, 0, 0, '')
                   . h2_frame(1, 5, 1, $headers));
}

sub h2_frame ($type, $flags, $stream, $body) {
    return pack('Cn CC N', length($body) >> 16, length($body) & 0xffff, $type,
                $flags, $stream) . $body;
}


sub do_h2_status ($self, $client, $rest) {
    my $headers;

    $self->wait_for('HEADERS', sub {
        $headers = h2_headers(\$client->{in});
        return defined $headers || $client->{eof};
    });

    my $status = h2_status($headers // die "the connection ended\n");
    my $wanted = $rest =~ s/x/\\d/gr;

    $status =~ /^$wanted$/ or die "it is $status\n";
}


sub h2_headers ($in) {
    while (length $$in >= 9) {
        my ($high, $low, $type) = unpack 'CnC', $$in;
        my $length = ($high << 16) + $low;

        return undef if length $$in < 9 + $length;

        my $frame = substr $$in, 0, 9 + $length, '';

        return substr $frame, 9 if $type == 1;
    }

    return undef;
}


# The first field of a response: from the static table or spelled out.

sub h2_status ($headers) {
    my %indexed = (0x88 => 200, 0x89 => 204, 0x8a => 206, 0x8b => 304,
                   0x8c => 400, 0x8d => 404, 0x8e => 500);
    my $first = ord $headers;

    # a change of the table's size may come first
    return h2_status(substr $headers, 1) if ($first & 0xe0) == 0x20;
    return $indexed{$first} if $indexed{$first};
    return $1 if $headers =~ /^[\x08\x48]\x03(\d{3})/;

    die 'HEADERS begin with ', printable($headers), "\n";
}

1;
