package Test::Nginx::DERP::Runner;

# Runs the blocks of a file once for each number of workers and each transport:
# makes the configuration, has Test::Nginx start nginx with it (or goes on with
# the one that runs, when nothing differs), carries out the conversation, and
# looks at the log.

use v5.36;

use Cwd qw( abs_path );
use File::Basename qw( basename dirname );
use FFI::Platypus;
use File::Path qw( make_path );
use IO::Socket::IP;
use IO::Socket::SSL::Utils qw( CERT_create KEY_create_ec PEM_cert2string
                               PEM_key2string );
use Test::More;

use Test::Nginx::DERP::Conversation;
use Test::Nginx::DERP::Script qw( regex );
use Test::Nginx::DERP::Server;

use constant {
    TOP => abs_path(dirname(__FILE__) . '/../../../../..'),
    MESH_KEY => '0123456789abcdef' x 4,
    EXIT_SECONDS => 30,
    TIMEOUT => $ENV{TEST_DERP_TIMEOUT} // 30,
    RLIMIT_NOFILE => 7,
};

# What no test leaves in the log unless it says so.
my $BAD_LINE = qr/
    \[ (?: alert | crit | emerg ) \]
    | \[error\] .* \b derp
    | exited\ on\ signal | exited\ with\ code\ [1-9]
    | ERROR:\ \w+Sanitizer | runtime\ error:
    | open\ socket\ \#\d+\ left\ in\ connection
/x;

my $Util = 'Test::Nginx::Util';

my ($Server, $Signature, $Address);
my ($Original, $Block, $Variant, $Conversation, $HttpHelper);
my $Certificate;


# Before Test::Nginx is loaded: it reads these at once.  Each file has its own
# ports and root, so that files can run side by side.

sub prepare_environment () {
    my $name = basename($0, '.t');
    my $base = $ENV{TEST_DERP_SERVROOT} = $ENV{TEST_NGINX_SERVROOT}
               // TOP . '/build/t/servroot';

    make_path($base);

    $ENV{TEST_NGINX_SERVROOT} = abs_path($base) . "/$name";
    $ENV{TEST_NGINX_LOG_LEVEL} //= 'info';

    my $port = $ENV{TEST_NGINX_PORT} // free_ports(4);

    $ENV{TEST_NGINX_SERVER_PORT} = $port;
    $ENV{TEST_NGINX_TLS_PORT} = $port + 1;
    $ENV{TEST_NGINX_PORT_2} = $port + 2;
    $ENV{TEST_NGINX_PORT_3} = $port + 3;

    # a path of few bytes; there may be one left by an nginx that was killed
    $ENV{TEST_NGINX_SOCKET} = "/tmp/ngx_derp_$port.sock";
    unlink $ENV{TEST_NGINX_SOCKET};

    my $module = TOP . '/build/ngx_http_derp_module.so';

    $ENV{TEST_DERP_MODULE} //= -e $module ? $module : '';
    $Address = $ENV{TEST_DERP_ADDRESS};
}


# As many files as are allowed, for the tests with many clients.

sub raise_file_limit () {
    my $ffi = FFI::Platypus->new(api => 2, lib => [undef]);
    my $limits = [0, 0];

    $ffi->function(getrlimit => [qw( int uint64[2] )] => 'int')
        ->call(RLIMIT_NOFILE, $limits);
    $ffi->function(setrlimit => [qw( int uint64[2] )] => 'int')
        ->call(RLIMIT_NOFILE, [$limits->[1], $limits->[1]]);
}


# Below the range that outgoing connections take theirs from.

sub free_ports ($count) {
    my $first = 10240 + $$ % 5000 * 4;

    for my $try (0 .. 999) {
        my $port = 10240 + ($first - 10240 + $try * $count) % 20000;

        return $port if all_free($port .. $port + $count - 1);
    }

    die "no free ports\n";
}

sub all_free (@ports) {
    for my $port (@ports) {
        IO::Socket::IP->new(LocalHost => '127.0.0.1', LocalPort => $port,
                            Listen => 1) or return 0;
    }

    return 1;
}


# Once Test::Nginx is loaded

sub prepare_test_nginx () {
    no strict 'refs';

    ${"${Util}::ForceRestartOnTest"} = 0;
    ${"${Util}::ReusePort"} = 1;
    $HttpHelper = ${"${Util}::RunTestHelper"};
    ${"${Util}::RunTestHelper"} = \&run_helper;

    raise_file_limit();
    Test::Nginx::Util::master_on();
    Test::Nginx::Util::no_root_location();
}


sub util ($name) {
    no strict 'refs';

    return ${"${Util}::$name"};
}


