# What is open to holders of the mesh key: watching, closing, forwarding.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: without the mesh key, each of it ends the connection
--- derp_relay
mesh_key_file mesh.key;
--- derp
good a b c: connect
a: watch
a: closed
b: close-peer good
b: closed
c: forward a good "hello"
c: closed
good: nothing
log /\[info\].*client sent WatchConns .*mesh key.*key:a/
log /\[info\].*client sent ClosePeer .*mesh key.*key:b/
log /\[info\].*client sent ForwardPacket .*mesh key.*key:c/


=== TEST 2: with another mesh key too
--- derp_relay
mesh_key_file mesh.key;
--- derp
a: connect mesh="0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdee"
a: watch
a: closed
b: connect mesh="0000000000000000000000000000000000000000000000000000000000000000"
b: watch
b: closed


=== TEST 3: and with any where none is set
--- derp
a: connect mesh
a: watch
a: closed
b: connect mesh="0000000000000000000000000000000000000000000000000000000000000000"
b: watch
b: closed


=== TEST 4: in upper case it is the same
--- derp_relay
mesh_key_file mesh.key;
--- derp
a: connect mesh="0123456789ABCDEF0123456789ABCDEF0123456789abcdef0123456789abcdef"
a: watch
a: present a


=== TEST 5: the flood, the watcher included, then changes
--- derp_relay
mesh_key_file mesh.key;
--- derp
a: connect worker=1
b: connect worker=2 v6
w: connect mesh worker=1
w: watch
w: pick present a flags=regular from=a
w: pick present b flags=regular from=b
w: pick present w from=w
w: nothing
c: connect worker=2
w: present c flags=regular from=c
a: close
w: gone a
c: close
w: gone c
a: connect worker=2
w: present a from=a
w: nothing


=== TEST 6: flags
--- derp_relay
mesh_key_file mesh.key;
--- derp
w: connect mesh
w: watch
w: present w flags=mesh
a: connect
w: present a flags=regular
b: connect prober
w: present b flags=prober
c: connect with="Ideal-Node: 1a"
w: present c flags=not-ideal
m: connect mesh prober with="Ideal-Node: 1a" worker=2
w: present m flags=mesh,prober,not-ideal


=== TEST 7: many clients, many watchers
--- derp_relay
mesh_key_file mesh.key;
--- derp
c$i: connect worker=$i for i=1..30
w$i: connect mesh worker=$i for i=1..3
w1 w2 w3: watch
w1 w2 w3: sees c{1..30} w{1..3}
w1 w2 w3: nothing
c$i: close for i=1..30
w1 w2 w3: sees w{1..3}
w1 w2 w3: nothing


=== TEST 8: WatchConns has no body
--- derp_relay
mesh_key_file mesh.key;
--- derp
good: connect
w x: connect mesh
w: frame watch_conns "x"
w: closed
x: frame watch_conns length=70000
x: closed
log /\[info\].*client sent WatchConns of 1 bytes .*key:w/
log /\[info\].*client sent WatchConns of 70000 bytes .*key:x/
good: sync


=== TEST 9: several connections of a key are one
--- derp_relay
mesh_key_file mesh.key;
--- derp
w: connect mesh worker=1
w: watch
w: present w
a1: connect key=a worker=1
w: present a
a2: connect key=a worker=2
a3: connect key=a worker=1
b: connect worker=1
w: present b
a1: close
a3: close
b: close
w: gone b
a2: close
w: gone a
w: nothing


=== TEST 10: a watcher's flood has each key once
--- derp_relay
mesh_key_file mesh.key;
--- derp
a1: connect key=a worker=1
a2: connect key=a worker=2
w: connect mesh worker=2
w: watch
w: pick present a
w: pick present w
w: nothing


=== TEST 11: ClosePeer closes every connection of a key, in every worker
--- derp_relay
mesh_key_file mesh.key;
--- derp
w: connect mesh worker=1
a1: connect key=a worker=1
a2: connect key=a worker=2
a3: connect key=a worker=3
b: connect worker=2
a1: send b "hello"
b: recv a "hello"
w: close-peer a
a1: closed
a2: closed
a3: closed
b: gone a
w: nothing
a1: connect key=a worker=2
b: send a "hello"
a1: recv b "hello"


=== TEST 12: ClosePeer of nobody, of oneself
--- derp_relay
mesh_key_file mesh.key;
--- derp
w: connect mesh
w: close-peer nobody
w: nothing
w: close-peer w
w: closed


