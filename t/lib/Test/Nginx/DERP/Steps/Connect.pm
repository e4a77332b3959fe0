package Test::Nginx::DERP::Steps::Connect;

# Steps that make connections, in the worker that is wanted.

use v5.36;

use Time::HiRes qw( time );

use Test::Nginx::DERP::Client;
use Test::Nginx::DERP::Script qw( options );

use constant WORKER_TRIES => 500;


sub do_open ($self, $client, $rest) {
    my %opt = options($rest);

    return $self->open_anywhere($client, \%opt)
        if !defined $opt{worker} || $self->{server}->remote;

    my $wanted = $self->wanted_worker($opt{worker});

    for (1 .. WORKER_TRIES) {
        $self->open_anywhere($client, \%opt);

        my $pid = $self->ask_worker($client);

        if (defined $pid && $wanted->($pid)) {
            $client->{worker} = $pid;
            return;
        }

        $client->close;
    }

    die "no connection came to worker $opt{worker}\n";
}


sub open_anywhere ($self, $client, $opt) {
    my $server = $self->{server};
    my $tls = $opt->{plain} ? 0 : $opt->{tls} || $self->{tls};

    $client->open(
        host => $opt->{v6} ? '::1' : $server->{host},
        port => $server->port($opt->{port} // ($tls ? 'tls' : 'plain')),
        tls => $tls, alpn => $opt->{alpn}, rcvbuf => $opt->{rcvbuf},
        fragments => $opt->{fragments},
        timeout => $self->{timeout},
    );

    $client->{opened} = time;
}


# The pid of the worker that has the connection, which stays open for more.

sub ask_worker ($self, $client) {
    $client->write("GET /worker HTTP/1.1\r\nHost: localhost\r\n\r\n");

    my $response = $self->response($client, 'GET') // return undef;

    return $response->{body} =~ /^(\d+)$/ ? $1 : undef;
}


# worker=1, worker=2: different ones as far as there are enough; worker=a:
# where a is; worker=not-a: another one, if there is one.

sub wanted_worker ($self, $spec) {
    my $server = $self->{server};

    return $self->numbered_worker(($spec - 1) % $server->{workers})
        if $spec =~ /^\d+$/;

    my $other = $spec =~ s/^not-//;
    my $pid_of_it = $self->worker_of($self->client($spec));

    return sub ($pid) { 1 } if $other && $server->{workers} == 1;
    return sub ($pid) { ($pid == $pid_of_it) != $other };
}


sub numbered_worker ($self, $n) {
    my $slots = $self->{slots};
    my %serving = map { $_ => 1 } $self->{server}->serving;

    $_ = undef for grep { defined && !$serving{$_} } @$slots;

    return sub ($pid) {
        return $pid == $slots->[$n] if defined $slots->[$n];
        return 0 if grep { defined && $_ == $pid } @$slots;

        $slots->[$n] = $pid;
    };
}


sub worker_of ($self, $client) {
    my $server = $self->{server};

    return 0 if $server->remote;

    die "$client->{name} is not connected\n" if !$client->is_open;

    $self->look_until('a worker to accept the connection', sub {
        $client->{worker} //= $server->worker_of($client->{sock}->peerport,
                                                 $client->local_port);
    });

    return $client->{worker};
}


sub do_connect ($self, $client, $rest) {
    my %opt = options($rest);

    $self->do_open($client, $rest);
    $self->pair($client->{name});

    $client->{held} = '' if $opt{fast} || $opt{early};
    $self->write_upgrade($client, \%opt);

    if ($opt{fast} || $opt{early}) {
        $self->write_info($client, \%opt);
        $self->do_flush($client, '');
    }

    $self->accept_upgrade($client) if !$opt{fast};
    $self->do_server_key($client, '');
    $self->write_info($client, \%opt) if !$opt{fast} && !$opt{early};
    $self->do_server_info($client, '');
}


# A plain connection of our own, in that worker if one is named.

sub probe ($self, $name, $pid = undef) {
    my $probe = $self->{probes}{$name} = Test::Nginx::DERP::Client->new($name);

    for (1 .. WORKER_TRIES) {
        $self->open_anywhere($probe, { plain => 1 });

        return $probe if !$pid;
        return $probe if ($self->ask_worker($probe) // 0) == $pid;

        $probe->close;
    }

    die "no connection came to worker $pid\n";
}

1;
