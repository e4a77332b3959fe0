# What derp_status says: every counter moves when it should, by what it should,
# in the worker that it should, and nothing is lost when workers end.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: the response
--- derp
a: open
a: request GET /status HTTP/1.1
a: status 200
a: header Content-Type: application/json
a: header Cache-Control: no-store
a: body /^\{"relay":"main","public_key":"[0-9a-f]{64}","version":2,.*\}\n$/
a: request HEAD /status HTTP/1.1
a: status 200
a: header Content-Type: application/json
a: header Content-Length: /^[1-9]\d{3,}$/
a: body ""
a: request GET /status?x=y HTTP/1.1 | Content-Length: 5 | | hello
a: status 200


=== TEST 2: other methods
--- derp
a: open
a: request POST /status HTTP/1.1 | Content-Length: 0
a: status 405
a: header Allow: GET, HEAD
a: request DELETE /status HTTP/1.1
a: status 405
a: header Allow: GET, HEAD


=== TEST 3: HTTP/2
--- http_config
server {
    listen 127.0.0.1:$TEST_NGINX_PORT_2 http2;
    location /status { derp_status main; }
}
--- derp
a: open plain port=2
a: h2-get /status
a: h2-status 200


=== TEST 4: who may see it is up to nginx
--- config
location = /closed { derp_status main; deny all; }
--- derp
a: open
a: request GET /closed HTTP/1.1
a: status 403


=== TEST 5: what there is, before anybody came
--- fresh
--- derp
stats workers=workers slots.used=workers clients=0 keys=0 accepts=0 capacity>1000
stats channels.used=0 channels.free>0 channels.size>65536 inboxes.free>0
stats logins.failed.*=0 packets.*=0 bytes.*=0 dropped.*=0 past.packets.*=0


=== TEST 6: clients, in the worker that has them
--- derp
mark
a: connect worker=1
b: connect worker=2
c: connect worker=a
stats clients=3 keys=3 accepts=+3 logins.ok=+3 logins.failed.*=+0
stats of a clients>=2 accepts>=+2 logins.ok>=+2
a: close
stats clients=2 keys=2 logins.ok=+3
b c: close
stats clients=0 keys=0 logins.failed.*=+0


=== TEST 7: home clients
--- derp
mark
a: connect worker=1
b: connect worker=2
a b: prefer yes
stats clients=2 home_clients=2
a: prefer yes
a: sync
stats home_clients=2
a: prefer no
stats home_clients=1
b: close
stats home_clients=0 clients=1 home_moves.*=+0


=== TEST 8: a client on another than its first node
--- derp
a: connect with="Ideal-Node: 900b"
b: connect
stats clients=2 not_ideal=1
a: close
stats clients=1 not_ideal=0


=== TEST 9: packets and bytes each way
--- derp
a: connect worker=1
b: connect worker=2
mark
a: send b noise{1000}
a: send b ""
b: recv a noise{1000}
b: recv a ""
b: send a disco{100}
a: recv b disco{100}
stats packets.received=+3 packets.sent=+3 bytes.received=+1100 bytes.sent=+1100
stats dropped.*=+0 packets.forwarded_in=+0 packets.forwarded_out=+0


=== TEST 10: each worker counts what it has read and what it has written
--- workers: 2 4
--- derp
a: connect worker=1
b: connect worker=2
mark
a: stream b 100 size=500
stats of a packets.received=+100 packets.sent=+0 bytes.received=+50000 bytes.sent=+0
stats of b packets.received=+0 packets.sent=+100 bytes.received=+0 bytes.sent=+50000
stats packets.received=+100 packets.sent=+100 channels.used>=1


=== TEST 11: pings and pongs
--- derp
a: connect
mark
a: ping "12345678"
a: pong "12345678"
stats pings=+1 pongs=+1


=== TEST 12: packets to nobody, and who is told so
--- derp
a: connect
mark
a: send nobody noise{100}
a: send nobody noise{10}
a: send nobody disco{70}
a: gone nobody not-here
stats dropped.other.unknown_dest=+2 dropped_bytes.other.unknown_dest=+110
stats dropped.disco.unknown_dest=+1 dropped_bytes.disco.unknown_dest=+70
stats dropped.*=+3 peer_gone.not_here=+1 packets.received=+3 packets.sent=+0


=== TEST 13: forwarded packets
--- derp_relay
mesh_key_file mesh.key;
--- derp
m: connect mesh worker=1
b: connect worker=2
mark
m: forward x b "hello"
b: recv x "hello"
stats packets.forwarded_in=+1 packets.sent=+1 dropped.*=+0
m: forward x nobody noise{100}
m: forward x nobody disco{80}
m: sync
stats dropped.other.unknown_dest_on_fwd=+1 dropped.disco.unknown_dest_on_fwd=+1
stats dropped_bytes.other.unknown_dest_on_fwd=+100 dropped.*=+2


