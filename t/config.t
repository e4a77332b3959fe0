# The directives: what nginx -t says to bad ones.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: as it should be
--- nginx_t
ok
! /\[(?:warn|error|emerg|alert|crit)\]/


=== TEST 2: no zone
--- no_relay
--- http_config
derp_relay main { key_file derp.key; }
--- config
location /derp { derp main; }
--- nginx_t
fails
/\[emerg\].*zone.*derp_relay "main"/


=== TEST 3: no key file
--- no_relay
--- http_config
derp_relay main { zone 4m; }
--- config
location /derp { derp main; }
--- nginx_t
fails
/\[emerg\].*key_file.*derp_relay "main"/


=== TEST 4: a zone that is too small
--- derp_relay
zone 8k;
--- nginx_t
fails
/\[emerg\].*zone.*small/


=== TEST 5: a zone of no size
--- derp_relay
zone lots;
--- nginx_t
fails
/\[emerg\].*invalid.*"lots"/


=== TEST 6: a zone without a size
--- derp_relay
zone;
--- nginx_t
fails
/\[emerg\].*number of arguments in "zone"/


=== TEST 7: two zones
--- derp_relay
zone 4m;
zone 4m;
--- nginx_t
fails
/\[emerg\].*"zone" directive is duplicate/


=== TEST 8: two key files
--- derp_relay
key_file derp.key;
key_file derp2.key;
--- nginx_t
fails
/\[emerg\].*"key_file" directive is duplicate/


=== TEST 9: two relays of one name
--- http_config
derp_relay main { zone 16m; key_file other.key; }
--- nginx_t
fails
/\[emerg\].*duplicate.*"main"/


=== TEST 10: an unknown relay
--- config
location /other { derp other; }
--- nginx_t
fails
/\[emerg\] unknown derp_relay "other" in .*nginx\.conf:\d+, define it/


