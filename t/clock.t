# What takes its time: keep-alives, the limits of a login and of "not here".  All
# of it goes on side by side, so that the whole lasts as long as a keep-alive.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: an hour's worth of patience, in a minute
--- once
--- derp
# says nothing at all, or not all of its login
a b c: open
a: upgrade
b: upgrade
b: frame client_info noise{50} length=100
c: upgrade fast

# logged in
d: connect tls worker=1
e: connect plain worker=1
f: connect worker=1
g: connect worker=1 rcvbuf=4096

# takes nothing: two seconds, if nothing is said
g: deaf
f: burst g 3000 size=4000
f: sync
log /\[info\].*ended: write timed out, 2\..*key:g/
g: hear
g: ends

f: send nobody disco for i=1..5
f: gone nobody not-here for i=1..3
f: nothing

a b c: server-key
a b c: closed after=9 within=12

f: send nobody disco for i=1..5
f: gone nobody not-here for i=1..3
f: nothing

d e f: keepalive after=59 within=70
d: send e "hello"
e: recv d "hello"
