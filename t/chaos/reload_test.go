package interop

import (
	"crypto/tls"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"tailscale.com/types/key"
)

// workersCounts is how the number of workers changes from reload to reload.
var workersCounts = []int{1, 2, 4, 2}

// lifetime is for how many reloads a client stays.  Old workers live as long,
// and each pair of workers needs a channel.
const lifetime = 6

// Reloads one after the other, with other numbers of workers and other
// certificates, while 200 clients of many generations send to each other: none
// is disconnected, and no packet is lost, reordered or harmed.
func TestReloads(t *testing.T) {
	const n = 200
	f := rounds(t, 20, 10, 200)
	certs := trustCertificates(4)
	peer := newFakePeer(t, "mesh peer", sharedCert())
	s := start(t, conf{workers: 2, zone: "256m", shared: true, inRelay: meshWithPeer(peer)})
	s.allow(`derp_relay "main".*link`)
	tr := newTraffic(t, s, n, 100*time.Millisecond)
	before := footprintOf(t, s.proc.pid())
	firstWorkers := len(s.workers)
	remote := newRemote(t, peer)
	remote.awaitReachable(tr)
	over := newCrossing(t, s, remote)
	watchers := []*observer{observe(t, s, 0)}
	turn := 0
	for f.more() {
		s.conf.workers = workersCounts[f.rounds%len(workersCounts)]
		useCertificate(t, s, certs[f.rounds%len(certs)])
		s.reload(t)
		checkCertificate(t, s, certs[f.rounds%len(certs)])

		// The oldest go, and others take their seats in the new workers.
		var seats []int
		for range n / lifetime {
			seats = append(seats, turn%n)
			turn++
		}
		left := tr.leave(seats...)
		tr.awaitTold(left, time.Now(), nil)
		tr.forget(left)
		for _, seat := range seats {
			tr.join(seat)
		}
		watchers = append(watchers, observe(t, s, f.rounds))
		want := tr.keys()
		over.addTo(want)
		for _, w := range watchers {
			want[w.key] = true
		}
		for _, w := range watchers {
			w.awaitPicture(t, want)
		}
		if len(watchers) == lifetime {
			watchers[0].close()
			watchers = watchers[1:]
		}
		duplicateAcross(t, s, f.rounds)
		s.goneBut(t, tr, append(over.parties(), watchers...))
	}
	crossed := over.check()
	over.end()
	// With its last client the last old worker goes, and nothing stays behind.
	for _, w := range watchers {
		w.close()
	}
	s.conf.workers = firstWorkers
	s.reload(t)
	tr.leave(allSeats(n)...)
	s.awaitGone(t, s.retired)
	// What they had in the zone is free again: each worker has its slot, and at
	// most a channel to each other one.
	var u usage
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("of the zone is in use: %+v", u)
		}
	})
	eventually(t, "the zone to be as it was at first", func() bool {
		u = s.usage(t)
		return u.Slots.Used == firstWorkers && u.Clients == 0 && u.Keys == 0 &&
			u.Channels.Used <= firstWorkers*(firstWorkers-1)
	})
	// The master lets go of a worker's descriptors after it has reaped it.
	eventually(t, fmt.Sprintf("the master to hold no more than %+v", before), func() bool {
		after := footprintOf(t, s.proc.pid())
		return after.fds <= before.fds && after.maps <= before.maps+8
	})
	f.note("%d reloads, %d clients (%d replaced), %d packets; %s", f.rounds, n, turn, tr.delivered.Load(), crossed)
}

