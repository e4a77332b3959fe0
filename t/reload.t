# Several generations of workers: one region all the same.

use lib 't/lib';
use Test::Nginx::DERP;

run_tests();

__DATA__

=== TEST 1: a reload cuts nobody, and old and new reach each other
--- derp
a: connect worker=1
b: connect worker=2
reload
c: connect worker=1
d: connect worker=2
new-worker of c
worker of a is not worker of c
a: send b "old to old"
b: recv a "old to old"
a: send d "old to new"
d: recv a "old to new"
d: send a "new to old"
a: recv d "new to old"
c: send d "new to new"
d: recv c "new to new"
a: stream c 500 size=1400
c: stream a 500 size=1400
a b c d: nothing


=== TEST 2: three generations
--- derp
a: connect
reload
b: connect worker=1
reload
c: connect worker=1
a: send c "first to third"
c: recv a "first to third"
c: send b "third to second"
b: recv c "third to second"
b: send a "second to first"
a: recv b "second to first"
a: close
c: send b "still there?"
b: recv c "still there?"


=== TEST 3: reloads one after the other, under way
--- derp
a: connect worker=1
b: connect worker=2
a: stream b 200
reload
a: stream b 200
reload
b: stream a 200
reload
a: stream b 200
c: connect worker=1
c: stream a 200
b: stream c 200


=== TEST 4: an old generation leaves with its last client
--- derp
a: connect
reload
b: connect worker=1
a: close
log /\[notice\].*worker process \d+ exited with code 0/
b: sync


=== TEST 5: another size of the zone
--- derp_relay
zone 16m;
--- derp_relay_2
zone 32m;
--- derp_relay_3
zone 16m;
--- derp
a: connect worker=1
b: connect worker=2
allow /\[emerg\].*restart/
reload fails
log /\[emerg\].*zone.*restart/
a: send b "hello"
b: recv a "hello"
reload
c: connect worker=1
a: send c "hello"
c: recv a "hello"


=== TEST 6: other things change, the zone does not
--- config_2
location /two { derp main; }
--- derp
a: connect
reload
b: connect at=/two worker=1
a: send b "hello"
b: recv a "hello"


=== TEST 7: a relay more, a relay less
--- http_config_2
derp_relay other { zone 16m; key_file other.key; }
--- config_2
location /other { derp other; }
--- http_config_3
--- config_3
--- derp
a: connect
reload
b: connect at=/other worker=1
c: connect at=/other worker=2
b: send c "hello"
c: recv b "hello"
d: connect worker=1
d: send a "hello"
a: recv d "hello"
reload
b: send c "still here"
c: recv b "still here"
e: connect worker=1
e: send a "hello"
a: recv e "hello"


=== TEST 8: the master is told to quit while clients are there, who go
--- derp
a: connect worker=1
b: connect worker=2
quit
a b: close
exit
