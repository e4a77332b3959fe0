package Test::Nginx::DERP;

use v5.36;

use Test::Nginx::DERP::Runner;

# Defined before Test::Nginx::Socket's own, which then stays away.

sub run_tests { Test::Nginx::DERP::Runner::run(Test::Base::blocks()) }

sub built { Test::Nginx::DERP::Runner::built(@_) }

BEGIN { Test::Nginx::DERP::Runner::prepare_environment() }

use Test::Nginx::Socket -Base;

our @EXPORT = qw( run_tests );

Test::Nginx::DERP::Runner::prepare_test_nginx();

1;
__END__

=head1 NAME

Test::Nginx::DERP - DERP in Test::Nginx's language

=head1 SYNOPSIS

    use lib 't/lib';
    use Test::Nginx::DERP;

    run_tests();

    __DATA__

    === TEST 1: a packet crosses two workers
    --- derp
    a: connect worker=1
    b: connect worker=2 tls v6
    a: send b "hello"
    b: recv a "hello"
    a: nothing

Each block is run with one, two and four workers, and with clients that speak
plain and TLS; each run starts nginx only if its configuration differs from that
of the run before.  At the end of each the error log must be clean, and at the
end of each nginx too: no alert, crit or emerg, no error about derp, no exit by a
signal or with a code, no sanitizer's report, no socket left open.

=head1 SECTIONS

Those of L<Test::Nginx::Socket> work as ever, and so does a block with
C<request> instead of C<derp>.  The configuration has, if nothing is said,

    http {
        derp_relay main { key_file derp.key; zone 32m; }
        server {
            listen ...;       # plain and TLS, IPv4 and IPv6
            location = /worker { return 200 "$pid\n"; }
            location /derp { derp main; }
            location = /status { derp_status main; }
        }
    }

=over

=item derp

The conversation, see below.

=item derp_relay, derp_location

What stands in C<derp_relay main> (a C<zone> or C<key_file> in it replaces the
default) and in C<location /derp> besides.

=item config, http_config, main_config

What stands in the server, in C<http> and outside besides.  C<$TEST_NGINX_PORT_2>
and C<$TEST_NGINX_PORT_3> are free ports, C<$TEST_NGINX_SOCKET> is the path of a unix
socket.

=item config_2, derp_relay_2, ...

The same after the first C<reload>; with C<_3> after the second.

=item linked

The time of C<drain>.  There is a second relay, C<other> in C<location /other>, and
each of the two has a link to the other, over plain HTTP; C<derp_relay>,
C<http_config> and C<config> take the place of what this puts there.

=item no_relay

There is neither C<derp_relay main> nor C<location /derp> nor C</status>.

=item conf_files

Files beside nginx.conf, each begun by C<< >>> NAME [MODE] >>.  There are always
C<cert.pem>, C<cert.key> and C<mesh.key>.

=item nginx_t

Instead of a conversation: C<nginx -t> is run, once.  The first line is C<ok> or
C<fails> (with one emerg line), others are C</REGEX/> that the output must match,
C<! /REGEX/> that it must not, or C<file> steps.

=item derp eval, nginx_t eval

What is right may differ between builds of nginx: C<Test::Nginx::DERP::built(REGEX)>
is true where C<nginx -V> has a match for it.

=item workers, transport

The numbers of workers and the transports (C<plain>, C<tls>) to run with, of those
that are otherwise all run with.

=item connections

worker_connections, if not 256.

=item once

Run with the first of them only.

=item fresh

nginx is started anew for it.

=back

=head1 THE CONVERSATION

A step is a line, C<#> begins a comment line:

    NAME [NAME ...]: VERB [ARGUMENTS]       what clients do and get
    VERB [ARGUMENTS]                        what happens to the server

A step may end in C<within=SECONDS>, how long it may wait (30 s if nothing is
said), and C<for i=1..9 j=1..9>, which repeats it with C<$i> and C<$j> replaced.
A step that expects a frame expects the I<next> one, keep-alives apart; with
C<pick> before the verb, the first one that fits, and the others stay.

A client's name is also its key's, made at random when first named; a name that
never connects is the key of nobody.  C<server> is the server's key.

=head2 Values

Terms, joined by C<+>:

    "text" 'text'     with \n \r \t \0 \x00 \" \\ in the first form
    hex:00ff          bytes
    "text"{100}       100 times; hex too
    noise{100}        100 incompressible bytes, noise:1{100} others
    disco  disco{99}  a disco packet, of 62 bytes or as many as said
    key:NAME          the key of NAME
    u8:1 u16:1 u32:1  numbers, big-endian

=head2 Connecting

=over

=item open [OPTION ...]

A connection, on which nothing is sent yet.  C<plain>, C<tls>; C<v6>;
C<port=2>, C<port=3>; C<rcvbuf=BYTES>; C<alpn=PROTOCOL>; C<fragments=BYTES>, of
TLS's records, 512 to 4096; C<worker=N>: a request
for C</worker> told that worker number N has it (numbers are given as they are
first used, N beyond the number of workers begins again with the first),
C<worker=NAME>: where that client is, C<worker=not-NAME>: elsewhere, if there is
another.

=item connect [OPTION ...]

All of open, upgrade, server-key, info and server-info, with all their options.
C<early>: ClientInfo goes with the request, not waiting for the 101.  C<fast>:
the same with Derp-Fast-Start, and there is no 101.

=item upgrade [OPTION ...]