=== TEST 14: who was told that another has gone
--- derp
a: connect worker=1
b: connect worker=2
mark
a: send b "hello"
b: recv a "hello"
a: close
b: gone a
stats peer_gone.disconnected=+1 peer_gone.not_here=+0


=== TEST 15: a deaf client loses the oldest, and nothing else is lost
--- derp_relay
write_timeout 60s;
--- derp
a: connect worker=1
b: connect worker=2 rcvbuf=4096
c: connect worker=2
b: deaf
mark
a: burst b 3000 size=4000
a: sync
a: stream c 10
stats packets.received=+3010 dropped.other.queue_head>=+1
stats dropped.disco.*=+0 dropped.other.channel=+0 dropped.other.memory=+0
b: hear
b: ascending a 3000 size=4000 lossy
a: sync
stats dropped.other.unknown_dest=+0 dropped.other.gone_disconnected=+0


=== TEST 16: every packet is delivered or dropped
--- derp_relay
write_timeout 60s;
--- derp
a: connect worker=1
b: connect worker=2 rcvbuf=4096
b: deaf
mark
a: burst b 2000 size=4000
a: sync
b: reset
stats clients=1
a: burst b 100
a: sync
stats packets.received=+2100 dropped.other.queue_head>=+1
stats dropped.other.gone_disconnected>=+1 dropped.other.unknown_dest>=+1


=== TEST 17: a client that takes nothing is closed
--- derp_relay
write_timeout 200ms;
--- derp
a: connect worker=1
b: connect worker=2 rcvbuf=4096
mark
b: deaf
a: burst b 3000 size=4000
a: sync
stats write_timeouts=+1 clients=1 dropped.other.queue_head>=+1
stats dropped.other.gone_disconnected>=+1 logins.failed.*=+0


=== TEST 18: several connections with a key
--- derp
mark
a: connect worker=1
b1: connect key=b worker=1
stats clients=2 keys=2 duplicate_keys=0 duplicate_clients=0
b2: connect key=b worker=2
stats clients=3 keys=2 duplicate_keys=1 duplicate_clients=2
b3: connect key=b worker=1
stats clients=4 keys=2 duplicate_keys=1 duplicate_clients=3
b1 b3: close
stats clients=2 keys=2 duplicate_keys=0 duplicate_clients=0
stats logins.ok=+4


=== TEST 19: watchers
--- derp_relay
mesh_key_file mesh.key;
--- derp
m: connect mesh worker=1
stats watchers=0 clients=1
m: watch
m: watch
stats watchers=1
n: connect mesh worker=2
n: watch
stats watchers=2
m: close
stats watchers=1


=== TEST 20: logins that fail: what is sent
--- derp
good: connect
mark
a b c d e f: open
a b c d e f: upgrade
a b c d e f: server-key
stats accepts=+6 logins.ok=+0 logins.failed.*=+0
a: ping "12345678"
a: closed
stats logins.failed.protocol=+1
b: frame client_info noise{10}
b: closed
stats logins.failed.protocol=+2
c: frame client_info hex:00{32}+noise{60}
c: closed
stats logins.failed.box=+1
d: info flip=-1
d: closed
stats logins.failed.box=+2
e: info json='{"version":"2"}'
e: closed
stats logins.failed.json=+1
f: info mesh="0123"
f: closed
stats logins.failed.json=+2 logins.failed.*=+6 logins.ok=+0 clients=1 accepts=+6


=== TEST 21: logins that fail: the client ends them
--- derp
good: connect
mark
a b c d: open
a b c d: upgrade
a b c d: server-key
a: close
stats logins.failed.closed=+1
b: raw hex:02
b: reset
stats logins.failed.closed=+2
c: frame client_info noise{50} length=100
c: shutdown
c: closed
stats logins.failed.closed=+3
d: open
stats logins.failed.closed=+4 logins.failed.*=+4 logins.ok=+0 accepts=+4


=== TEST 22: logins that fail: too late
--- derp_relay
handshake_timeout 200ms;
--- derp
mark
a b: open
a: upgrade
a: server-key
b: upgrade fast
b: server-key
b: raw hex:0200000064+noise{50}
a b: closed
stats logins.failed.timeout=+2 logins.failed.*=+2 accepts=+2


=== TEST 23: logins that fail: too much memory is held for halves of them
--- transport: plain
--- workers: 1 2
--- derp_relay
buffers 16m;
--- derp
mark
x$i: open worker=1 for i=1..80
x$i: upgrade for i=1..80
x$i: server-key for i=1..80
x$i: frame client_info noise{250000} length=262144 for i=1..80
x1: ends
stats logins.failed.memory>=+1 logins.failed.closed=+0 accepts=+80 logins.ok=+0
x$i: close for i=2..80
stats logins.failed.*=+80


=== TEST 24: logins that fail: the worker exits
--- transport: plain
--- main_config
worker_shutdown_timeout 300ms;
--- derp
b: connect
mark
a: open worker=b
a: upgrade
a: server-key
reload
b: ends
a: closed
stats logins.failed.shutdown=+1 logins.failed.*=+1 logins.ok=+0 accepts=+1
stats slots.used=workers clients=0 past.logins.failed.shutdown>=1


