# Workers that die, and workers that hang: what is theirs is lost, nothing else.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: a worker dies
--- derp
a: connect worker=1
b: connect worker=1
c: connect worker=2
a: send b "hello"
b: recv a "hello"
kill worker of a
a b: ends
a: connect worker=2
b: connect worker=3
a: stream b 300
b: stream a 300


=== TEST 2: a worker dies, the others go on
--- workers: 2 4
--- derp
a: connect worker=1
b: connect worker=2
c: connect worker=2
a: stream b 100
kill worker of a
a: ends
b: stream c 300
b: send a "gone"
b: sync
a: connect worker=1
b: stream a 300
a: stream c 300


=== TEST 3: a worker of the old generation dies
--- workers: 2 4
--- derp
a: connect worker=1
b: connect worker=2
reload
c: connect worker=1
kill worker of a
a: ends
b: stream c 300
c: stream b 300


=== TEST 4: a worker dies with much on its way to it
--- workers: 2 4
--- derp
a: connect worker=1
b: connect worker=2
c: connect worker=2
b: burst a 1000 size=1400
kill worker of a
a: ends
b: sync
b: stream c 100
a: connect worker=1
c: stream a 100


=== TEST 5: a worker dies while others log in
--- workers: 2 4
--- derp
a: connect worker=1
b: connect worker=2
c: open worker=a
c: upgrade
c: server-key
d: open worker=b
d: upgrade
d: server-key
kill worker of a
a c: ends
d: login
b: send d "hello"
d: recv b "hello"


=== TEST 6: a worker that hangs holds nobody up
--- workers: 2 4
--- derp
a: connect worker=1
b: connect worker=2
c: connect worker=1
freeze worker of b
a: send b "before"
a: burst b 3000 size=1400
c: stream a 300
a: stream c 300
a: sync
log /\[warn\].*takes no packets/
thaw worker of b
b: recv a "before"
b: sync
a: send b "after"
b: pick recv a "after"
a: stream c 300


=== TEST 7: a worker that hangs for a while gets more than a channel holds
--- workers: 2 4
--- derp
a: connect worker=1
b$i: connect worker=2 for i=1..20
c: connect worker=1
freeze worker of b1
a: send b$i noise:$k{15000} for k=1..2 i=1..20
a: send c "to another"
c: recv a "to another"
a: sync
a: send b1 "the last"
a: sync
c: stream a 100
thaw worker of b1
b$i: recv a noise:1{15000} for i=1..20
b$i: recv a noise:2{15000} for i=1..20
b1: recv a "the last"
b$i: nothing for i=1..20


=== TEST 8: of what is kept for it nothing comes behind the sender's departure
--- workers: 2 4
--- derp
a: connect worker=1
b$i: connect worker=2 for i=1..20
c: connect worker=1
a: send b20 "hello"
b20: recv a "hello"
freeze worker of b1
a: send b$i noise:$k{15000} for k=1..3 i=1..19
a: send b20 "the last"
a: sync
a: close
c: sync
thaw worker of b1
b1: recv a noise:1{15000}
b20: gone a
b20: nothing via c


=== TEST 9: a worker that hangs while clients of it leave
--- workers: 2 4
--- derp
a c: connect worker=1
b d: connect worker=2
b: send a "hello"
a: recv b "hello"
freeze worker of d
b: close
a: nothing
c: send a "hello"
a: recv c "hello"
thaw worker of d
a: gone b


=== TEST 10: a worker that hangs, and is killed
--- workers: 2 4
--- derp
a: connect worker=1
b: connect worker=2
c: connect worker=1
b: send a "hello"
a: recv b "hello"
freeze worker of b
a: burst b 3000 size=1400
kill worker of b
a: gone b
b: ends
a: stream c 300
b: connect worker=2
a: stream b 300
b: stream a 300


=== TEST 11: a worker that hung is told afterwards who has left
--- workers: 2
--- transport: plain
--- derp_relay
zone 4m;
--- derp
a: connect worker=1
b: connect worker=2
c: connect worker=1
a: send b "hello"
b: recv a "hello"
c: send b "hello"
b: recv c "hello"
x$i: connect worker=c for i=1..50
freeze worker of b
a: close
x$i: close for i=1..50
c: sync
thaw worker of b
b: gone a
b: nothing via c


=== TEST 12: and of who has come again meanwhile
--- workers: 2
--- transport: plain
--- derp_relay
zone 4m;
--- derp
a1: connect key=a worker=1
b: connect worker=2
c: connect worker=1
a1: send b "hello"
b: recv a "hello"
c: send b "hello"
b: recv c "hello"
x$i: connect worker=c for i=1..50
a2: open worker=1
freeze worker of b
a1: close
c: sync
c: sync
a2: upgrade
a2: server-key
a2: login key=a
x$i: close for i=1..50
c: sync
thaw worker of b
b: gone a
a2: send b "hello again"
b: recv a "hello again"
b: nothing via c
a2: close
b: gone a
b: nothing via c


=== TEST 13: a watcher whose worker hung for long hears of all that it missed
--- workers: 2
--- transport: plain
--- derp_relay
zone 4m;
mesh_key_file mesh.key;
--- derp
w: connect mesh worker=2
w: watch
c: connect worker=1
x$i: connect worker=c for i=1..100
w: sees w c x{1..100}
freeze worker of w
x$i: close for i=1..100
c: sync
thaw worker of w
w: pick gone x$i for i=1..100
w: close
w: connect mesh worker=2
w: watch
w: sees w c
w: nothing


=== TEST 14: more at once than there is room for between workers
--- workers: 2 4
--- derp
a$i: connect worker=1 for i=1..8
b: connect worker=2
c: connect worker=2
a$i: hold for i=1..8
a$i: send b noise:$k{65536} for k=1..3 i=1..8
a$i: send c "small" for i=1..8
a$i: flush for i=1..8
b: pick recv a$i noise:$k{65536} for k=1..3 i=1..8
c: pick recv a$i "small" for i=1..8
b c: nothing
a1: stream b 500 size=1400
