# The login: ServerKey, ClientInfo, ServerInfo, and what makes it fail.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: the server says nothing but its key before it knows who is there
--- derp
a: open
a: upgrade
a: server-key
a: settle
a: nothing
a: login
a: nothing


=== TEST 2: IPv4 and IPv6
--- derp
a: connect
b: connect v6
a: send b "4 to 6"
b: recv a "4 to 6"
b: send a "6 to 4"
a: recv b "6 to 4"


=== TEST 3: JSON: names in any case, unknown ones, spaces
--- derp
a: connect json='{"version":2,"canAckPings":true,"isProber":false}'
b: connect json='{"Version":2,"CANACKPINGS":true,"isprober":true,"AppName":"x"}'
c: connect json='{}'
d: connect json=' { "new" : { "a" : [ 1, "]}", null ] }, "version" : 2 } '
e: connect json='{"version":2,"AppName":"\u00e9\ud83d\ude00\\\""}'
a b c d e: sync


=== TEST 4: JSON: what Go's decoder lets in
--- derp
a: connect json='{"x":9223372036854775808,"y":-1e999,"z":[-0.0E+07]}'
b: connect json='{"x":'+'['{3000}+']'{3000}+'}'
c: connect json='{"x":'+'{"":['{4999}+'[]'+']}'{4999}+'}'
d: connect json='{"x":"\ud800","\udc00\u0000":"'+hex:fffec080+'"}'
e: connect json='{"version":2,"version":null,"AppName":"x\u0000"}'
f: connect json='{"vEr\u017fion":-9223372036854775808,"ver'+hex:c5bf+'ion":-0}'
g: connect json='{"mes\u0068Key":"'+'\u0061F'{32}+'"}'
h: connect json='{"mesh'+hex:e284aa+'ey":"'+'0'{64}+'"}'
i: connect json='null'
a b c d e f g h i: sync


=== TEST 5: JSON: as much as there may be
--- derp
a: connect size=262144 json='{"x":['+'{},'{87350}+'0]}'
b: connect size=262144 json='{"x":['+'"\u0000",'{29000}+'0]}'
c: connect size=262144 json='{'+'"version":2,'{21000}+'"x":0}'
d: connect size=262144 json='{"x":'+'1'{262000}+'}'
a b c d: sync


=== TEST 6: JSON that Go's decoder refuses
--- derp
good: connect
a$i: open for i=1..12
a$i: upgrade for i=1..12
a$i: server-key for i=1..12
a1: info json='{"x":'+'['{10000}+']'{10000}+'}'
a2: info json='{"x":'+'['{262000}
a3: info json='{"x":"\ud80"}'
a4: info json='{"x":"\'+"'"+'"}'
a5: info json='{"x":"'+hex:1f+'"}'
a6: info json='{"x":01}'
a7: info json='null null'
a8: info json='[{"x":0}]'
a9: info json='{"version":9223372036854775808}'
a10: info json='{"version":1e2}'
a11: info json='{"version":"2","version":2}'
a12: info json='{"mesh'+hex:e284aa+'ey":null}'
a$i: closed for i=1..12
log 2x /\[info\].*client sent ClientInfo of \d+ bytes nested too deeply/
log 5x /\[info\].*client sent ClientInfo of \d+ bytes not JSON/
log 1x /\[info\].*client sent ClientInfo of \d+ bytes not a JSON object/
log 3x /\[info\].*client sent ClientInfo of \d+ bytes version is not a number/
log 1x /\[info\].*client sent ClientInfo of \d+ bytes mesh key is not 64 hex/
good: sync


=== TEST 7: JSON that is none
--- derp
good: connect
a: open
a: upgrade
a: server-key
a: info json=''
a: closed
a: open
a: upgrade
a: server-key
a: info json='{'
a: closed
a: open
a: upgrade
a: server-key
a: info json='[]'
a: closed
a: open
a: upgrade
a: server-key
a: info json='{"version":2} {}'
a: closed
a: open
a: upgrade
a: server-key
a: info json='{"version":2,}'
a: closed
log 5x /\[info\].*client sent ClientInfo .*(?:JSON|object)/
good: sync


=== TEST 8: JSON whose values are of the wrong kind
--- derp
a b c: open
a b c: upgrade
a b c: server-key
a: info json='{"version":"2"}'
a: closed
b: info json='{"version":2,"meshKey":5}'
b: closed
c: info json='{"version":2,"IsProber":"yes"}'
c: closed