func allSeats(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

// trustCertificates makes certificates which the clients trust.
func trustCertificates(n int) (all []*certificate) {
	for range n {
		c := newCertificate()
		sharedCert().pool.AddCert(c.pair.Leaf)
		all = append(all, c)
	}
	return all
}

func useCertificate(t *testing.T, s *server, c *certificate) {
	t.Helper()
	for name, text := range map[string]string{"cert.pem": c.certPEM, "cert.key": c.keyPEM} {
		writeFile(t, s.path(name+".new"), text, 0o600)
		if err := os.Rename(s.path(name+".new"), s.path(name)); err != nil {
			t.Fatal(err)
		}
	}
}

func checkCertificate(t *testing.T, s *server, want *certificate) {
	t.Helper()
	conn, err := tls.Dial("tcp", s.addr(tls4), &tls.Config{RootCAs: sharedCert().pool})
	if err != nil {
		t.Fatalf("a new client, after the reload: %v", err)
	}
	defer conn.Close()
	if !conn.ConnectionState().PeerCertificates[0].Equal(want.pair.Leaf) {
		t.Error("a new client does not see the new certificate")
	}
}

// duplicateAcross has a key on the worker of an old client and on a new one:
// packets go to the one that spoke last.
func duplicateAcross(t *testing.T, s *server, round int) {
	t.Helper()
	priv := key.NewNode()
	old := connect(t, s.relay, "old duplicate", as(priv), via(tls4))
	other := connect(t, s.relay, "other", via(tls4))
	fence(t, other, old)
	again := connect(t, s.relay, "new duplicate", as(priv), via(tls4), on(round))
	fence(t, other, again)
	fence(t, old, other) // it speaks, so it is the active one
	fence(t, other, old)
	old.close()
	reaches(t, other, again)
	again.close()
	other.want(t, gone(again))
	other.close()
}

// goneBut waits for the old workers without clients to go, and for no other.
func (s *server) goneBut(t *testing.T, tr *traffic, watchers []*observer) {
	t.Helper()
	var empty []int
	for _, pid := range s.retired {
		has := slices.ContainsFunc(tr.living(), func(p *party) bool { return p.pid == pid }) ||
			slices.ContainsFunc(watchers, func(o *observer) bool { return o.pid == pid })
		switch {
		case !has:
			empty = append(empty, pid)
		case gonePid(pid):
			t.Errorf("old worker %d has gone, but not its clients", pid)
		}
	}
	s.awaitGone(t, empty)
}

// Clients on each worker of several generations all reach each other, and go on
// doing so.  Two generations have a channel for each pair of their workers; with
// more, those that find none share the inbox of the worker that they send to.
func TestGenerations(t *testing.T) {
	const workers = 8
	f := rounds(t, 1, 1, 1)
	generations := 4
	if long() {
		generations = 8
	}
	s := start(t, conf{workers: workers, zone: "64m", connections: 1024})
	tr := newTraffic(t, s, 10*generations, 20*time.Millisecond)
	pairs := 0
	for f.more() {
		all := oneOnEach(t, s, nil)
		for generation := 1; generation <= generations; generation++ {
			if generation > 1 {
				s.reload(t)
				rejoin(t, tr, generation, generations)
				all = oneOnEach(t, s, all)
			}
			for i, a := range all {
				a.reachesAll(t, slices.Delete(slices.Clone(all), i, i+1))
			}
			pairs += len(all) * (len(all) - 1)
		}
		tr.settle()
		for _, c := range all {
			c.close()
		}
	}
	tr.leave(allSeats(10 * generations)...)
	s.awaitGone(t, s.retired)
	f.note("%d times %d generations of %d workers; %d pairs of clients tried, all reach each other; %d packets of %d others meanwhile",
		f.rounds, generations, workers, pairs, tr.delivered.Load(), 10*generations)
}

// So many generations of workers with clients that there is no slot for another
// worker: who is there relays on, who comes is refused, until some have left.
// nginx has no room for so many workers, but the module with fault points has
// fewer slots.
func TestSlotsExhausted(t *testing.T) {
	const workers = 8
	module := faultModule(t)
	f := rounds(t, 1, 1, 1)
	s := start(t, conf{workers: workers, zone: "192m", connections: 512, module: module})
	slots := s.usage(t).Slots
	generations := (slots.Used + slots.Free) / workers
	if generations > 16 {
		t.Fatalf("the module with fault points has too many slots to use up: %+v", slots)
	}
	taken := fmt.Sprintf("all %d derp slots are taken", slots.Used+slots.Free)
	s.allow(taken)
	tr := newTraffic(t, s, 40, 50*time.Millisecond)
	refused := 0
	for f.more() {
		all := oneOnEach(t, s, nil)
		reloads := generations - 1
		if f.rounds > 1 {
			reloads-- // the others' workers are not these any more
		}
		for range reloads {
			s.reload(t)
			all = oneOnEach(t, s, all)
		}
		s.reload(t)
		eventually(t, "the new workers to find no slot", func() bool {
			return s.count(taken) == f.rounds*workers
		})
		for i := range workers {
			if _, err := tryConnect(s.relay, "one too many", on(i)); err == nil {
				t.Error("a worker without a slot takes a client")
			}
			refused++
		}
		first, last := all[0], all[len(all)-1]
		first.reachesAll(t, []*client{last})
		last.reachesAll(t, []*client{first})
		tr.settle()
		for _, c := range all {
			c.close()
		}
		eventually(t, "the new workers to find slots", func() bool {
			return s.count("derp relays from now on") == f.rounds*workers
		})
		all = oneOnEach(t, s, nil)
		for _, c := range all {
			c.reachesAll(t, all)
		}
		for _, c := range all {
			c.close()
		}
		eventually(t, "old workers to go, but the others'", func() bool {
			s.retired = slices.DeleteFunc(s.retired, gonePid)
			return len(s.retired) <= workers
		})
	}
	tr.leave(allSeats(40)...)
	s.awaitGone(t, s.retired)
	f.note("%d times %d generations of %d workers, as many as there are slots; %d clients refused by those that found none, and none afterwards; %d packets of 40 others meanwhile",
		f.rounds, generations, workers, refused, tr.delivered.Load())
}

func oneOnEach(t *testing.T, s *server, all []*client) []*client {
	t.Helper()
	for i, pid := range s.workers {
		all = append(all, connect(t, s.relay, fmt.Sprintf("client of worker %d", pid), via(plain4), on(i)))
	}
	return all
}

func (c *client) reachesAll(t *testing.T, all []*client) {
	t.Helper()
	for _, to := range all {
		c.send(t, to.key, fencePacket())
	}
	for _, to := range all {
		if !to.takeFrom(c.key, patience) {
			t.Fatalf("%s does not reach %s", c.name, to.name)
		}
	}
}

// A quit while an old worker hands its link to a mesh peer over to a new one.
func TestQuitInHandOver(t *testing.T) {
	f := rounds(t, 1, 1, 5)
	var took longest
	for f.more() {
		peer := newFakePeer(t, "mesh peer", sharedCert())
		s := start(t, conf{workers: 2, inRelay: meshWithPeer(peer)})
		s.allow(`derp_relay "main".*link`)
		newRemote(t, peer)
		linked := func(n int) func() bool {
			return func() bool { return s.count("is linked to") == n }
		}
		eventually(t, "the link", linked(1))
		c := connect(t, s.relay, "a client of an old worker", via(plain4))
		s.reload(t)
		eventually(t, "the new link", linked(2))
		c.close()
		at := time.Now()
		s.quit(t)
		if err := s.proc.awaitExit(); err != nil {
			t.Fatalf("nginx after quit: %v", err)
		}
		took.add(time.Since(at))
	}
	f.note("%d times; nginx was gone: %v", f.rounds, &took)
}