=== TEST 25: a login that a reload finds under way does not fail
--- transport: plain
--- derp
b: connect
mark
a: open worker=b
a: upgrade
a: server-key
reload
stats slots.used=workers+1 accepts=+1 logins.ok=+0 logins.failed.*=+0
a: login
stats logins.ok=+1 logins.failed.*=+0


=== TEST 26: a login that was done is none that fails
--- derp
mark
a: connect worker=1
b: connect worker=2
a: frame ping "1234567"
a: closed
b: reset
stats clients=0 logins.ok=+2 logins.failed.*=+0 accepts=+2


=== TEST 27: a worker that is killed: what it counted stays
--- workers: 2 4
--- derp
a: connect worker=1
b: connect worker=2
c: connect worker=2
mark
a: stream b 100 size=100
b: stream c 10 size=100
a: prefer yes
stats packets.received=+110 packets.sent=+110 home_clients=1
kill worker of a
a: ends
stats clients=2 home_clients=0 slots.used=workers workers=workers
stats packets.received=+110 packets.sent=+110 past.packets.received>=100
stats bytes.received=+11000 logins.ok=+0 accepts=+0 logins.failed.*=+0
b: stream c 10 size=100
stats packets.received=+120 packets.sent=+120


=== TEST 28: a worker that is killed before anybody else comes
--- transport: plain
--- fresh
--- workers: 2
--- derp
a: connect worker=1
b: connect worker=2
a: stream b 100 size=100
kill worker of a
a: ends
stats past.packets.received=100 past.packets.sent=0 packets.received=100
kill worker of b
b: ends
stats past.packets.received=100 past.packets.sent=100 packets.sent=100
stats clients=0 keys=0 slots.used=2 accepts=2 logins.ok=2


=== TEST 29: a reload: old workers are there while they have clients
--- transport: plain
--- derp
a: connect worker=1
b: connect worker=a
mark
a: stream b 100
reload
stats slots.used=workers+1 workers=workers+1 clients=2
stats packets.received=+100 packets.sent=+100 accepts=+0
c: connect worker=1
a: stream c 10
stats packets.received=+110 packets.sent=+110 clients=3 accepts=+1
a b: close
stats slots.used=workers workers=workers clients=1 past.packets.received>=100
stats packets.received=+110 packets.sent=+110 accepts=+1 logins.ok=+1


=== TEST 30: slots that are given back are free
--- transport: plain
--- workers: 2
--- fresh
--- derp
stats slots.used=2 slots.free=1022
a: connect
reload
stats slots.used=3 slots.free=1021
a: close
stats slots.used=2 slots.free=1022
b: connect
kill worker of b
b: ends
stats slots.used=2 slots.free=1022


=== TEST 31: two relays count for themselves, and share the slots
--- transport: plain
--- workers: 2
--- http_config
derp_relay other { zone 16m; key_file other.key; }
--- config
location /other { derp other; }
location = /other/status { derp_status other; }
--- derp
mark
mark /other/status
a: connect at=/other
b: connect at=/other
a: stream b 10
stats /other/status clients=2 packets.sent=+10 slots.used=2 slots.free=1022
stats clients=0 packets.sent=+0 accepts=+0 slots.used=2 slots.free=1022


=== TEST 32: a worker that hangs loses what is for it, which is seen in another
--- transport: plain
--- workers: 2
--- derp
a: connect worker=1
b: connect worker=2
freeze worker of b
mark
a: burst b 3000 size=1400
a: sync
stats packets.received=+3000 dropped.other.channel>=+1 dropped.disco.*=+0
stats of a packets.received=+3000 dropped.other.channel>=+1
thaw worker of b


=== TEST 33: links to other relays are no clients, and no logins that fail
--- transport: plain
--- workers: 1 2
--- fresh
--- derp_relay
mesh_key_file mesh.key;
mesh_with http://127.0.0.1:$TEST_NGINX_SERVER_PORT/other;
--- http_config
derp_relay other { zone 32m; key_file other.key; mesh_key_file mesh.key; }
--- config
location /other { derp other; }
location = /other/status { derp_status other; }
--- derp
a: connect
b: connect at=/other
a: reach b
stats clients=1 watchers=0 logins.ok=1
stats /other/status clients=2 watchers=1 logins.ok=2
mark
mark /other/status
a: send b noise{100}
b: recv a noise{100}
stats packets.received=+1 packets.forwarded_out=+1 packets.forwarded_in=+0
stats /other/status packets.forwarded_in=+1 packets.sent=+1 packets.received=+0
m: connect mesh at=/other
m: close-peer server
stats /other/status logins.ok=+2 logins.failed.*=+0 clients=3 watchers=1
stats clients=1 accepts=+0 logins.failed.*=+0
