package Test::Nginx::DERP::Steps::Server;

# What happens to the server: signals, deaths, its log and files.  Left out where
# the server is no nginx of ours.

use v5.36;

use List::Util qw( none );

use Test::Nginx::DERP::Frame qw( printable );
use Test::Nginx::DERP::Script qw( regex );
use Test::Nginx::DERP::Server;


# reload, or "reload fails": HUP, with the next configuration if the test has
# one; then the new workers serve and the old ones do no more

sub nginx_reload ($self, $rest) {
    my $server = $self->{server};
    my %old = map { $_ => 1 } $server->serving;

    $self->{dirty} = 1;
    $self->{rewrite}->(++$self->{generation});
    $server->signal('HUP');

    return if $rest eq 'fails';

    $self->look_until('new workers', sub {
        my @serving = $server->serving;

        return @serving == $server->{workers} && none { $old{$_} } @serving;
    });
}


sub nginx_quit ($self, $rest) {
    $self->{dirty} = 1;
    $self->{master} = $self->{server}->master;
    $self->{server}->signal('QUIT');
}

sub nginx_exit ($self, $rest) {
    my $pid = $self->{master} // die "there was no quit\n";

    $self->look_until('nginx to exit',
                    sub { !Test::Nginx::DERP::Server::alive($pid) });
}

sub nginx_start ($self, $rest) {
    my $server = $self->{server};

    $server->start or die "nginx does not start\n";
    $self->look_until('workers', sub {
        my @serving = $server->serving;

        return @serving == $server->{workers};
    });
}


# upgrade: USR2, and QUIT to the old master once the new one serves; "exit" then
# waits for the old one

sub nginx_upgrade ($self, $rest) {
    my $server = $self->{server};
    my $old = $server->master;

    $self->{dirty} = 1;
    $self->{master} = $old;
    $server->signal('USR2');

    $self->look_until('a new master', sub {
        my $new = $server->master // $old;
        my @serving = $server->serving;

        return $new != $old && @serving == $server->{workers};
    });

    kill 'QUIT', $old or die "cannot quit the old nginx: $!\n";
}


# kill worker of CLIENT, kill owner of /PATH: with -9; another takes its place

sub nginx_kill ($self, $rest) {
    my ($what, $name) = $rest =~ m{^(worker|owner) of (/?\w+)$}
        or die "kill what?\n";
    my $server = $self->{server};
    my $pid = $what eq 'worker' ? $self->worker_of($self->client($name))
                                : $self->owner_of($name);

    $self->{dirty} = 1;
    push @{ $self->{allowed} }, qr/process $pid exited on signal 9/;
    kill 'KILL', $pid;

    $self->look_until('a new worker', sub {
        my @serving = $server->serving;

        return @serving == $server->{workers} && none { $_ == $pid } @serving;
    });
}


# the worker that has the link of "main" to that path

sub owner_of ($self, $path) {
    my $server = $self->{server};
    my @linked;

    $self->look_until("a link to $path", sub {
        @linked = map { m{ (\d+)#\d+: .*"main" is linked to \S+\Q$path\E$} }
                      $server->log_lines;
    });

    return $linked[-1];
}


# freeze worker of CLIENT, thaw worker of CLIENT: it does nothing, for a while

sub nginx_freeze ($self, $rest) {
    my ($name) = $rest =~ /^worker of (\w+)$/ or die "freeze what?\n";
    my $pid = $self->worker_of($self->client($name));

    $self->{frozen}{$pid} = 1;
    kill 'STOP', $pid;

    $self->look_until('it to stop', sub {
        Test::Nginx::DERP::Server::is_stopped($pid);
    });
}

sub nginx_thaw ($self, $rest) {
    my ($name) = $rest =~ /^worker of (\w+)$/ or die "thaw what?\n";
    my $pid = $self->worker_of($self->client($name));

    delete $self->{frozen}{$pid} or die "worker $pid is not frozen\n";
    kill 'CONT', $pid;
}


# worker of A is [not] worker of B; always true with one worker

sub nginx_worker ($self, $rest) {
    my ($one, $not, $two) =
        $rest =~ /^of (\w+) is (not )?worker of (\w+)$/
            or die "which worker?\n";

    my @pid = map { $self->worker_of($self->client($_)) } $one, $two;

    return if $not && $self->{server}{workers} == 1;
    die "they are $pid[0] and $pid[1]\n" if ($pid[0] == $pid[1]) == !!$not;
}


# new-worker of CLIENT: it is in a worker of the last reload

sub nginx_new_worker ($self, $rest) {
    my ($name) = $rest =~ /^of (\w+)$/ or die "of whom?\n";
    my $pid = $self->worker_of($self->client($name));

    die "worker $pid is an old one\n"
        if none { $_ == $pid } $self->{server}->serving;
}


# log [Nx] /re/: waits until so many lines match; key:NAME in it is that key in hex

sub nginx_log ($self, $rest) {
    my $server = $self->{server};
    my $times = $rest =~ s/^(\d+)x\s+// ? $1 : 1;
    my $wanted = regex($rest =~ s/\bkey:(\w+)/unpack 'H*', $self->key($1)/ger);

    $self->look_until("the log to say it, $times times", sub {
        (grep { $_ =~ $wanted } $server->log_lines) >= $times
    });
}

sub nginx_no_log ($self, $rest) {
    my $unwanted = regex($rest);
    my @lines = grep { $_ =~ $unwanted } $self->{server}->log_lines;

    die "the log says $lines[0]" if @lines;
}

sub nginx_allow ($self, $rest) { push @{ $self->{allowed} }, regex($rest) }


# file NAME mode 0600, file NAME like /re/, file NAME absent

sub nginx_file ($self, $rest) {
    my ($name, $what, $wanted) = split ' ', $rest, 3;
    my $path = $self->{server}->path($name);

    if ($what eq 'absent') {
        die "it is there\n" if -e $path;
        return;
    }

    -e $path or die "there is no such file\n";

    if ($what eq 'mode') {
        my $mode = sprintf '%04o', (stat _)[2] & 07777;

        $mode eq $wanted or die "it is $mode\n";
        return;
    }

    my $text = Test::Nginx::DERP::Server::slurp($path);

    $text =~ regex($wanted) or die "it holds ", printable($text), "\n";
}


# The next connection may be told another server key.

sub nginx_forget ($self, $rest) { $self->{server_keys} = {} }

1;
