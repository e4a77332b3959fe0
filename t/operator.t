# What an operator tells the clients: Health, Restarting.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: health is told at the login
--- derp_relay
health "the disk is full";
--- derp
a: connect
a: health "the disk is full"
a: nothing


=== TEST 2: cleared when a reload takes it away
--- derp_relay
health "the disk is full";
--- derp_relay_2
--- derp
a: connect worker=1
b: connect worker=2
a b: health "the disk is full"
reload
a b: health ""
c: connect worker=1
c: nothing


=== TEST 3: told when a reload brings it
--- derp_relay_2
health "the disk is full";
--- derp
a: connect
reload
a: health "the disk is full"
b: connect worker=1
b: health "the disk is full"
a b: nothing


=== TEST 4: a reload tells nobody of a restart
--- derp_relay
drain 1s;
--- derp
a: connect
reload
b: connect worker=1
a: send b "hello"
b: recv a "hello"
a: nothing


=== TEST 5: quit tells all, then lets them go
--- derp_relay
drain 300ms;
--- derp
a: connect worker=1
b: connect worker=2
quit
a b: restarting
a b: closed
exit


=== TEST 6: quit with many, spread over the time of the drain
--- workers: 2
--- derp_relay
drain 1s;
--- derp
a$i: connect worker=$i for i=1..20
quit
a$i: restarting for i=1..20
a$i: closed for i=1..20
exit


=== TEST 7: those of an old generation are told too
--- derp_relay
drain 300ms;
--- derp
a: connect
reload
b: connect worker=1
quit
a b: restarting
a b: closed
exit


=== TEST 8: no time to drain
--- derp_relay
drain 0;
--- derp
a: connect worker=1
b: connect worker=2
quit
a b: restarting
a b: closed
exit


=== TEST 9: each relay has its own
--- derp_relay
health "this one is ill";
--- http_config
derp_relay other { zone 16m; key_file other.key; health "that one"; }
--- config
location /other { derp other; }
--- derp
a: connect
b: connect at=/other
a: health "this one is ill"
b: health "that one"


=== TEST 10: a restart with clients, a watcher and links
--- fresh
--- linked: 300ms
--- derp
allow /while dialing/
a$i: connect worker=$i for i=1..10
b: connect worker=2 at=/other
w: connect mesh worker=1
w: watch
a1: reach b
b: reach a1
quit
a$i: ends for i=1..10
b w: ends
exit
start
a$i: connect worker=$i for i=1..10
b: connect worker=2 at=/other
a1: reach b
b: reach a1
a2: send a3 "hello"
a3: recv a2 "hello"


=== TEST 11: an upgrade of nginx with clients, a watcher and links
--- fresh
--- linked: 300ms
--- derp
allow /while (?:dialing|logging in)/
a$i: connect worker=$i for i=1..10
b: connect worker=2 at=/other
w: connect mesh worker=1
w: watch
a1: reach b
b: reach a1
upgrade
a$i: ends for i=1..10
b w: ends
exit
a$i: connect worker=$i for i=1..10
b: connect worker=2 at=/other
a1: reach b
b: reach a1
a2: send a3 "hello"
a3: recv a2 "hello"


=== TEST 12: who comes while clients are let go is refused
--- workers: 1
--- derp_relay
drain 300ms;
--- derp
a: connect
b c: open
b c: raw "\r\n"
a: sync for i=1..4
quit
a: restarting
b: request GET /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade
b: status 503
b: ends
c: request GET /derp HTTP/1.1 | Upgrade: DERP | Connection: Upgrade | Derp-Fast-Start: 1
c: closed
a: closed
exit


=== TEST 13: what is decided is in the debug log
--- workers: 1
--- log_level: debug
--- derp
a: connect
b: connect
a: send c "to nobody"
a: send b "hello"
b: recv a "hello"
a: close
b: gone a
log /\[debug\].*derp upgrade to "main", fast start:0/
log /\[debug\].*derp client registered, slot:0 index:\d+ flags:1/
log 2x /\[debug\].*derp session state: relaying/
log /\[debug\].*derp packet for an unknown key, reason:0/
log /\[debug\].*derp session fails: client closed/
log /\[debug\].*derp client is told that a peer has left/
