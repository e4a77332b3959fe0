# The HTTP phase: what is upgraded, what is refused, and that no byte of the
# stream that came along with the request is lost.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: the upgrade
--- derp
a: open
a: request GET /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
a: status 101
a: header Upgrade: DERP
a: header Connection: /^upgrade$/i
a: header Derp-Version: 2
a: header Derp-Public-Key: /^[0-9a-f]{64}$/
a: header !Content-Length
a: header !Transfer-Encoding
a: server-key
a: login
a: sync


=== TEST 2: tokens in any case, among others, in several lines
--- derp
a: open
a: request GET /derp HTTP/1.1 | upgrade: derp | connection: UPGRADE
a: status 101
a: header Upgrade: DERP
b: open
b: request GET /derp HTTP/1.1 | Upgrade: websocket, DERP | Connection: keep-alive,upgrade
b: status 101
b: header Upgrade: DERP
c: open
c: request GET /derp HTTP/1.1 | Connection: keep-alive | Upgrade: Derp | Connection: Upgrade
c: status 101
a b c: server-key
a b c: login


=== TEST 3: the WebSocket of very old clients, which is none, and is named so
--- derp
a: open
a: request GET /derp HTTP/1.1 | Upgrade: WebSocket | Connection: Upgrade
a: status 101
a: header Upgrade: websocket
a: server-key
a: login
a: sync


=== TEST 4: no upgrade
--- derp
a: open
a: request GET /derp HTTP/1.1
a: status 426
a: request GET /derp HTTP/1.1 | Connection: Upgrade
a: status 426
a: request GET /derp HTTP/1.1 | Upgrade: DERP
a: status 426
a: request GET /derp HTTP/1.1 | Upgrade: h2c | Connection: Upgrade
a: status 426
a: request GET /derp HTTP/1.1 | Upgrade: DERPER | Connection: Upgrade
a: status 426
a: request GET /derp HTTP/1.1 | Upgrade: DERP | Connection: upgrades
a: status 426


=== TEST 5: after a refusal the connection is still good for an upgrade
--- derp
a: open
a: request GET /derp HTTP/1.1
a: status 426
a: upgrade
a: server-key
a: login
a: sync


=== TEST 6: HTTP/1.0
--- derp
a: open
a: request GET /derp HTTP/1.0 | Upgrade: DERP | Connection: Upgrade
a: status 400
b: open
b: request GET /derp HTTP/1.0
b: status 426


=== TEST 7: HTTP/2
--- suppress_stderr
--- http_config
server {
    listen 127.0.0.1:$TEST_NGINX_PORT_2 http2;
    location /derp { derp main; }
}
--- derp
a: open plain port=2
a: h2-get /derp
a: h2-status 426
b: open plain port=2
b: h2-get /derp/probe
b: h2-status 200


=== TEST 8: methods other than GET
--- derp
a: open
a: request POST /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
a: status 405
b: open
b: request HEAD /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
b: status 405
c: open
c: request OPTIONS /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
c: status 405


=== TEST 9: bodies
--- derp
a: open
a: request GET /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | Content-Length: 3 | | abc
a: status 400
b: open
b: hold
b: request GET /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | Transfer-Encoding: chunked
b: raw "3\r\nabc\r\n0\r\n\r\n"
b: flush
b: status 400
c: open
c: request POST /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | Content-Length: 3 | | abc
c: status 405


=== TEST 10: probes
--- derp
a: open
a: request GET /derp/probe HTTP/1.1
a: status 200
a: header Access-Control-Allow-Origin: *
a: body ""
a: request HEAD /derp/probe HTTP/1.1
a: status 200
a: header Access-Control-Allow-Origin: *
a: request GET /derp/latency-check?x=1 HTTP/1.1
a: status 200
a: header Access-Control-Allow-Origin: *
a: body ""
a: request HEAD /derp/latency-check HTTP/1.1
a: status 200
a: header Access-Control-Allow-Origin: *
b: open
b: request POST /derp/probe HTTP/1.1 | Content-Length: 3 | | abc
b: status 405
c: open
c: request PUT /derp/latency-check HTTP/1.1 | Content-Length: 0
c: status 405


