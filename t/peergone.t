# PeerGone: who left, told to those who received from it; and who is not here,
# told to those who look for it.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: told to whom it sent to, and to nobody else
--- derp
a: connect worker=1
b: connect worker=2
c: connect worker=2
d: connect worker=1
a: send b "hello"
b: recv a "hello"
c: send a "hello"
a: recv c "hello"
d: send c "hello"
c: recv d "hello"
a: close
b: gone a
d: close
c: gone d
b: nothing via c


=== TEST 2: told once, not for each packet
--- derp
a: connect worker=1
b: connect worker=2
c: connect worker=3
a: send b "$i" for i=1..10
b: recv a "$i" for i=1..10
c: send b "hello"
b: recv c "hello"
a: close
b: gone a
c: close
b: gone c
b: nothing


=== TEST 3: told again when it came again and sent again
--- derp
b: connect worker=1
a: connect worker=2
a: send b "one"
b: recv a "one"
a: close
b: gone a
a: connect worker=3
a: send b "two"
b: recv a "two"
a: close
b: gone a
a: connect worker=1
a: send b "three"
b: recv a "three"
a: reset
b: gone a


=== TEST 4: not told again when it only came again
--- derp
b: connect worker=1
a: connect worker=2
c: connect worker=2
a: send b "one"
b: recv a "one"
c: send b "one"
b: recv c "one"
a: close
b: gone a
a: connect worker=2
a: sync
a: close
c: close
b: gone c
b: nothing


=== TEST 5: told to many
--- derp
a: connect worker=1
b$i: connect worker=$i for i=1..20
a: send b$i "hello" for i=1..20
b$i: recv a "hello" for i=1..20
a: close
b$i: gone a for i=1..20


=== TEST 6: who sent to itself, and who left first
--- derp
a: connect worker=1
b: connect worker=2
a: send a "hello"
a: recv a "hello"
a: send b "hello"
b: recv a "hello"
b: send a "hello"
a: recv b "hello"
b: close
a: gone b
b: connect worker=2
a: close
b: nothing


=== TEST 7: two leave at once
--- derp
a: connect worker=1
b: connect worker=2
c: connect worker=3
a: send c "hello"
b: send c "hello"
c: pick recv a "hello"
c: pick recv b "hello"
a b: close
c: pick gone a
c: pick gone b
c: nothing


=== TEST 8: told though its packets still waited for a slow reader
--- derp_relay
write_timeout 5m;
--- derp
a: connect worker=1
b: connect worker=2 rcvbuf=4096
b: deaf
a: burst b 1500 size=4000
a: sync
a: close
b: hear
b: pick gone a


=== TEST 9: those who left by a breach, and by a wrong frame, left too
--- derp
a: connect worker=1
b: connect worker=2
a: send b "hello"
b: recv a "hello"
a: ping "1"
a: closed
b: gone a


=== TEST 10: a worker that died took its clients along
--- workers: 2 4
--- derp
a: connect worker=1
b: connect worker=2
a: send b "hello"
b: recv a "hello"
kill worker of a
b: gone a
a: ends
a: connect worker=1
a: send b "again"
b: recv a "again"
a: close
b: gone a


=== TEST 11: across generations
--- derp
a: connect worker=1
b: connect worker=2
a: send b "hello"
b: recv a "hello"
reload
c: connect worker=1
c: send b "hello"
b: recv c "hello"
b: send c "hello"
c: recv b "hello"
a: close
b: gone a
b: close
c: gone b


=== TEST 12: disco packets to an unknown key
--- derp
a: connect
a: send nobody disco
a: gone nobody not-here
a: send nobody disco{1000}
a: gone nobody not-here
a: nothing


=== TEST 13: other packets to an unknown key
--- derp
a: connect
a: send nobody "hello"
a: send nobody disco{61}
a: send nobody "x"+disco{62}
a: send nobody noise{100}
a: nothing


=== TEST 14: at most three at once, whoever is looked for
--- derp
a: connect
a: hold
a: send nobody$i disco for i=1..9
a: flush
a: pick gone nobody$i not-here for i=1..3
a: nothing