The request, and the 101 to it.  C<at=PATH>, C<fast>, C<with=VALUE>, a header.  If
output is held, then it is only written, and C<status> looks at the reply.

=item info [OPTION ...]

ClientInfo.  C<key=NAME>: with the key of that one, which is then this client's,
too.  C<mesh>: with the mesh key of F<mesh.key>; C<mesh=VALUE>: with another.
C<prober>.  C<json=VALUE>: the JSON as it is.  To break it: C<size=N>, spaces in
the JSON until the body has N bytes; C<flip=N>, a bit of byte N (-1 is the last);
C<cut=N>, the body's first N bytes only; C<length=N>, in the frame's head;
C<claim=NAME>, another's public key; C<to=NAME>, the box for another.

=item login [OPTION ...]

info, and server-info

=item request LINE | HEADER | ... | | BODY

Any request; C<Host> is added to HTTP/1.1.

=back

=head2 Sending

    send TO VALUE           SendPacket
    forward FROM TO VALUE   ForwardPacket
    ping VALUE
    prefer yes|no           NotePreferred
    watch                   WatchConns
    close-peer NAME
    frame TYPE [VALUE] [length=N]
                            any frame; TYPE is a number (0x2a) or a name as in
                            DERP/Frame.pm; the length may lie
    raw VALUE               any bytes
    hold, flush             what is sent between them goes in one write
    flush by=N              or in writes of N bytes, each read by the server
                            before the next
    burst TO COUNT [size=N] [from=N]
                            numbered packets, however they fare
    stream TO COUNT [size=N] [window=N]
                            numbered packets, and each is received, in order
    reach TO                packets until one arrives, for a way in the making
    close, reset, shutdown  close, with RST, the sending half only
    deaf, hear              stops reading, reads again
    rekey                   changes its key, and asks for another: TLS's KeyUpdate

=head2 Getting

    status 426              of the response to the last request; 4xx
    header Name: VALUE      or header Name: /REGEX/, or header !Name
    body VALUE              or body /REGEX/
    server-key, server-info
    recv FROM VALUE         RecvPacket
    pong VALUE
    gone NAME [disconnected|not-here]
    present NAME [flags=regular,mesh,prober,not-ideal] [from=CLIENT]
                            from: with the address and port of that client
    sees NAME ...           PeerPresent and PeerGone until just these are there;
                            a{1..9} are nine names
    health VALUE
    restarting [in=MIN..MAX] [for=MIN..MAX]
    keepalive [after=SECONDS]
                            not earlier than that after the connection was made
    expect TYPE [VALUE]     any frame
    bytes VALUE             any bytes
    ascending FROM LAST [size=N] [lossy]
                            numbered packets up to LAST, some may be missing
                            (lossy: some are)
    closed [after=SECONDS]  the end, and nothing before it
    ends                    the end, whatever came before it
    sync                    all that was sent is dealt with, by a ping and its
                            pong; frames that came with it stay to be expected
    settle                  all that was sent is read, before login too
    nothing                 no frame has come, after a sync
    nothing via NAME        no frame has come, after a packet from NAME

=head2 The server

    reload                  HUP, until new workers serve and the old do no more
    reload fails            HUP, to which nothing else is expected
    quit, exit, start       QUIT; it has exited; it is started again
    upgrade                 USR2, then QUIT to the old master, which may exit
    kill worker of NAME     with KILL, until there is another
    kill owner of PATH      the worker that has the link of "main" to that path
    freeze worker of NAME   with STOP
    thaw worker of NAME     with CONT
    worker of NAME is [not] worker of NAME
                            "not" is always true with one worker
    new-worker of NAME      its worker is not one of before a reload
    log [Nx] /REGEX/        the error log has, or gets, N lines like that; key:NAME
                            in it is that key in hex
    no-log /REGEX/          it has none
    allow /REGEX/           lines like that are no fault
    file NAME mode 0600     of a file beside nginx.conf, or an absolute path
    file NAME like /REGEX/
    file NAME absent
    forget key              the server's key may be another from now on

=head2 What the server has counted

    mark [/status]          what follows counts from here
    stats [/status] [of NAME] TERM ...
                            derp_status says so, or comes to; of the relay, or of
                            the worker of NAME alone

A term is C<PATH=VALUE>, with C<!=>, C<< < >>, C<< <= >>, C<< > >> or C<< >= >> as
well: C<clients=2 dropped.other.queue_head=0 past.accepts>=1>; an array's value is
its length.  The value is a number or C<workers>, the number of workers, or a sum
of these (C<workers+1>).  With a C<+> before it, it is by how much more than at the
mark, and C<packets.*=+3> stands for all of an object added up.  Whatever is asked,
what is said of the workers and of the past must add up to what is said of the
relay.

    stats packets.sent=+3 dropped.*=+0

=head2 HTTP/2

    h2-get PATH             a whole connection's beginning, and a request
    h2-status 4xx

=head1 ENVIRONMENT

    TEST_DERP_MODULE        ngx_http_derp_module.so; empty: linked statically
    TEST_NGINX_BINARY       nginx
    TEST_NGINX_SERVROOT     where its roots are made, one for each file
    TEST_DERP_WORKERS       "1 2 4"
    TEST_DERP_TRANSPORT     "plain tls"
    TEST_DERP_TIMEOUT       30, in seconds
    TEST_DERP_UNTITLED      workers have no titles, as in valgrind: no reloads
    TEST_DERP_ADDRESS       HOST:PORT[,TLSPORT]: no nginx, the conversations are
                            held with that server

=cut