=== TEST 11: an upgrade of a probe, and nothing else below the location
--- derp
a: open
a: request GET /derp/probe HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
a: status 200
a: request GET /derp/other HTTP/1.1
a: status 404
a: request GET /derp/probe/ HTTP/1.1
a: status 404
a: request GET /derp/other HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
a: status 404


=== TEST 12: arguments, and a rewritten request
--- config
rewrite ^/elsewhere$ /derp last;
--- derp
a: connect at=/derp?some=thing
b: connect at=/elsewhere
a: send b "hello"
b: recv a "hello"


=== TEST 13: other modules of nginx have their say before the upgrade
--- derp_location
if ($http_x_deny) { return 403; }
deny ::1;
allow all;
--- derp
a: open
a: request GET /derp HTTP/1.1 | X-Deny: 1 | Upgrade: DERP | Connection: Upgrade
a: status 403
b: open v6
b: request GET /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
b: status 403
allow /access forbidden by rule/
c: connect


=== TEST 14: a client that does not wait for the 101
--- derp
b: connect
a: open
a: hold
a: upgrade
a: info
a: send b "hello"
a: ping "12345678"
a: flush
a: status 101
a: header Derp-Version: 2
a: server-key
a: server-info
a: pong "12345678"
b: recv a "hello"


=== TEST 15: fast start
--- derp
b: connect
a: connect fast
a: send b "hello"
b: recv a "hello"
b: send a "you too"
a: recv b "you too"


=== TEST 16: fast start, packets in the first flight
--- derp
b: connect
a: open
a: hold
a: upgrade fast
a: info
a: send b "first"
a: send b noise{65536}
a: send b "last"
a: flush
a: server-key
a: server-info
b: recv a "first"
b: recv a noise{65536}
b: recv a "last"


=== TEST 17: fast start without the ClientInfo
--- derp
a: open
a: upgrade fast
a: server-key
a: login
a: sync


=== TEST 18: a header that nearly asks for a fast start
--- derp
a: open
a: request GET /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | Derp-Fast-Start: 0
a: status 101
b: open
b: request GET /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | Derp-Fast-Start: 11
b: status 101


=== TEST 19: the first flight, read byte by byte
--- derp
a: open
a: hold
a: upgrade
a: info
a: ping "12345678"
a: flush by=1
a: status 101
a: server-key
a: server-info
a: pong "12345678"
b: open
b: hold
b: upgrade fast
b: info
b: ping "12345678"
b: flush by=7
b: server-key
b: server-info
b: pong "12345678"


=== TEST 20: a head that takes a large buffer, and bytes behind it
--- derp
b: connect
a: open
a: hold
a: raw "GET /derp HTTP/1.1\r\nHost: localhost\r\nX: "+"x"{3000}
a: raw "\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Fast-Start: 1\r\n\r\n"
a: info
a: send b noise{4000}
a: flush
a: server-key
a: server-info
b: recv a noise{4000}


=== TEST 21: an upgrade behind other requests in one write
--- derp
a: open
a: hold
a: raw "GET /derp/probe HTTP/1.1\r\nHost: x\r\n\r\n"{3}
a: upgrade
a: info
a: ping "12345678"
a: flush
a: status 200 for i=1..3
a: status 101
a: server-key
a: server-info
a: pong "12345678"


=== TEST 22: the end of the client at any time
--- derp
a b c d e: open
a: hold
a: upgrade
a: close
b: upgrade fast
b: close
c: upgrade
c: reset
d: upgrade
d: server-key
d: raw hex:0200
d: reset
e: upgrade
e: info
e: close
f: connect
f: sync


=== TEST 23: the access log knows what a fast start was answered
--- once
--- derp
a: connect fast at=/derp?fast
a: sync
file ../logs/access.log like /"GET /derp\?fast HTTP/1.1" 101 /
b: connect at=/derp?slow
b: sync
file ../logs/access.log like /"GET /derp\?slow HTTP/1.1" 101 /


