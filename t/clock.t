# What takes its time: keep-alives, the timeouts, what comes once a second.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: keep-alives, again and again, also to who sends
--- derp_relay
keepalive 300ms;
--- derp
a: connect tls worker=1
b: connect plain worker=2
a b: keepalive
a: send b "hello"
b: recv a "hello"
a b: keepalive for i=1..3
a: sync


=== TEST 2: a login has its time as a whole, however it is used
--- derp_relay
handshake_timeout 1s;
keepalive 300ms;
--- derp
d: connect
a b c: open
a: upgrade
b: upgrade
b: frame client_info noise{50} length=100
c: upgrade fast
a b c: server-key
a b c: closed after=1
d: sync


=== TEST 3: a client that takes nothing has two seconds, if nothing is said
--- once
--- derp
a: connect worker=1
b: connect worker=1 rcvbuf=4096
b: deaf
a: burst b 3000 size=4000
a: sync
log /\[info\].*ended: write timed out, ([2-9]|\d\d+)\..*key:b/
b: hear
b: ends


=== TEST 4: who is not here is told three times at once, and then once a second
--- derp_relay
keepalive 1500ms;
--- derp
a: connect
a: keepalive
a: hold
a: send nobody disco for i=1..5
a: flush
a: gone nobody not-here for i=1..3
a: nothing
a: keepalive
a: hold
a: send nobody disco for i=1..5
a: flush
a: gone nobody not-here