=== TEST 9: a mesh key is 64 hex digits
--- derp
a b c d: open
a b c d: upgrade
a b c d: server-key
a: info json='{"version":2,"meshKey":"0123"}'
a: closed
b: info mesh="0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde"
b: closed
c: info mesh="0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdeg"
c: closed
d: info json='{"version":2,"MESHKEY":"no"}'
d: closed
log 4x /\[info\].*client sent ClientInfo .*mesh key/


=== TEST 10: a mesh key where none is set
--- derp
a: connect mesh
b: connect mesh="0000000000000000000000000000000000000000000000000000000000000000"
a: send b "hello"
b: recv a "hello"


=== TEST 11: bad boxes
--- derp
a b c d e f g: open
a b c d e f g: upgrade
a b c d e f g: server-key
a: info flip=0
a: closed
b: info flip=32
b: closed
c: info flip=56
c: closed
d: info flip=-1
d: closed
e: info to=other
e: closed
f: info claim=other
f: closed
g: frame client_info hex:00{32}+noise{60}
g: closed
log 7x /\[info\].*client sent ClientInfo .*(?:box|key)/


=== TEST 12: the length of ClientInfo: too short
--- derp
good: connect
a b c d e: open
a b c d e: upgrade
a b c d e: server-key
a: frame client_info
a: closed
b: info cut=32
b: closed
c: info cut=55
c: closed
d: info cut=56
d: closed
e: info cut=71
e: closed
log /\[info\].*client sent ClientInfo of 0 bytes which is out of bounds/
log /\[info\].*client sent ClientInfo of 32 bytes which is out of bounds/
log /\[info\].*client sent ClientInfo of 55 bytes which is out of bounds/
good: sync


=== TEST 13: the length of ClientInfo: as long as may be
--- derp
a: connect size=262144
a: sync
b: connect size=65536
c: connect size=65600
a: send b "hello"
b: recv a "hello"


=== TEST 14: the length of ClientInfo: too long, told by its head
--- derp
good: connect
a b: open
a b: upgrade
a b: server-key
a: frame client_info noise{100} length=262145
a: closed
b: frame client_info noise{100} length=4294967295
b: closed
log /\[info\].*client sent ClientInfo of 262145 bytes/
log /\[info\].*client sent ClientInfo of 4294967295 bytes/
good: sync


=== TEST 15: another frame first
--- derp
a b c d: open
a b c d: upgrade
a b c d: server-key
a: ping "12345678"
a: closed
b: send a "hello"
b: closed
c: frame 0x2a noise{200}
c: closed
d: frame server_key noise{100}
d: closed


=== TEST 16: frames right behind ClientInfo, answered after ServerInfo
--- derp
b: connect
a: open
a: upgrade
a: server-key
a: hold
a: info
a: ping "12345678"
a: send b "one"
a: send b noise{60000}
a: send a "myself"
a: flush
a: server-info
a: pick recv a "myself"
a: pong "12345678"
b: recv a "one"
b: recv a noise{60000}


=== TEST 17: a bad frame right behind ClientInfo
--- derp
a: open
a: upgrade
a: server-key
a: hold
a: info
a: frame ping "1234567"
a: flush
a: ends
b: connect


=== TEST 18: ClientInfo in pieces
--- derp
a: open
a: upgrade
a: server-key
a: hold
a: info
a: ping "12345678"
a: flush by=1
a: server-info
a: pong "12345678"
b: open
b: upgrade
b: server-key
b: hold
b: info size=200000
b: ping "12345678"
b: flush by=30011
b: server-info
b: pong "12345678"


=== TEST 19: the client's end in the middle of its login
--- derp
a b c: open
a b c: upgrade
a b c: server-key
a: raw hex:02
a: close
b: frame client_info noise{50} length=100
b: close
c: frame client_info noise{50} length=100
c: shutdown
c: closed
good: connect
good: sync


=== TEST 20: every connection is told the same key, and it is that of 101
--- derp
a$i: connect worker=$i for i=1..4
b$i: connect worker=$i fast for i=1..4


=== TEST 21: a failed login leaves nobody behind
--- derp
good: connect
a: open
a: upgrade
a: server-key
a: info flip=-1
a: closed
good: send a "hello"
good: sync
a: connect
good: send a "again"
a: recv good "again"


=== TEST 22: a login that takes too long
--- derp_relay
handshake_timeout 200ms;
--- derp
good: connect
a b c: open
a: upgrade
a: server-key
b: upgrade
b: server-key
b: raw hex:02
c: upgrade fast
c: server-key
c: raw hex:0200000064+noise{50}
a b c: closed
log 3x /\[info\].*derp session ended: login timed out/
good: sync