=== TEST 24: a client that is not on its first choice of a node
--- derp
a: connect with="Ideal-Node: 1a"
a: sync


=== TEST 25: who starts fast is not answered, but closed
--- once
--- derp
good: connect
a b c d: open
a: request POST /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | Derp-Fast-Start: 1
a: closed
b: request HEAD /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | Derp-Fast-Start: 1
b: closed
c: request GET /derp HTTP/1.0 | Upgrade: DERP | Connection: Upgrade | Derp-Fast-Start: 1
c: closed
d: request GET /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | Derp-Fast-Start: 1 | Content-Length: 3 | | abc
d: ends
file ../logs/access.log like /(?:\n.* "(?:POST|HEAD) .derp HTTP.1.1" 405 .*){2}(?:\n.* "GET .derp HTTP.1.[01]" 400 .*){2}/
good: sync


=== TEST 26: limit_conn counts for as long as there is the session
--- http_config
limit_conn_zone $arg_of zone=clients:1m;
limit_conn_log_level notice;
--- derp_location
limit_conn clients 2;
--- derp
x: connect worker=1
a: connect worker=1 at=/derp?of=one
b: connect worker=2 at=/derp?of=one fast
c: open worker=3
c: request GET /derp?of=one HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
c: status 503
d: connect at=/derp?of=two
a: send b "hello"
b: recv a "hello"
c: open worker=3
c: request GET /derp?of=one HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
c: status 503
a: close
x: sync
x: sync
b: gone a
c: connect worker=2 at=/derp?of=one
a: open worker=1
a: request GET /derp?of=one HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
a: status 503
c: send b "hello"
b: recv c "hello"


=== TEST 27: and what fails in the login counts no more
--- http_config
limit_conn_zone $arg_of zone=clients:1m;
limit_conn_zone $server_name zone=all:1m;
limit_conn_log_level notice;
--- derp_location
limit_conn clients 1;
limit_conn all 2;
--- derp
x: connect worker=1
a: open worker=1
a: upgrade at=/derp?of=one
a: server-key
b: open worker=1
b: request GET /derp?of=two HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
b: status 503
a: info flip=-1
a: closed
x: sync
x: sync
b: connect worker=1 at=/derp?of=one


=== TEST 28: subrequests are not upgraded
--- config
location = /mirrored { mirror /derp; empty_gif; }
location = /asked { auth_request /derp; empty_gif; }
--- derp
a: open
a: request GET /mirrored HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
a: status 200
a: request GET /derp/probe HTTP/1.1
a: status 200
allow /auth request unexpected status: 426/
b: open
b: request GET /asked HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
b: status 500
c: connect
c: sync


=== TEST 29: what a proxy got in early data
--- once
--- derp
a: open
a: request GET /derp?slow HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | Early-Data: 1
a: status 425
a: upgrade
a: server-key
a: login
b: open
b: request GET /derp?fast HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | Derp-Fast-Start: 1 | Early-Data: 1
b: closed
file ../logs/access.log like /"GET /derp\?slow HTTP/1.1" 425 /
file ../logs/access.log like /"GET /derp\?fast HTTP/1.1" 425 0 /
a: sync