=== TEST 11: a relay that comes after the server
--- no_relay
--- config
location /derp { derp main; }
}
derp_relay main { zone 4m; key_file derp.key; }
server { listen 127.0.0.1:$TEST_NGINX_PORT_2;
--- nginx_t
ok


=== TEST 12: a relay that no location names
--- http_config
derp_relay spare { zone 4m; key_file spare.key; }
--- nginx_t
ok


=== TEST 13: derp twice in one location
--- derp_location
derp main;
--- nginx_t
fails
/\[emerg\].*"derp" directive is duplicate/


=== TEST 14: derp without a name
--- config
location /other { derp; }
--- nginx_t
fails
/\[emerg\].*number of arguments in "derp"/


=== TEST 15: derp outside of a location
--- config
derp main;
--- nginx_t
fails
/\[emerg\].*"derp" directive is not allowed here/


=== TEST 16: a relay without a name
--- http_config
derp_relay { zone 16m; key_file other.key; }
--- nginx_t
fails
/\[emerg\].*number of arguments in "derp_relay"/


=== TEST 17: a relay in a server
--- config
derp_relay other { zone 16m; key_file other.key; }
--- nginx_t
fails
/\[emerg\].*"derp_relay" directive is not allowed here/


=== TEST 18: an unknown directive in a relay
--- derp_relay
zones 4m;
--- nginx_t
fails
/\[emerg\].*unknown directive "zones"/


=== TEST 19: a relay's directive outside of it
--- http_config
key_file derp.key;
--- nginx_t
fails
/\[emerg\].*"key_file"/


=== TEST 20: several relays, several locations
--- http_config
derp_relay other { zone 16m; key_file other.key; }
--- config
location /one { derp other; }
location = /two { derp other; }
location ~ ^/three$ { derp main; }
--- nginx_t
ok


=== TEST 21: the capacity is told at the start
--- fresh
--- once
--- derp
log /derp.*"?main"?.* [1-9][0-9]* /


=== TEST 22: links without a mesh key
--- derp_relay
mesh_with http://127.0.0.1:$TEST_NGINX_PORT_2/derp;
--- nginx_t
fails
/\[emerg\].*mesh_key_file/


=== TEST 23: a link to no URL
--- derp_relay
mesh_key_file mesh.key;
mesh_with 127.0.0.1;
--- nginx_t
fails
/\[emerg\].*"127\.0\.0\.1"/


=== TEST 24: a link to a name that there is not, and no "resolver"
# Without a resolver the name is looked up once, at the start, and is an error.
# Angie and Tengine have a resolver by default, and look it up later.

--- derp_relay
mesh_key_file mesh.key;
mesh_with https://derp.invalid;
--- nginx_t eval
Test::Nginx::DERP::built(qr/^(?:Angie|Tengine) version:/m)
    ? 'ok'
    : 'fails
/\[emerg\].*derp\.invalid/'


=== TEST 25: a notice that is too long
--- derp_relay eval
'health "' . 'x' x 1001 . '";'
--- nginx_t
fails
/\[emerg\] "health" directive must be at most 1000 bytes in /


=== TEST 26: too little memory for blocked clients
--- derp_relay
buffers 1m;
--- nginx_t
fails
/\[emerg\] "buffers" directive must be at least 16m in /


=== TEST 27: no time
--- derp_relay
drain soon;
--- nginx_t
fails
/\[emerg\] "drain" directive invalid value in /


=== TEST 28: no time to log in
--- derp_relay
handshake_timeout 0;
--- nginx_t
fails
/\[emerg\] "handshake_timeout" directive must be at least 1ms in /


=== TEST 29: no keep-alives
--- derp_relay
keepalive 0;
--- nginx_t
fails
/\[emerg\] "keepalive" directive must be at least 1ms, and at most 110s, /


=== TEST 30: keep-alives that come too late for clients
--- derp_relay
keepalive 2m;
--- nginx_t
fails
/\[emerg\] "keepalive" directive must be at least 1ms, and at most 110s, /


=== TEST 31: all that can be set
--- derp_relay
handshake_timeout 6s;
keepalive 30s;
write_timeout 0;
buffers 64m;
drain 0;
health "";
--- nginx_t
ok
! /\[(?:warn|error|emerg|alert|crit)\]/


=== TEST 32: all of it once
--- derp_relay
write_timeout 1s;
write_timeout 1s;
--- nginx_t
fails
/\[emerg\] "write_timeout" directive is duplicate in /


=== TEST 33: the status of an unknown relay
--- config
location /other { derp_status other; }
--- nginx_t
fails
/\[emerg\] unknown derp_relay "other" in .*nginx\.conf:\d+, define it/


=== TEST 34: derp_status twice in one location
--- config
location /twice { derp_status main; derp_status main; }
--- nginx_t
fails
/\[emerg\] "derp_status" directive is duplicate in /


=== TEST 35: derp_status beside derp
--- derp_location
derp_status main;
--- nginx_t
fails
/\[emerg\] "derp_status" directive is in the location of "derp", give each a location of its own in .*nginx\.conf:\d+/


=== TEST 36: derp beside derp_status
--- config
location /both { derp_status main; derp main; }
--- nginx_t
fails
/\[emerg\] "derp" directive is in the location of "derp_status", give each a location of its own in .*nginx\.conf:\d+/


=== TEST 37: derp_status without a name
--- config
location /none { derp_status; }
--- nginx_t
fails
/\[emerg\] invalid number of arguments in "derp_status" directive in /


=== TEST 38: derp_status outside of a location
--- config
derp_status main;
--- nginx_t
fails
/\[emerg\] "derp_status" directive is not allowed here in /


=== TEST 39: the status of a relay that comes after the server
--- no_relay
--- config
location /status { derp_status main; }
}
derp_relay main { zone 4m; key_file derp.key; }
server { listen 127.0.0.1:$TEST_NGINX_PORT_2;
--- nginx_t
ok


=== TEST 40: a name for TLS that no host can have
--- derp_relay eval
"mesh_key_file mesh.key;\n"
. 'mesh_with https://127.0.0.1:1/derp;' . "\n"
. 'mesh_ssl_name ' . 'a' x 4060 . ';'
--- nginx_t
fails
/\[emerg\] invalid "mesh_ssl_name" in derp_relay "main", expected a name of at most 255 bytes/


=== TEST 41: the longest name for TLS
--- derp_relay eval
"mesh_key_file mesh.key;\n"
. 'mesh_with https://127.0.0.1:1/derp;' . "\n"
. 'mesh_ssl_name ' . 'a' x 255 . ';'
--- nginx_t
ok


=== TEST 42: a host that cannot be one
--- derp_relay
mesh_key_file mesh.key;
mesh_with "http://a b/derp";
--- nginx_t
fails
/\[emerg\] invalid host in URL "http:\/\/a b\/derp" to mesh with, expected a name/


=== TEST 43: a URI that ends the request's line
--- derp_relay
mesh_key_file mesh.key;
mesh_with "http://127.0.0.1:1/derp HTTP/1.1";
--- nginx_t
fails
/\[emerg\] the URI of a relay to mesh with must have at most 2048 bytes, and spaces as %20/


=== TEST 44: a URI that is too long
--- derp_relay eval
"mesh_key_file mesh.key;\n" . 'mesh_with http://127.0.0.1:1/' . 'a' x 2048 . ';'
--- nginx_t
fails
/\[emerg\] the URI of a relay to mesh with must have at most 2048 bytes, and spaces as %20/


=== TEST 45: a link to a name that there is not, which a resolver is asked for
--- http_config
resolver 127.0.0.1:$TEST_NGINX_PORT_2;
--- derp_relay
mesh_key_file mesh.key;
mesh_with https://derp.invalid;
--- nginx_t
ok


=== TEST 46: a zone with too few channels for a reload
--- workers: 4
--- derp_relay
zone 4m;
--- nginx_t
ok
/\[warn\].*the zone of derp_relay "main" has \d+ channels and \d+ inboxes, 4 workers and 4 old ones may need 56 channels or 8 inboxes: increase its "zone"/