# The runs

sub run (@blocks) {
    my @runs = runs(@blocks);

    plan(skip_all => 'nothing to run here') if !@runs;
    plan('no_plan');

    $Test::Nginx::Util::NginxVersion = Test::Nginx::Util::get_nginx_version();

    for my $run (@runs) {
        $Variant = $run;
        run_block($run->{block});
    }

    stop_server();
}


# For blocks: whether this build of nginx is such a one.

sub built ($pattern) {
    state $version = do {
        my $binary = util('NginxBinary');
        qx{$binary -V 2>&1};
    };

    return $version =~ $pattern;
}


# What is to be run, with which number of workers and which transport.

sub runs (@blocks) {
    my @workers = $Address ? 1 : split ' ', $ENV{TEST_DERP_WORKERS} // '1 2 4';
    my @transports = split ' ', $ENV{TEST_DERP_TRANSPORT} // 'plain tls';
    my (@runs, %done);

    for my $workers (@workers) {
        for my $transport (@transports) {
            my $variant = { workers => $workers, transport => $transport };

            push @runs, map { { %$variant, block => $_ } }
                        grep { chosen($_, $variant, \%done) } @blocks;
        }
    }

    return @runs;
}


sub chosen ($block, $variant, $done) {
    return 0 if defined $block->SKIP;
    return 0 if $Address && !defined $block->derp;
    return 0 if $ENV{TEST_DERP_UNTITLED} && ($block->derp // '') =~ /^reload\b/m;

    for (qw( workers transport )) {
        my $wanted = $block->$_ // next;

        return 0 if none_is($variant->{$_}, split ' ', $wanted);
    }

    return 0 if $done->{ $block->seq_num }++
                && (defined $block->once || defined $block->nginx_t);

    return 1;
}

sub none_is ($value, @list) { !grep { $_ eq $value } @list }


sub run_block ($original) {
    # values that we set must not be there in the next run
    my $block = bless { %$original }, ref $original;

    ($Original, $Block) = ($original, $block);

    $block->set_value(name => sprintf '%s %s', $0, title($block));

    return talk($block, remote_server()) if $Address;

    add_configuration($block);

    return check_nginx_t($block) if defined $block->nginx_t;

    start_server($block) or return;

    Test::Nginx::Util::run_test($block);
    Test::Nginx::Util::cleanup_test($block);

    check_log($block->name, $Conversation ? $Conversation->{allowed} : []);

    # it may say so again until it is stopped
    push @{ $Server->{allowed} }, @{ $Conversation->{allowed} }
        if $Conversation;

    stop_server() if $Conversation && $Conversation->{dirty};

    undef $Conversation;
}


sub title ($block) {
    return $block->name if defined $block->nginx_t;
    return sprintf '%s (%d worker%s, %s)', $block->name, $Variant->{workers},
                   $Variant->{workers} == 1 ? '' : 's', $Variant->{transport};
}


# Configuration

sub add_configuration ($block, $generation = 1) {
    my %part = map { $_ => section($_, $generation) }
                   qw( main_config http_config config derp_relay
                       derp_location );

    for ($part{derp_relay}) {
        $_ = "zone 32m;\n$_" if !/^\s*zone\b/m;
        $_ = "key_file derp.key;\n$_" if !/^\s*key_file\b/m;
    }

    my $plain = defined $block->no_relay;

    $block->set_value(main_config => load_module() . $part{main_config});
    $block->set_value(http_config => ($plain ? '' : relay($part{derp_relay}))
                                     . $part{http_config});
    $block->set_value(config => listens()
                                . ($plain ? '' : location($part{derp_location}))
                                . $part{config});
    $block->set_value(post_setup_server_root => __PACKAGE__ . '::make_files()');
}


# "config_2" is what "config" becomes with the first reload.

sub section ($name, $generation) {
    for my $n (reverse 2 .. $generation) {
        my $section = "${name}_$n";

        return $Original->$section . "\n" if defined $Original->$section;
    }

    return ($Original->$name // linked($name)) . "\n";
}


# Two relays, each linked to the other.

sub linked ($name) {
    my $drain = $Original->linked // return '';
    my $mesh = "drain $drain;\nmesh_key_file mesh.key;\n"
               . 'mesh_with http://127.0.0.1:$TEST_NGINX_SERVER_PORT';

    my %part = (
        derp_relay => "$mesh/other;",
        http_config => "derp_relay other {\nzone 32m;\nkey_file other.key;\n"
                       . "$mesh/derp;\n}",
        config => 'location /other { derp other; }',
    );

    return $part{$name} // '';
}


sub load_module () {
    my $module = $ENV{TEST_DERP_MODULE};

    return length $module ? "load_module $module;\n" : '';
}


sub relay ($body) { "derp_relay main {\n$body\n}\n" }

sub location ($body) {
    return "location /derp {\nderp main;\n$body\n}\n"
           . "location = /status { derp_status main; }\n";
}


sub listens () {
    my ($port, $tls) = @ENV{qw( TEST_NGINX_SERVER_PORT TEST_NGINX_TLS_PORT )};

    return <<EOF;
listen [::1]:$port reuseport;
listen 127.0.0.1:$tls ssl reuseport;
listen [::1]:$tls ssl reuseport;
ssl_certificate cert.pem;
ssl_certificate_key cert.key;
ssl_protocols TLSv1.2 TLSv1.3;
location = /worker { return 200 "\$pid\\n"; }
EOF
}


# Called by Test::Nginx when the root is laid out anew.

sub make_files () {
    my $dir = util('ConfDir');

    $Certificate //= make_certificate();

    write_file("$dir/cert.pem", 0644, $Certificate->{cert});
    write_file("$dir/cert.key", 0600, $Certificate->{key});
    write_file("$dir/mesh.key", 0600, MESH_KEY . "\n");

    my $files = ($Block->conf_files // '') . "\n";
    my (undef, @parts) = split /^>>> +(\S+)(?: +([0-7]+))?\n/m, $files;

    while (my ($name, $mode, $text) = splice @parts, 0, 3) {
        write_file("$dir/$name", oct($mode // '0600'), $text);
    }
}

sub write_file ($path, $mode, $text) {
    open my $out, '>:raw', $path or die "cannot write $path: $!\n";
    print $out $text;
    close $out or die "cannot write $path: $!\n";
    chmod $mode, $path;
}

sub make_certificate () {
    my ($cert, $key) = CERT_create(
        subject => { commonName => 'localhost' },
        subjectAltNames => [ [ DNS => 'localhost' ], [ IP => '127.0.0.1' ] ],
        # AWS-LC does not take one as its own issuer unless it may sign
        purpose => 'ca,server', key => KEY_create_ec('prime256v1'),
    );

    return { cert => PEM_cert2string($cert), key => PEM_key2string($key) };
}


# nginx -t, in a root beside the one that may be in use

sub nginx_t ($block) {
    my $root = $ENV{TEST_NGINX_SERVROOT} . '-check';

    local $ENV{TEST_NGINX_SERVER_ROOT} = $root;
    local $Test::Nginx::Util::ServRoot = $root;
    local $Test::Nginx::Util::LogDir = "$root/logs";
    local $Test::Nginx::Util::ErrLogFile = "$root/logs/error.log";
    local $Test::Nginx::Util::AccLogFile = "$root/logs/access.log";
    local $Test::Nginx::Util::HtmlDir = "$root/html";
    local $Test::Nginx::Util::ConfDir = "$root/conf";
    local $Test::Nginx::Util::ConfFile = "$root/conf/nginx.conf";
    local $Test::Nginx::Util::PidFile = "$root/logs/nginx.pid";
    local $Test::Nginx::Util::CacheDir = "$root/cache";

    Test::Nginx::Util::setup_server_root(0);
    make_files();
    write_config($block);

    my $output = qx{${\ command($root) } -t 2>&1};

    return ($? == 0, $output, $root);
}

sub write_config ($block) {
    Test::Nginx::Util::worker_connections($block->connections // 256);
    Test::Nginx::Util::workers($Variant->{workers});

    my $config = Test::Nginx::Util::expand_env_in_text($block->config,
                                                       $block->name, {});

    Test::Nginx::Util::write_config_file($block, $config, {});
}

sub command ($root) {
    return util('NginxBinary')
           . " -e $root/logs/error.log -p $root/ -c $root/conf/nginx.conf";
}


sub check_nginx_t ($block) {
    my ($wanted, @lines) = grep { /\S/ } split /\n/, $block->nginx_t;
    my ($ok, $output, $root) = nginx_t($block);
    my @wrong;

    push @wrong, $ok ? 'it passes' : 'it fails' if $ok != ($wanted eq 'ok');
    push @wrong, 'it does not fail with one line'
        if !$ok && (() = $output =~ /\[emerg\]/g) != 1;

    push @wrong, map { line_differs($_, $output, $root) } @lines;

    ok(!@wrong, $block->name) or diag(join "\n", @wrong, $output);
}


# /re/: what the output matches; ! /re/: what it does not; file ...: as in a
# conversation

sub line_differs ($line, $output, $root) {
    return file_differs($line, $root) if $line =~ /^file /;

    my $not = $line =~ s/^!\s*//;
    my $matches = $output =~ regex($line);

    return $not ? "it has $line" : "it has no $line" if $not == !!$matches;
    return ();
}

sub file_differs ($line, $root) {
    my $conversation = Test::Nginx::DERP::Conversation->new(
        server => Test::Nginx::DERP::Server->new(root => $root));

    return eval { $conversation->run($line); 1 } ? () : $@;
}


# Start and stop

# What nginx runs with; the next block with the same finds it running.

sub signature ($block) {
    return join "\0", $Variant->{workers},
                map { $block->$_ // '' }
                    qw( main_config http_config config conf_files connections );
}


sub start_server ($block) {
    return 1 if $Server && defined $Server->master && !defined $block->fresh
                && signature($block) eq $Signature;

    stop_server();

    my ($ok, $output) = nginx_t($block);

    if (!$ok) {
        fail($block->name);
        diag("nginx does not take the configuration:\n$output");
        return 0;
    }

    $Server = local_server();
    $Signature = signature($block);

    no strict 'refs';
    undef ${"${Util}::PrevConfig"};     # so that Test::Nginx starts it

    return 1;
}


sub local_server () {
    my $root = util('ServRoot');

    return Test::Nginx::DERP::Server->new(
        root => $root, workers => $Variant->{workers}, host => '127.0.0.1',
        ports => {
            plain => $ENV{TEST_NGINX_SERVER_PORT},
            tls => $ENV{TEST_NGINX_TLS_PORT},
            2 => $ENV{TEST_NGINX_PORT_2},
            3 => $ENV{TEST_NGINX_PORT_3},
        },
        start => command($root) . ' >/dev/null',
    );
}


sub remote_server () {
    my ($host, $plain, $tls) = $Address =~ /^(.*?):(\d+)(?:,(\d+))?$/
        or die "TEST_DERP_ADDRESS is not HOST:PORT[,TLSPORT]\n";

    return Test::Nginx::DERP::Server->new(
        host => $host, ports => { plain => $plain, tls => $tls }, workers => 1,
    );
}


# Its last words count too: whatever was left open shows only now.

sub stop_server () {
    my $server = $Server // return;
    my $name = "$0 nginx leaves in peace";
    my $master = $server->master;

    undef $Server;

    if (defined $master) {
        my %workers = $server->workers;

        kill 'QUIT', $master;

        if (!has_exited($master)) {
            fail("$name: it does not exit");
            kill 'KILL', $master, keys %workers;
            has_exited($master);
            unlink "$server->{root}/logs/nginx.pid";
        }
    }

    # of two links that are being made the one's end may be the first to go
    check_lines($name, [ $server->log_lines ],
                [ @{ $server->{allowed} // [] }, qr/ while dialing, / ]);
}


sub has_exited ($pid) {
    my $deadline = time + EXIT_SECONDS;

    while (Test::Nginx::DERP::Server::alive($pid)) {
        return 0 if time > $deadline;
        select undef, undef, undef, 0.003;
    }

    return 1;
}


sub check_log ($name, $allowed) {
    my @lines = $Server->log_lines;

    $Server->mark_log;
    check_lines("$name: the log", \@lines, $allowed);
}

sub check_lines ($name, $lines, $allowed) {
    my @bad;

    for my $i (0 .. $#$lines) {
        my $line = $lines->[$i];

        next if $line !~ $BAD_LINE || grep { $line =~ $_ } @$allowed;

        push @bad, $line;

        # where it happened
        push @bad, grep { defined } @$lines[$i + 1 .. $i + 12]
            if $line =~ /Sanitizer/;
    }

    ok(!@bad, $name) or diag(@bad > 40 ? (@bad[0 .. 39], "...\n") : @bad);
}


# The conversation

# Called by Test::Nginx once nginx runs.

sub run_helper ($block, $dry_run, $repeated) {
    return $HttpHelper->($block, $dry_run, $repeated) if !defined $block->derp;

    talk($block, $Server);
}


sub talk ($block, $server) {
    $Conversation = Test::Nginx::DERP::Conversation->new(
        server => $server, tls => $Variant->{transport} eq 'tls',
        mesh_key => MESH_KEY, timeout => TIMEOUT,
        rewrite => sub ($generation) { rewrite($block, $generation) },
    );

    my $ok = eval { $Conversation->run($block->derp); 1 };

    $Conversation->finish;
    $Conversation->{dirty} = 1 if !$ok;

    ok($ok, $block->name) or diag($@);
}


sub rewrite ($block, $generation) {
    add_configuration($block, $generation);
    write_config($block);
}

1;
