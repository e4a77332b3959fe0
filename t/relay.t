# The relay: packets, pings, all limits of the frames, and what a slow or a bad
# client does to itself and not to others.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: a packet there, and one back
--- derp
a: connect worker=1
b: connect worker=2
a: send b "hello"
b: recv a "hello"
b: send a "hello yourself"
a: recv b "hello yourself"
a b: nothing


=== TEST 2: plain to TLS, IPv4 to IPv6, and back
--- derp
a: connect plain worker=1
b: connect tls v6 worker=2
a: send b noise{20000}
b: recv a noise{20000}
b: send a noise:1{20000}
a: recv b noise:1{20000}


=== TEST 3: sizes
--- derp
a: connect worker=1
b: connect worker=2
a: send b ""
b: recv a ""
a: send b "x"
b: recv a "x"
a: send b noise{1400}
b: recv a noise{1400}
a: send b noise{16384}
b: recv a noise{16384}
a: send b noise{65535}
b: recv a noise{65535}
a: send b noise{65536}
b: recv a noise{65536}
a b: nothing


=== TEST 4: a packet too large closes its sender, alone
--- derp
a: connect worker=1
b: connect worker=2
c: connect worker=1
c: send b "before"
a: send b noise{65537}
a: ends
log /\[info\].*client sent SendPacket of 65569 bytes .*key:a/
b: recv c "before"
b: nothing via c


=== TEST 5: a packet too large is told by its head
--- derp
a b: connect
a: frame send_packet key:b length=65569
a: closed
b: frame send_packet key:b length=4294967295
b: closed
log /\[info\].*client sent SendPacket of 65569 bytes .*key:a/
log /\[info\].*client sent SendPacket of 4294967295 bytes .*key:b/


=== TEST 6: SendPacket without a whole key
--- derp
a b c: connect
a: frame send_packet
a: closed
b: frame send_packet noise{31}
b: closed
log /\[info\].*client sent SendPacket of 0 bytes .*key:a/
log /\[info\].*client sent SendPacket of 31 bytes .*key:b/
c: frame send_packet noise{32}
c: sync


=== TEST 7: to oneself
--- derp
a: connect
a: send a "12345678"
a: recv a "12345678"
a: send a noise{65536}
a: recv a noise{65536}


=== TEST 8: to nobody, and to the server
--- derp
a: connect
a: send nobody "hello"
a: send server "hello"
a: send nobody noise{65536}
a: nothing


=== TEST 9: pings
--- derp
a: connect
a: ping "12345678"
a: pong "12345678"
a: ping "abcdefghij"
a: pong "abcdefgh"
a: ping noise{1000}
a: pong noise{8}


=== TEST 10: pings of a wrong length
--- derp
good a b c d: connect
a: ping ""
a: closed
b: ping "1234567"
b: closed
c: ping noise{1001}
c: ends
d: frame ping "12345678" length=70000
d: closed
log /\[info\].*client sent Ping of 0 bytes .*key:a/
log /\[info\].*client sent Ping of 7 bytes .*key:b/
log /\[info\].*client sent Ping of 1001 bytes .*key:c/
log /\[info\].*client sent Ping of 70000 bytes .*key:d/
good: sync


=== TEST 11: a flood of pings
--- derp
a: connect
a: hold
a: ping "first..."
a: ping "ping $i.." for i=10..59
a: flush
a: pong "first..."
a: sync


=== TEST 12: the preferred node
--- derp
a b c d: connect
a: prefer yes
a: prefer yes
a: prefer no
a: frame note_preferred hex:02
a: sync
b: frame note_preferred
b: closed
c: frame note_preferred hex:0101
c: closed
d: frame note_preferred hex:01 length=100000
d: closed
log /\[info\].*client sent NotePreferred of 0 bytes .*key:b/
log /\[info\].*client sent NotePreferred of 2 bytes .*key:c/
log /\[info\].*client sent NotePreferred of 100000 bytes .*key:d/


=== TEST 13: unknown frames are read past
--- derp
a: connect
a: frame 0x00 ""
a: frame 0x0b "x"
a: frame 0x0f noise{100}
a: frame 0x16 noise{65536}
a: frame 0x2a noise{70000}
a: frame 0xff noise{1048577}
a: nothing


=== TEST 14: so are the server's own
--- derp
a: connect
a: frame server_key noise{40}
a: frame server_info noise{60}
a: frame recv_packet noise{40}
a: frame keepalive
a: frame peer_gone noise{33}
a: frame peer_present noise{51}
a: frame pong "12345678"
a: frame health "sick"
a: frame restarting hex:0000000100000001
a: nothing