=== TEST 15: each connection has its own allowance
--- derp
a b: connect
a b: hold
a: send nobody disco for i=1..5
b: send nobody disco for i=1..5
a b: flush
a b: gone nobody not-here for i=1..3
a b: nothing


=== TEST 16: not here, and then it comes
--- derp
a: connect worker=1
a: send b disco
a: gone b not-here
b: connect worker=2
a: send b disco
b: recv a disco
a: nothing
b: send a "hello"
a: recv b "hello"
b: close
a: gone b
a: send b disco
a: gone b not-here


=== TEST 17: who has left is not here, in every worker
--- derp
a: connect worker=1
b: connect worker=2
b: send a "hello"
a: recv b "hello"
a: send b "hello"
b: recv a "hello"
b: close
a: gone b
a: send b disco
a: gone b not-here
a: nothing


=== TEST 18: it left and came again before the receiver's worker could tell
--- workers: 2 4
--- derp
a1: connect key=a worker=1
b: connect worker=2
c: connect worker=1
a2: open worker=1
a1: send b "one"
b: recv a "one"
freeze worker of b
a1: send b "two"
a1: close
c: sync
c: sync
a2: upgrade
a2: server-key
a2: login key=a
a2: send b "three"
a2: sync
thaw worker of b
b: recv a "two"
b: gone a
b: recv a "three"
a2: send b "four"
b: recv a "four"
b: nothing
a2: close
b: gone a
b: nothing


=== TEST 19: in another worker, whose packets are taken first
--- workers: 4
--- derp
c: connect worker=3
b: connect worker=2
c: send b "first"
b: recv c "first"
a1: connect key=a worker=1
d: connect worker=1
a2: open worker=3
a1: send b "one"
b: recv a "one"
freeze worker of b
a1: send b "two"
a1: close
d: sync
d: sync
a2: upgrade
a2: server-key
a2: login key=a
a2: send b "three"
a2: sync
thaw worker of b
b: recv a "two"
b: gone a
b: recv a "three"
a2: close
b: gone a
b: nothing


=== TEST 20: in the receiver's own worker
--- workers: 2 4
--- derp
a1: connect key=a worker=1
b: connect worker=2
c: connect worker=1
a2: open worker=b
a2: upgrade
a2: server-key
a1: send b "one"
b: recv a "one"
freeze worker of b
a1: send b "two"
a1: close
c: sync
c: sync
a2: hold
a2: info key=a
a2: send b "three"
a2: flush
thaw worker of b
a2: server-info
b: recv a "two"
b: gone a
b: recv a "three"
a2: close
b: gone a
b: nothing


=== TEST 21: it left, came again and left again
--- workers: 2 4
--- derp
a1: connect key=a worker=1
b: connect worker=2
c: connect worker=1
a2 a3 a4: open worker=1
a1: send b "one"
b: recv a "one"
freeze worker of b
a1: send b "two"
a1: close
c: sync
c: sync
a2: upgrade
a2: server-key
a2: login key=a
a2: send b "three"
a2: close
c: sync
c: sync
a3: upgrade
a3: server-key
a3: login key=a
a3: close
c: sync
c: sync
a4: upgrade
a4: server-key
a4: login key=a
thaw worker of b
b: recv a "two"
b: gone a
b: recv a "three"
b: gone a
a4: close
c: sync
b: nothing via c


=== TEST 22: not here is told of each key, the allowance is one
--- derp
a: connect
a: hold
a: send nobody disco
a: send other disco
a: send nobody disco
a: send third disco
a: flush
a: gone nobody not-here
a: gone other not-here
a: gone nobody not-here
a: nothing


=== TEST 23: to have been sent to is nothing, nor to have been looked for
--- derp
a: connect worker=1
b: connect worker=2
c: connect worker=3
b: send a "hello"
a: recv b "hello"
a: send b ""
b: recv a ""
c: send a disco
a: recv c disco
c: send b "last"
b: recv c "last"
a: close
b: gone a
c: nothing via b