=== TEST 13: ClosePeer of a wrong length
--- derp_relay
mesh_key_file mesh.key;
--- derp
a b w x: connect mesh
w: frame close_peer key:a+"x"
w: ends
x: frame close_peer noise{31}
x: closed
a: frame close_peer
a: closed
log /\[info\].*client sent ClosePeer of 33 bytes .*key:w/
log /\[info\].*client sent ClosePeer of 31 bytes .*key:x/
log /\[info\].*client sent ClosePeer of 0 bytes .*key:a/
b: sync


=== TEST 14: a forwarded packet comes from its first sender
--- derp_relay
mesh_key_file mesh.key;
--- derp
m: connect mesh worker=1
a: connect worker=2
m: forward far a "hello"
a: recv far "hello"
m: forward far a ""
a: recv far ""
m: forward far a noise{65536}
a: recv far noise{65536}
m a: nothing


=== TEST 15: a forwarded packet to nobody
--- derp_relay
mesh_key_file mesh.key;
--- derp
m: connect mesh worker=1
m: forward far nobody "hello"
m: nothing


=== TEST 16: bad ForwardPackets
--- derp_relay
mesh_key_file mesh.key;
--- derp
good: connect
l m n: connect mesh
l: frame forward_packet
l: closed
m: frame forward_packet noise{63}
m: closed
n: forward far good noise{65537}
n: ends
o: connect mesh
o: frame forward_packet noise{64} length=65601
o: closed
log /\[info\].*client sent ForwardPacket of 0 bytes .*key:l/
log /\[info\].*client sent ForwardPacket of 63 bytes .*key:m/
log /\[info\].*client sent ForwardPacket of 65601 bytes .*key:n/
log /\[info\].*client sent ForwardPacket of 65601 bytes .*key:o/
good: nothing


=== TEST 17: ForwardPacket in pieces
--- derp_relay
mesh_key_file mesh.key;
--- derp
m: connect mesh worker=1
a: connect worker=2
m: hold
m: forward far a "hello"
m: forward farther a noise{3000}
m: flush by=50
a: recv far "hello"
a: recv farther noise{3000}


=== TEST 18: a watcher is told what happens in a worker that died
--- workers: 2 4
--- derp_relay
mesh_key_file mesh.key;
--- derp
w: connect mesh worker=1
w: watch
w: present w
a: connect worker=2
w: present a
kill worker of a
w: gone a
a: ends
a: connect worker=2
w: present a from=a


=== TEST 19: a watcher across a reload
--- derp_relay
mesh_key_file mesh.key;
--- derp
a: connect worker=1
w: connect mesh worker=1
w: watch
w: pick present a
w: pick present w
reload
b: connect worker=1
w: present b
v: connect mesh worker=2
w: present v
v: watch
v: pick present a
v: pick present b
v: pick present v
v: pick present w
a: close
v w: gone a
b: close
v w: gone b
v w: nothing


=== TEST 20: clients come and go during the flood
--- derp_relay
mesh_key_file mesh.key;
--- derp
w: connect mesh worker=1
c$i: connect worker=2 for i=1..50
w: watch
c$i: close for i=1..50
d$i: connect worker=1 for i=1..20
w: sees w d{1..20}
d$i: close for i=1..10
c$i: connect worker=3 for i=1..50
w: sees w d{11..20} c{1..50}
w: nothing


=== TEST 21: a mesh key file that is none
--- derp_relay
mesh_key_file short.key;
--- conf_files
>>> short.key 0600
0123456789abcdef
--- nginx_t
fails
/\[emerg\].*short\.key/


=== TEST 22: a mesh key file of zeros
--- derp_relay
mesh_key_file zero.key;
--- conf_files
>>> zero.key 0600
0000000000000000000000000000000000000000000000000000000000000000
--- nginx_t
fails
/\[emerg\].*zero\.key/


=== TEST 23: a mesh key file that is absent
--- derp_relay
mesh_key_file nowhere.key;
--- nginx_t
fails
/\[emerg\].*nowhere\.key/


=== TEST 24: who watches twice is told all anew, and what has changed meanwhile
--- workers: 2 4
--- derp_relay
mesh_key_file mesh.key;
--- derp
w: connect mesh worker=2
a b c: connect worker=1
w: watch
w: sees w a b c
freeze worker of w
b: close
c: sync
c: sync
w: watch
thaw worker of w
w: pick gone b
w: pick present a
w: pick present c
w: pick present w
w: nothing
a: close
w: gone a
w: nothing


=== TEST 25: ClosePeer from a worker to one that a reload has replaced, and back
--- derp_relay
mesh_key_file mesh.key;
--- derp
a1: connect key=a worker=1
v: connect mesh worker=2
reload
w: connect mesh worker=1
a$i: connect key=a worker=$i for i=2..5
a1: sync
w: close-peer a
a$i: closed for i=1..5
a$i: connect key=a worker=$i for i=1..2
v: close-peer a
a$i: closed for i=1..2
v w: nothing