=== TEST 15: and a second ClientInfo
--- derp
b: connect
a: connect
a: info
a: info flip=-1
a: frame client_info noise{10}
a: nothing
a: send b "still me"
b: recv a "still me"


=== TEST 16: frames in pieces
--- derp
a: connect worker=1
b: connect worker=2
a: hold
a: send b "hello"
a: ping "12345678"
a: frame 0x2a noise{20}
a: send b ""
a: flush by=1
b: recv a "hello"
a: pong "12345678"
b: recv a ""
a: hold
a: send b noise{65536}
a: send b noise:1{65536}
a: flush by=9999
b: recv a noise{65536}
b: recv a noise:1{65536}


=== TEST 17: half a frame, and the end
--- derp
a c: connect worker=1
b: connect worker=2
a: hold
a: send b "whole"
a: frame send_packet key:b+"half" length=100
a: flush
a: settle
a: close
b: recv a "whole"
b: gone a
b: nothing via c


=== TEST 18: an unknown frame in pieces, another behind it
--- derp
a: connect
a: hold
a: frame 0x2a noise{100000}
a: ping "12345678"
a: flush by=33333
a: pong "12345678"


=== TEST 19: many frames in one write
--- derp
a: connect worker=1
b: connect worker=2
a: hold
a: send b "number $i" for i=1..30
a: flush
b: recv a "number $i" for i=1..30


=== TEST 20: what was sent before the sender's end is delivered
--- derp
a: connect worker=1
b: connect worker=2
a: hold
a: send b "number $i" for i=1..20
a: flush
a: close
b: pick recv a "number $i" for i=1..20


=== TEST 21: a client that will send no more is let go
--- derp
a b: connect
a: shutdown
a: closed
b: sync


=== TEST 22: several clients, each to each
--- derp
c$i: connect worker=$i for i=1..6
c$i: send c$j "from $i to $j" for i=1..6 j=1..6
c$j: pick recv c$i "from $i to $j" for j=1..6 i=1..6
c1 c2 c3 c4 c5 c6: nothing


=== TEST 23: order
--- derp
a: connect worker=1
b: connect worker=2
c: connect worker=1
a: stream b 3000
c: stream a 1000 size=1400
b: stream c 100 size=65536 window=8
a b c: nothing


=== TEST 24: many senders, one receiver
--- derp
r: connect worker=1
c$i: connect worker=$i for i=1..20
c$i: send r "first of $i" for i=1..20
c$i: send r "second of $i" for i=1..20
r: pick recv c$i "first of $i" for i=1..20
r: pick recv c$i "second of $i" for i=1..20
r: nothing


=== TEST 25: a receiver that is too slow loses the oldest, whole frames
--- derp_relay
write_timeout 5m;
--- derp
a: connect worker=1
b: connect worker=2 rcvbuf=4096
b: deaf
a: burst b 3000 size=4000
a: sync
a: burst b 1 from=3001 size=4000
a: sync
b: hear
b: ascending a 3001 size=4000 lossy
b: nothing via a
a: nothing


=== TEST 26: disco packets and others do not drive each other out
--- derp_relay
write_timeout 5m;
--- derp
a: connect worker=1
b: connect worker=2 rcvbuf=4096
b: deaf
a: send b disco{1000}
a: burst b 3000 size=4000
a: sync
a: send b disco:1{1000}
a: sync
b: hear
b: pick recv a disco:1{1000}


=== TEST 27: a slow receiver is nobody else's matter
--- derp
a: connect worker=1
slow: connect worker=2 rcvbuf=4096
b: connect worker=2
slow: deaf
a: burst slow 2000 size=4000
a: stream b 500 size=1400
b: stream a 500 size=1400


=== TEST 28: a client that takes nothing is closed
--- derp_relay
write_timeout 300ms;
--- derp
a: connect worker=1
b: connect worker=2 rcvbuf=4096
c: connect worker=2
b: deaf
a: burst b 3000 size=4000
a: sync
log /\[info\].*write timed out.*key:b/
b: hear
b: ends
a c: sync


=== TEST 29: two relays in one nginx know nothing of each other
--- http_config
derp_relay other { zone 16m; key_file other.key; }
--- config
location /other { derp other; }
location /same { derp main; }
--- derp
a: connect worker=1
b: connect worker=2 at=/other
c: connect worker=2 at=/same
a: send b "hello"
a: send c "hello"
c: recv a "hello"
b: nothing
b: send a "hello"
b: nothing
a: nothing via c


=== TEST 30: the end by RST
--- derp
a: connect worker=1
b: connect worker=2
a: send b "hello"
a: reset
b: pick recv a "hello"
b: send a "are you there?"
b: sync


=== TEST 31: both ends send without an end
--- derp
a: connect worker=1
b: connect worker=2
a: burst b 200 size=60000
b: burst a 200 size=60000
a: ascending b 200 size=60000
b: ascending a 200 size=60000


