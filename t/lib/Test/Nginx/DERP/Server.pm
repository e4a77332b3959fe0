package Test::Nginx::DERP::Server;

# The nginx under test, seen from outside: its processes by /proc, its log, its
# files, signals to it.  Or, for trying the language, any DERP server at an
# address, of which nothing is known.

use v5.36;


# host, ports (by name: plain, tls, more); workers (how many); of an nginx also
# root (the server root), start (the command)

sub new ($class, %args) { bless { log_mark => 0, %args }, $class }

sub port ($self, $name) {
    return $self->{ports}{$name} // die "there is no port \"$name\"\n";
}

sub remote ($self) { !defined $self->{root} }

sub path ($self, $name) {
    return $name =~ m{^/} ? $name : "$self->{root}/conf/$name";
}


sub slurp ($path) {
    open my $in, '<:raw', $path or return undef;

    local $/;

    return <$in> // '';
}


sub master ($self) {
    my $pid = slurp("$self->{root}/logs/nginx.pid") // return undef;

    return $pid =~ /^(\d+)$/ ? $1 : undef;
}


sub state_of ($pid) {
    my $stat = slurp("/proc/$pid/stat") // return 'X';

    return $stat =~ /\) ([A-Za-z]) [^()]*$/ ? $1 : 'X';
}

sub alive ($pid) { state_of($pid) !~ /[XZ]/ }

sub is_stopped ($pid) { state_of($pid) eq 'T' }


# pid => title of the master's children that are workers

sub workers ($self) {
    my $master = $self->master // return ();
    my $children = slurp("/proc/$master/task/$master/children") // '';
    my %title;

    for my $pid (grep { alive($_) } split ' ', $children) {
        my $title = slurp("/proc/$pid/cmdline") // next;

        $title{$pid} = $title if $title =~ /worker process/;
    }

    return %title;
}


# those that take connections

sub serving ($self) {
    my %title = $self->workers;

    return sort { $a <=> $b }
           grep { $title{$_} !~ /shutting down/ } keys %title;
}


# The worker that holds the other end of a connection between two local ports.

sub worker_of ($self, $server_port, $client_port) {
    my $inode = inode_of($server_port, $client_port) // return undef;
    my %title = $self->workers;

    for my $pid (keys %title) {
        for my $fd (glob "/proc/$pid/fd/*") {
            return $pid if (readlink($fd) // '') eq "socket:[$inode]";
        }
    }

    return undef;
}


sub inode_of ($local, $remote) {
    for my $table ('/proc/net/tcp', '/proc/net/tcp6') {
        for my $line (split /\n/, slurp($table) // '') {
            my @field = split ' ', $line;

            next if @field < 10 || $field[1] !~ /:([0-9A-F]{4})$/;
            next if hex $1 != $local;
            next if $field[2] !~ /:([0-9A-F]{4})$/ || hex $1 != $remote;

            return $field[9];
        }
    }

    return undef;
}


sub log_path ($self) { "$self->{root}/logs/error.log" }

# The log's lines from an offset on (the last mark by default).

sub log_lines ($self, $from = $self->{log_mark}) {
    return split /(?<=\n)/, substr slurp($self->log_path) // '', $from;
}

# What came before is no more looked at.

sub mark_log ($self) { $self->{log_mark} = -s $self->log_path // 0 }

sub start ($self) { system($self->{start}) == 0 }

sub signal ($self, $signal) {
    my $pid = $self->master // die "nginx is not running\n";

    kill $signal, $pid or die "cannot send $signal to nginx: $!\n";
}

1;
