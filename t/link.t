# Links of the mesh, between two relays in one nginx.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: packets cross in both directions
--- fresh
--- linked: 0
--- derp
a: connect worker=1
b: connect worker=2 at=/other
a: reach b
b: reach a
a: send b "hello"
b: recv a "hello"
b: send a noise{65536}
a: recv b noise{65536}
a: send b ""
b: recv a ""
a: stream b 500 size=1400
b: stream a 500 size=1400
a b: nothing


=== TEST 2: who leaves the region is told across the link
--- fresh
--- linked: 0
--- derp
a: connect worker=1
b: connect worker=2 at=/other
c: connect worker=1 at=/other
a: reach b
b: reach a
b: reach c
b: close
a: gone b
c: gone b
a: send b "hello"
a: nothing


=== TEST 3: who is unknown there is not here
--- fresh
--- linked: 0
--- derp
a: connect worker=1
b: connect worker=2 at=/other
a: reach b
a: send nobody disco
a: gone nobody not-here


=== TEST 4: local beats remote
--- fresh
--- linked: 0
--- derp
a: connect worker=1
b1: connect key=b worker=2 at=/other
a: reach b1
b1: reach a
b2: connect key=b worker=2
a: send b "here"
b2: recv a "here"
b2: send a "from here"
a: recv b "from here"
b1: nothing
b2: close
a: reach b1
a: nothing
b1: send a "from there"
a: recv b "from there"
b1: close
a: gone b
a: nothing


=== TEST 5: a packet crosses one link at most
--- fresh
--- linked: 0
--- derp
a: connect worker=1
m: connect mesh worker=1
b: connect worker=2 at=/other
a: reach b
m: forward far b "too far"
m: forward far a "near"
a: recv far "near"
a: send b "directly"
b: recv a "directly"
b: nothing


=== TEST 6: a link that is cut takes away what came by it, and comes again
--- fresh
--- linked: 0
--- derp
a: connect worker=1
b: connect worker=2 at=/other
w: connect mesh worker=2 at=/other
a: reach b
b: reach a
allow /has lost its link|mesh peer/
w: close-peer server
a: gone b
log /\[\w+\].*derp_relay "main" has lost its link to \S+: mesh peer closed/
a: reach b
b: reach a


=== TEST 7: the worker that has a link dies
--- fresh
--- linked: 0
--- derp
a: connect worker=1
b: connect worker=2 at=/other
a: reach b
b: reach a
allow /has lost its link|mesh peer/
kill owner of /other
log 2x /"main" is linked to/
c: connect worker=1
d: connect worker=2 at=/other
c: reach d
d: reach c


=== TEST 8: a reload hands the links over, and nobody hears of it
--- fresh
--- linked: 0
--- derp
a: connect worker=1
b: connect worker=2 at=/other
a: reach b
b: reach a
reload
a: stream b 200 size=1400
b: stream a 200 size=1400
log 2x /has let go of its link to/ within=20
a: stream b 200 size=1400
b: stream a 200 size=1400
a b: nothing
c: connect worker=1
d: connect worker=2 at=/other
c: reach d
d: reach c
c: reach b
d: reach a


=== TEST 9: a relay leaves itself out
--- fresh
--- derp_relay
drain 0;
mesh_key_file mesh.key;
mesh_with http://127.0.0.1:$TEST_NGINX_SERVER_PORT/derp
          http://127.0.0.1:$TEST_NGINX_SERVER_PORT/other;
--- http_config
derp_relay other {
    zone 32m;
    key_file other.key;
    drain 0;
    mesh_key_file mesh.key;
    mesh_with http://127.0.0.1:$TEST_NGINX_SERVER_PORT/derp;
}
--- config
location /other { derp other; }
--- derp
w: connect mesh worker=1
a: connect worker=1
b: connect worker=2 at=/other
a: reach b
b: reach a
log /"main" has lost its link to \S+\/derp: it is this relay itself/
w: watch
w: pick present a
w: pick present w
a: nothing


=== TEST 10: TLS, the certificate verified
--- fresh
--- derp_relay
drain 0;
mesh_key_file mesh.key;
mesh_with https://127.0.0.1:$TEST_NGINX_TLS_PORT/other;
mesh_ssl_trusted_certificate cert.pem;
mesh_ssl_name localhost;
--- http_config
derp_relay other {
    zone 32m;
    key_file other.key;
    drain 0;
    mesh_key_file mesh.key;
    mesh_with https://[::1]:$TEST_NGINX_TLS_PORT/derp;
    mesh_ssl_verify off;
}
--- config
location /other { derp other; }
--- derp
a: connect worker=1
b: connect worker=2 at=/other
a: reach b
b: reach a
a: stream b 200 size=1400
b: stream a 200 size=1400


=== TEST 11: TLS, a certificate that nobody trusts
--- once
--- fresh
--- derp_relay
drain 0;
mesh_key_file mesh.key;
mesh_with https://127.0.0.1:$TEST_NGINX_TLS_PORT/other;
--- http_config
derp_relay other {
    zone 32m;
    key_file other.key;
    drain 0;
    mesh_key_file mesh.key;
}
--- config
location /other { derp other; }
--- derp
allow /certificate|mesh peer/
log /\[error\].*certificate verify error/
a: connect
b: connect at=/other
a: send b "hello"
a b: nothing