=== TEST 32: what ends one connection ends no other of its key
--- derp
good: connect worker=1
a1: connect key=a worker=1
a2: connect key=a worker=2
a1: ping "1234567"
a1: closed
log /\[info\].*client sent Ping of 7 bytes .*key:a/
a2: sync
good: send a "hello"
a2: recv good "hello"


=== TEST 33: what came before a breach is dealt with, and nothing behind it
--- derp
b: connect worker=2
c: connect worker=1
a: connect worker=1
a: hold
a: send b "before"
a: frame note_preferred hex:0101
a: send b "behind"
a: flush
a: closed
b: recv a "before"
b: gone a
b: nothing via c


=== TEST 34: Ping and NotePreferred in pieces, their length known before
--- derp
a b: connect
a: frame ping "12345678" length=1000
a: settle
a: raw noise{992}
a: pong "12345678"
b: frame ping "12345678" length=1001
b: closed
log /\[info\].*client sent Ping of 1001 bytes .*key:b/


=== TEST 35: large packets, whole, to one who reads late
--- derp
a: connect worker=1
b: connect worker=1 rcvbuf=4096
b: deaf
a: burst b 200 size=65536
a: sync
a: ping "12345678"
a: pong "12345678"
b: hear
b: ascending a 200 size=65536 lossy
a: stream b 100 size=65536 window=8


=== TEST 36: nothing is lost of what a queue holds, however it is cut
--- derp
a: connect worker=1
b: connect worker=1 rcvbuf=4096
c: connect worker=1
b: deaf
a: hold
a: send b noise:$i{60000} for i=1..20
a: send c "between"
a: send b noise:$i{3000} for i=21..25
a: send b disco:$i{1200} for i=1..30
a: flush by=100000
a: sync
c: send b "from another"
c: recv a "between"
b: hear
b: recv a noise:$i{60000} for i=1..20
b: recv a noise:$i{3000} for i=21..25
b: recv a disco:$i{1200} for i=1..30
b: recv c "from another"


=== TEST 37: where memory ends, it is those who hold most that lose
--- workers: 1 2
--- derp_relay
buffers 16m;
write_timeout 60s;
--- derp
a: connect worker=1
small: connect worker=2 rcvbuf=4096
big$i: connect worker=2 rcvbuf=4096 for i=1..9
small: deaf
a: burst small 3000 size=4000
a: send small disco:1{1000}
a: sync
big$i: deaf for i=1..9
a: burst big$i 90 size=65536 for i=1..9
a: sync
a: send small disco:2{1000}
a: sync
small: hear
small: pick recv a disco:1{1000}
small: pick recv a disco:2{1000}
big$i: hear for i=1..9
big$i: ascending a 90 size=65536 lossy for i=1..9


=== TEST 38: keys of TLS are changed, in the midst of what is sent too
--- transport: tls
--- derp_relay
write_timeout 60s;
--- derp
a: connect worker=1
b: connect worker=1 rcvbuf=4096
b: rekey
b: ping "12345678"
b: pong "12345678"
a: send b "with new keys"
b: recv a "with new keys"
b: deaf
a: burst b 200 size=65536
a: sync
b: rekey
b: send a "without reading"
a: recv b "without reading"
b: rekey for i=1..3
b: send a "again"
a: recv b "again"
b: hear
b: ascending a 200 size=65536 lossy
b: rekey
a: stream b 100 size=65536 window=8


=== TEST 39: keys of TLS are changed on and on by a client that reads nothing
# OpenSSL answers each change, and the client is closed before the answers take up
# memory.  AWS-LC answers none before its last answer is written, and the client
# stays.

--- transport: tls
--- once
--- derp_relay
write_timeout 60s;
--- derp eval
'a: connect worker=1
b: connect worker=1 rcvbuf=4096
b: deaf
a: burst b 200 size=65536
a: sync
b: rekey for i=1..4000
' . (Test::Nginx::DERP::built(qr/^built with .*AWS-LC/m)
     ? 'b: settle
b: hear
b: ascending a 200 size=65536 lossy
a: stream b 100 size=1400'
     : 'log /\[info\].*derp session ended: read failed.*key:b/
b: hear
b: ends')


=== TEST 40: a client that has TLS's records made small
--- transport: tls
--- derp_relay
write_timeout 60s;
--- derp
a: connect worker=1
b: connect worker=1 rcvbuf=4096 fragments=512
a: stream b 100 size=65536 window=8
b: stream a 100 size=65536 window=8
b: deaf
a: burst b 200 size=65536
a: sync
b: hear
b: ascending a 200 size=65536 lossy
a: stream b 100 size=1400