=== TEST 30: the log names the client behind PROXY protocol
--- transport: plain
--- derp_relay
mesh_key_file mesh.key;
--- http_config
server {
    listen 127.0.0.1:$TEST_NGINX_PORT_2 proxy_protocol;
    set_real_ip_from 127.0.0.1;
    real_ip_header proxy_protocol;
    location /derp { derp main; }
}
--- derp
w: connect mesh
w: watch
w: present w
a: open port=2
a: raw "PROXY TCP4 198.51.100.7 192.0.2.1 4567 443\r\n"
a: upgrade
a: server-key
a: login
w: expect peer_present key:a+hex:00000000000000000000ffffc6336407+u16:4567+u8:1
a: frame ping "123"
a: closed
log /client sent Ping of 3 bytes which is out of bounds while relaying, derp_relay: "main", client: 198\.51\.100\.7, nodekey:key:a$/
log /derp session ended: protocol error, .*, client: 198\.51\.100\.7, nodekey:key:a$/
b: open port=2
b: raw hex:0d0a0d0a000d0a515549540a2121002420010db800000000000000000000000720010db8000000000000000000000001+u16:4568+u16:443
b: upgrade
b: server-key
b: login
w: pick expect peer_present key:b+hex:20010db8000000000000000000000007+u16:4568+u8:1
b: frame ping "123"
b: closed
log /client sent Ping of 3 bytes .*, client: 2001:db8::7, nodekey:key:b$/
log /derp session ended: protocol error, .*, client: 2001:db8::7, nodekey:key:b$/
c: open port=2
c: raw "PROXY UNKNOWN\r\n"
c: upgrade
c: server-key
c: login
c: shutdown
c: closed
log /derp session ended: client closed, .*, client: 127\.0\.0\.1, nodekey:key:c$/


=== TEST 31: and behind a proxy that says so in a header
--- derp_relay
mesh_key_file mesh.key;
--- derp_location
set_real_ip_from 127.0.0.1;
set_real_ip_from ::1;
real_ip_header X-Forwarded-For;
--- derp
w: connect mesh
w: watch
w: present w
a: connect with="X-Forwarded-For: 198.51.100.7"
w: expect peer_present key:a+hex:00000000000000000000ffffc6336407+u16:0+u8:1
b: connect fast with="X-Forwarded-For: [2001:db8::7]:4567"
w: expect peer_present key:b+hex:20010db8000000000000000000000007+u16:4567+u8:1
c: open v6
c: request GET /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | X-Forwarded-For: 192.0.2.1, 198.51.100.8:99
c: status 101
c: server-key
c: info flip=-1
c: closed
a b: frame ping "123"
a b: closed
log /client sent Ping of 3 bytes .*, client: 198\.51\.100\.7, nodekey:key:a$/
log /derp session ended: protocol error, .*, client: 198\.51\.100\.7, nodekey:key:a$/
log /client sent Ping of 3 bytes .*, client: 2001:db8::7, nodekey:key:b$/
log /derp session ended: protocol error, .*, client: 2001:db8::7, nodekey:key:b$/
log /client sent ClientInfo of .*, client: 198\.51\.100\.8, nodekey:key:c$/
log /derp session ended: protocol error, .*, client: 198\.51\.100\.8, nodekey:key:c$/
d: connect with="X-Forwarded-For: nobody"
d: shutdown
d: closed
log /derp session ended: client closed, .*, client: 127\.0\.0\.1, nodekey:key:d$/


=== TEST 32: and behind one that comes by a unix socket
--- derp_relay
mesh_key_file mesh.key;
--- http_config
server {
    listen unix:$TEST_NGINX_SOCKET;
    set_real_ip_from unix:;
    real_ip_header X-Real-IP;
    location /derp { derp main; }
}
--- config
location = /proxied {
    proxy_pass http://unix:$TEST_NGINX_SOCKET:/derp;
    proxy_http_version 1.1;
    proxy_set_header Connection upgrade;
    proxy_set_header Upgrade $http_upgrade;
}
--- derp
w: connect mesh
w: watch
w: present w
a: open
a: request GET /proxied HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | X-Real-IP: 198.51.100.7
a: status 101
a: server-key
a: login
w: expect peer_present key:a+hex:00000000000000000000ffffc6336407+u16:0+u8:1
a: send w "hello"
w: recv a "hello"
a: frame ping "123"
a: closed
log /client sent Ping of 3 bytes .*, client: 198\.51\.100\.7, nodekey:key:a$/
log /derp session ended: protocol error, .*, client: 198\.51\.100\.7, nodekey:key:a$/
b: open
b: request GET /proxied HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
b: status 101
b: server-key
b: login
w: pick expect peer_present key:b+hex:00000000000000000000000000000000+u16:0+u8:1
b: shutdown
b: closed
log /derp session ended: client closed, .*, client: unix:, nodekey:key:b$/