=== TEST 12: TLS, a certificate of another name
--- once
--- fresh
--- derp_relay
drain 0;
mesh_key_file mesh.key;
mesh_with https://127.0.0.1:$TEST_NGINX_TLS_PORT/other;
mesh_ssl_trusted_certificate cert.pem;
mesh_ssl_name derp.example.com;
--- http_config
derp_relay other {
    zone 32m;
    key_file other.key;
    drain 0;
    mesh_key_file mesh.key;
}
--- config
location /other { derp other; }
--- derp
allow /certificate|mesh peer/
log /\[error\].*certificate does not match "derp.example.com"/
a: connect
b: connect at=/other
a: send b "hello"
a b: nothing


=== TEST 13: a peer with another mesh key
--- once
--- fresh
--- derp_relay
drain 0;
mesh_key_file mesh.key;
mesh_with http://127.0.0.1:$TEST_NGINX_SERVER_PORT/other;
--- http_config
derp_relay other {
    zone 32m;
    key_file other.key;
    mesh_key_file theirs.key;
}
--- config
location /other { derp other; }
--- conf_files
>>> theirs.key 0600
fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210
--- derp
allow /has lost its link|mesh peer/
log /client sent WatchConns .*without the mesh key.*"other"/
a: connect
b: connect at=/other
a: send b "hello"
a b: nothing


=== TEST 14: a relay that is not linked to any more
--- fresh
--- derp_relay
drain 0;
mesh_key_file mesh.key;
mesh_with http://127.0.0.1:$TEST_NGINX_SERVER_PORT/other;
--- derp_relay_2
drain 0;
mesh_key_file mesh.key;
--- http_config
derp_relay other {
    zone 32m;
    key_file other.key;
    drain 0;
    mesh_key_file mesh.key;
    mesh_with http://127.0.0.1:$TEST_NGINX_SERVER_PORT/derp;
}
--- config
location /other { derp other; }
--- derp
a: connect worker=1
b: connect worker=2 at=/other
a: reach b
b: reach a
reload
log /has let go of its link to .*: it is configured no more/ within=30
a: gone b
a: send b disco
a: gone b not-here
b: reach a
b: nothing


=== TEST 15: of two relays the one that has had a key for longer
--- fresh
--- derp_relay
drain 0;
mesh_key_file mesh.key;
mesh_with http://127.0.0.1:$TEST_NGINX_SERVER_PORT/other
          http://127.0.0.1:$TEST_NGINX_SERVER_PORT/third;
--- http_config
derp_relay other {
    zone 32m;
    key_file other.key;
    drain 0;
    mesh_key_file mesh.key;
}
derp_relay third {
    zone 32m;
    key_file third.key;
    drain 0;
    mesh_key_file mesh.key;
}
--- config
location /other { derp other; }
location /third { derp third; }
--- derp
a: connect worker=1
b1: connect key=b worker=2 at=/other
a: reach b1
b2: connect key=b worker=1 at=/third
c: connect worker=2 at=/third
a: reach c
a: send b "to the first"
b1: recv a "to the first"
b1: close
a: reach b2
a: nothing
b1: connect key=b worker=2 at=/other
d: connect worker=1 at=/other
a: reach d
a: send b "still to the other"
b2: recv a "still to the other"
b2: close
a: reach b1
a: nothing


=== TEST 16: the host that another relay is asked for, with its port
--- fresh
--- derp_relay
drain 0;
mesh_key_file mesh.key;
mesh_with http://127.0.0.1:$TEST_NGINX_SERVER_PORT/linked;
--- http_config
derp_relay other {
    zone 32m;
    key_file other.key;
    drain 0;
    mesh_key_file mesh.key;
}
--- config
location /other { derp other; }
location /linked {
    if ($http_host != "127.0.0.1:$TEST_NGINX_SERVER_PORT") {
        return 403;
    }

    derp other;
}
--- derp
a: connect worker=1
b: connect worker=2 at=/other
a: reach b


=== TEST 17: another relay with the same key
--- once
--- fresh
--- derp_relay
drain 0;
mesh_key_file mesh.key;
mesh_with http://127.0.0.1:$TEST_NGINX_SERVER_PORT/other;
--- http_config
derp_relay other {
    zone 32m;
    key_file derp.key;
    drain 0;
    mesh_key_file mesh.key;
}
--- config
location /other { derp other; }
--- derp
allow /another relay|has lost its link/
log 1x /\[error\].*"main" cannot be linked to \S+\/other, which is another relay with the same key: give each its own "key_file"/
log 3x /"main" has lost its link to \S+\/other: another relay has the same key/
stats links=1 links.0.up=0 links.0.since>1000000000
a: open
a: request GET /status HTTP/1.1
a: status 200
a: body /"links":\[\{"url":"http:[^"]*\/other","up":false,"since":\d+,"error":"another relay has the same key"\}\]/


=== TEST 18: what the status says of a link that works, and of one that does not
--- once
--- fresh
--- derp_relay
drain 0;
mesh_key_file mesh.key;
mesh_with http://127.0.0.1:$TEST_NGINX_SERVER_PORT/other
          http://127.0.0.1:$TEST_NGINX_SERVER_PORT/nowhere;
--- http_config
derp_relay other {
    zone 32m;
    key_file other.key;
    drain 0;
    mesh_key_file mesh.key;
}
--- config
location /other { derp other; }
--- derp
allow /mesh peer|has lost its link/
stats links=2 links.0.up=1 links.0.since>1000000000 links.1.up=0
a: open
a: request GET /status HTTP/1.1
a: status 200
a: body /"up":true,"since":\d+,"error":""\},\{"url":"http:[^"]*\/nowhere","up":false,"since":\d+,"error":"does not switch to DERP"\}\]/
