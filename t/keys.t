# The key file: made when absent, kept, derper's taken, bad ones refused.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: made when absent, for its owner only, the same in every worker
--- fresh
--- derp
file derp.key mode 0600
file derp.key like /"PrivateKey":\s*"privkey:[0-9a-f]{64}"/
a$i: connect worker=$i for i=1..4
a1: send a$i "hello" for i=2..4
a$i: recv a1 "hello" for i=2..4


=== TEST 2: kept by a reload and by a restart
--- derp
a: connect
reload
b: connect worker=1
new-worker of b
b: close
a: close
quit
exit
start
a: connect
a: sync


=== TEST 3: two relays, two keys
--- http_config
derp_relay other { zone 16m; key_file other.key; }
--- config
location /other { derp other; }
--- derp
file derp.key mode 0600
file other.key mode 0600
a: connect
b: connect at=/other
forget key
a: connect at=/other
a: connect at=/other
forget key
a: connect


=== TEST 4: derper's own file
--- conf_files
>>> derp.key 0600
{
	"PrivateKey": "privkey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
}
--- derp
a: open
a: upgrade
a: header Derp-Public-Key: 8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f
a: server-key
a: login
file derp.key like /^\{\n\t"PrivateKey": "privkey:0001/
file derp.key mode 0600


=== TEST 5: derper's file, in one line and with more in it
--- conf_files
>>> derp.key 0400
{"Comment":"x","PrivateKey":"privkey:000102030405060708090A0B0C0D0E0F101112131415161718191a1b1c1d1e1f"}
--- derp
a: open
a: upgrade
a: header Derp-Public-Key: 8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f


=== TEST 6: an absolute path
--- derp_relay
key_file $TEST_NGINX_SERVER_ROOT/conf/absolute.key;
--- derp
a: connect
file absolute.key mode 0600


=== TEST 7: a key that only its owner and group may read
--- conf_files
>>> derp.key 0640
{"PrivateKey":"privkey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}
--- nginx_t
ok
! /\[warn\]/


=== TEST 8: a key that everybody may read
--- conf_files
>>> derp.key 0644
{"PrivateKey":"privkey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}
--- nginx_t
ok
/\[warn\].*derp\.key/
file derp.key mode 0644


=== TEST 9: an empty file
--- conf_files
>>> derp.key 0600
--- nginx_t
fails
/\[emerg\].*derp\.key/


=== TEST 10: no JSON, but a key alone
--- conf_files
>>> derp.key 0600
privkey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
--- derp
a: open
a: upgrade
a: header Derp-Public-Key: 8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f
file derp.key like /^privkey:0001/


=== TEST 11: no key in it
--- conf_files
>>> derp.key 0600
{"PublicKey":"nodekey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}
--- nginx_t
fails
/\[emerg\].*derp\.key/


=== TEST 12: a public key instead
--- conf_files
>>> derp.key 0600
{"PrivateKey":"nodekey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}
--- nginx_t
fails
/\[emerg\].*derp\.key/


=== TEST 13: too short
--- conf_files
>>> derp.key 0600
{"PrivateKey":"privkey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e"}
--- nginx_t
fails
/\[emerg\].*derp\.key/


=== TEST 14: too long
--- conf_files
>>> derp.key 0600
{"PrivateKey":"privkey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"}
--- nginx_t
fails
/\[emerg\].*derp\.key/


=== TEST 15: not hex
--- conf_files
>>> derp.key 0600
{"PrivateKey":"privkey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1g"}
--- nginx_t
fails
/\[emerg\].*derp\.key/


=== TEST 16: not a string
--- conf_files
>>> derp.key 0600
{"PrivateKey":17}
--- nginx_t
fails
/\[emerg\].*derp\.key/


=== TEST 17: a file far too large to be a key
--- conf_files eval
">>> derp.key 0600\n" . " " x 2000000 . "{}\n"
--- nginx_t
fails
/\[emerg\].*derp\.key/


=== TEST 18: a folder
--- derp_relay
key_file ../html;
--- nginx_t
fails
/\[emerg\].*html/


=== TEST 19: a folder that is not there
--- derp_relay
key_file nowhere/derp.key;
--- nginx_t
fails
/\[emerg\].*nowhere\/derp\.key.*No such file/
