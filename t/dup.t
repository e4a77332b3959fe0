# Several connections of one key: none is kicked, the one that spoke last gets
# what is sent to the key, and the key leaves with the last of them.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: the newest is active
--- derp
a: connect worker=1
b1: connect key=b worker=1
a: send b "one"
b1: recv a "one"
b2: connect key=b worker=2
a: send b "two"
b2: recv a "two"
b3: connect key=b worker=1
a: send b "three"
b3: recv a "three"
b1 b2 b3: nothing


=== TEST 2: the one that sends becomes active
--- derp
a: connect worker=1
b1: connect key=b worker=1
b2: connect key=b worker=2
b1: send a "from the first"
a: recv b "from the first"
a: send b "to the first"
b1: recv a "to the first"
b2: send a "from the second"
a: recv b "from the second"
a: send b "to the second"
b2: recv a "to the second"
b1 b2: nothing


=== TEST 3: whatever it sends
--- derp
a: connect worker=1
b1: connect key=b worker=2
b2: connect key=b worker=1
b1: sync
a: send b "one"
b1: recv a "one"
b2: prefer no
b2: settle
a: send b "two"
b2: recv a "two"
b1: frame 0x2a "x"
b1: settle
a: send b "three"
b1: recv a "three"


=== TEST 4: two that fight
--- derp
a: connect worker=1
b1: connect key=b worker=1
b2: connect key=b worker=2
b$j: send a "$i $j" for i=1..5 j=1..2
a: pick recv b "$i $j" for i=1..5 j=1..2
a: nothing
b1: sync
a: send b "one"
b1: recv a "one"
b2: sync
a: send b "two"
b2: recv a "two"
b1 b2: nothing


=== TEST 5: when the active one leaves, the one used last takes over
--- derp
a: connect worker=1
b1: connect key=b worker=1
b2: connect key=b worker=2
b3: connect key=b worker=3
c: connect worker=b3
b1: sync
b3: close
c: settle
a: send b "one"
b1: recv a "one"
c: connect worker=b1
b1: close
c: settle
a: send b "two"
b2: recv a "two"
b2: nothing


=== TEST 6: three of them: the second falls back on the third, not on nobody
--- derp
a: connect worker=1
b1: connect key=b worker=1
b2: connect key=b worker=2
b3: connect key=b worker=1
c: connect worker=b2
d: connect worker=b3
b2: sync
b2: close
c: settle
a: send b "one"
b3: recv a "one"
b3: close
d: settle
a: send b "two"
b1: recv a "two"


=== TEST 7: one that was not active leaves
--- derp
a: connect worker=1
b1: connect key=b worker=1
b2: connect key=b worker=2
c: connect worker=b1
b1: close
c: settle
a: send b "hello"
b2: recv a "hello"
b2: nothing


=== TEST 8: the key leaves with the last of them
--- derp
a: connect worker=1
b1: connect key=b worker=1
b2: connect key=b worker=2
b1: send a "hello"
a: recv b "hello"
c: connect worker=b1
b1: close
c: settle
b2: send a "still here"
a: recv b "still here"
b2: close
a: gone b
a: nothing


=== TEST 9: down to one again it is a single client
--- derp
a: connect worker=1
b1: connect key=b worker=1
b2: connect key=b worker=2
c: connect worker=b2
b2: close
c: settle
b1: stream a 100
a: stream b1 100
b2: connect key=b worker=2
a: send b "hello"
b2: recv a "hello"


=== TEST 10: a packet to the own key
--- derp
b1: connect key=b worker=1
b2: connect key=b worker=2
b1: send b "hello"
b1: recv b "hello"
b2: send b "hello"
b2: recv b "hello"


=== TEST 11: the active one's worker dies
--- workers: 2 4
--- derp
a: connect worker=1
b1: connect key=b worker=1
b2: connect key=b worker=2
b1: send a "hello"
a: recv b "hello"
b2: sync
kill worker of b2
b2: ends
c: connect worker=2
c: settle
a: send b "hello"
b1: recv a "hello"
b1: close
a: gone b


=== TEST 12: of two generations
--- derp
a: connect worker=1
b1: connect key=b worker=1
reload
b2: connect key=b worker=1
a: send b "to the new"
b2: recv a "to the new"
b1: sync
a: send b "to the old"
b1: recv a "to the old"
c: connect worker=b2
b1: send a "hello"
a: recv b "hello"
b2: close
c: settle
a: send b "to the old again"
b1: recv a "to the old again"
b1: close
a: gone b


=== TEST 13: many of them
--- derp
a: connect worker=1
b$i: connect key=b worker=$i for i=1..12
a: send b "to the twelfth"
b12: recv a "to the twelfth"
b5: sync
a: send b "to the fifth"
b5: recv a "to the fifth"
b$i: nothing for i=1..12


=== TEST 14: those that have not spoken: to have come later is to be used later
--- derp
a: connect worker=1
b1: connect key=b worker=1
b2: connect key=b worker=2
b3: connect key=b worker=3
c: connect worker=b3
d: connect worker=b2
b3: close
c: settle
a: send b "one"
b2: recv a "one"
b2: close
d: settle
a: send b "two"
b1: recv a "two"


=== TEST 15: a fight of three, and each is told what it received from
--- derp
a: connect worker=1
c: connect worker=2
b$i: connect key=b worker=$i for i=1..3
a: send b "to the newest"
b3: recv a "to the newest"
b$j: sync for i=1..4 j=1..3
b1: sync
a: send b "to the first"
b1: recv a "to the first"
b2: sync
c: send b "to the second"
b2: recv c "to the second"
a: close
b3: gone a
b1: gone a
c: close
b2: gone c
b1 b2 b3: nothing


=== TEST 16: it is there for watchers from its first to its last
--- derp_relay
mesh_key_file mesh.key;
--- derp
w: connect mesh worker=2
w: watch
w: present w flags=mesh
b1: connect key=b worker=1
w: present b from=b1
b2: connect key=b worker=2
b1: sync
b2: sync
x: connect worker=b1
w: present x
b1: close
x: settle
b3: connect key=b worker=3
y: connect worker=b2
w: present y
b2: close
y: settle
b3: sync
w: nothing
b3: close
w: gone b
w: nothing
