package interop

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// everyPair has each of the clients, which expect nothing else, send to each.
func everyPair(t *testing.T, all ...*client) {
	t.Helper()
	for _, a := range all {
		for _, b := range all {
			fence(t, a, b)
		}
	}
}

// A reload cuts nobody and tells nobody: old generations relay on, with each
// other and with the new.
func TestReload(t *testing.T) {
	oursOnly(t, "it knows no reload")
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startNginx(t, options{workers: workers})
		var all []*client
		for generation := range 3 {
			for i := range 2 {
				name := fmt.Sprintf("%d.%d", generation, i)
				all = append(all, connect(t, r, name, on(i), via(transports[i*2])))
			}
			everyPair(t, all...)
			if generation < 2 {
				r.reload(t)
				everyPair(t, all...)
			}
		}
		// An old generation's departures are told to the new, and back.
		for _, leaver := range []int{0, 5} {
			all[leaver].close()
			for i, c := range all {
				if i != 0 && i != leaver {
					c.want(t, gone(all[leaver]))
				}
			}
		}
	})
}

// Watchers of all generations see the clients of all.
func TestReloadWatch(t *testing.T) {
	oursOnly(t, "it knows no reload")
	r := startNginx(t, options{workers: 2, mesh: true})
	w1 := connect(t, r, "w1", watching, on(0))
	w1.want(t, present(w1, meshPeer))
	c1 := connect(t, r, "c1", on(1))
	w1.want(t, present(c1, regular))

	r.reload(t)
	w2 := connect(t, r, "w2", watching, on(0))
	w1.want(t, present(w2, meshPeer))
	w2.wantAll(t, present(w1, meshPeer), present(w2, meshPeer), present(c1, regular))
	c2 := connect(t, r, "c2", on(1))
	w1.want(t, present(c2, regular))
	w2.want(t, present(c2, regular))
	for _, c := range []*client{c1, c2} {
		c.close()
		w1.want(t, gone(c))
		w2.want(t, gone(c))
	}
}

// Under load, workers of several generations come and go, in other numbers each
// time, and one is killed: what passes between clients of the others, old and
// new, arrives once and in order.
func TestLifetimesUnderLoad(t *testing.T) {
	oursOnly(t, "it knows no reload")
	const packets = 1500
	r := startNginx(t, options{workers: 2, shared: true})
	var running sync.WaitGroup
	flow := func(from *client, tr transport) {
		s := newStream(t, packets)
		s.beside = func(int) { time.Sleep(time.Millisecond) }
		to := connect(t, r, "receiver", on(1), via(tr), handled(s.receive))
		running.Go(func() {
			if err := s.run(from, to); err != nil {
				t.Error(err)
			}
		})
	}
	var old *client
	for i, workers := range []int{2, 1, 2, 4, 2} {
		if i > 0 {
			r.opts.workers = workers
			r.configure(t)
			r.reload(t)
		}
		// Those of the last generation have the second worker, as the first
		// is to be killed.
		young := connect(t, r, fmt.Sprint("sender ", i), on(1), via(tls4))
		flow(young, plain4)
		if old != nil {
			flow(old, tls6)
		}
		old = young
	}
	doomed, witness := connect(t, r, "doomed", on(0)), connect(t, r, "witness", on(1))
	fence(t, doomed, witness)
	r.killWorker(t, 0)
	witness.want(t, gone(doomed))
	again := connect(t, r, "again", on(0))
	everyPair(t, witness, again)
	running.Wait()
}

// A worker's death takes its own clients along, who are known to be gone, and
// hinders nobody else.
func TestWorkerKilled(t *testing.T) {
	oursOnly(t, "it is but one process")
	forWorkers(t, []int{2, 4}, func(t *testing.T, workers int) {
		r := startNginx(t, options{workers: workers, mesh: true})
		w := connect(t, r, "w", watching, on(1))
		w.want(t, present(w, meshPeer))
		a, b, c := connect(t, r, "a", on(0)), connect(t, r, "b", on(1)), connect(t, r, "c", on(0))
		w.wantAll(t, present(a, regular), present(b, regular), present(c, regular))
		everyPair(t, a, b, c)

		for range 2 { // the second is the replacement
			r.killWorker(t, 0)
			a.wantEnd(t)
			c.wantEnd(t)
			b.wantAll(t, gone(a), gone(c))
			w.wantAll(t, gone(a), gone(c))
			a, c = connect(t, r, "a", on(0)), connect(t, r, "c", on(0))
			w.wantAll(t, present(a, regular), present(c, regular))
			everyPair(t, a, b, c)
		}
	})
}

// A worker may die with duplicates of which others live.
func TestWorkerKilledDuplicates(t *testing.T) {
	oursOnly(t, "it is but one process")
	r := startNginx(t, options{workers: 2})
	s := connect(t, r, "s", on(1))
	stays := connect(t, r, "stays", on(1))
	priv := key.NewNode()
	c1 := connect(t, r, "c1", as(priv), on(1))
	fence(t, c1, s)
	c2 := connect(t, r, "c2", as(priv), on(0))
	fence(t, s, c2)
	r.killWorker(t, 0)
	c2.wantEnd(t)
	reaches(t, s, c1)
	c1.close()
	s.want(t, gone(c1))
	fence(t, s, stays)
}

// The operator's word on the relay's health is shown, and taken back.
func TestHealth(t *testing.T) {
	oursOnly(t, "it has no such word")
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		r := startNginx(t, options{workers: workers, inRelay: `health "under repair";`})
		sick := derp.HealthMessage{Problem: "under repair"}
		c1 := connect(t, r, "c1", on(0))
		c1.want(t, sick)

		r.setRelayLines(t, "")
		c1.want(t, derp.HealthMessage{})
		c2 := connect(t, r, "c2", on(1))
		everyPair(t, c1, c2)

		r.setRelayLines(t, `health "under repair";`)
		c1.want(t, sick)
		c2.want(t, sick)
		c3 := connect(t, r, "c3", on(0))
		c3.want(t, sick)
		everyPair(t, c1, c2, c3)
	})
}

func (r *relay) setRelayLines(t *testing.T, lines string) {
	t.Helper()
	r.opts.inRelay = lines
	r.configure(t)
	r.reload(t)
}

// A stop is at once: nobody is told or waited for, and the log has no complaint.
func TestStop(t *testing.T) {
	oursOnly(t, "it knows no other end")
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		y := newFakePeer(t, "y", sharedCert())
		r := startNginx(t, options{workers: workers, meshWith: []string{y.addr}})
		l := y.awaitLink(t)
		all := []*client{connect(t, r, "old", on(0), via(tls4))}
		r.reload(t)
		w := connect(t, r, "w", watching, on(0))
		for i := range 4 {
			all = append(all, connect(t, r, fmt.Sprint(i), on(i), via(transports[i])))
		}
		everyPair(t, all...)
		r.end(t, syscall.SIGTERM)
		for _, c := range append(all, w) {
			c.wantEnd(t)
		}
		for _, c := range all {
			for _, m := range c.pending() { // some workers end a little before others
				if _, ok := m.(derp.PeerGoneMessage); !ok {
					t.Errorf("%s was told %s", c.name, describe(m))
				}
			}
		}
		l.awaitEnd(t)
	})
}

// Before it stops, the relay tells its clients when to come back, and lets them
// go: neither all at once, but over the time that it has for that.
func TestRestarting(t *testing.T) {
	oursOnly(t, "it just stops")
	t.Parallel()
	const drain = 4 * time.Second // the default
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		t.Parallel()
		r := startNginx(t, options{workers: workers})
		var all []*client
		for i := range 40 {
			all = append(all, connect(t, r, fmt.Sprint(i), on(i)))
		}
		r.quit(t)
		var soon, later int
		for _, c := range all {
			m, ok := c.next(t, "Restarting").(derp.ServerRestartingMessage)
			if !ok {
				t.Fatalf("%s received %s, want Restarting", c.name, describe(m))
			}
			if m.TryFor <= 0 || m.ReconnectIn > drain {
				t.Errorf("%s is to come back in %v, and to try for %v", c.name, m.ReconnectIn, m.TryFor)
			}
			if m.ReconnectIn < drain/2 {
				soon++
			} else {
				later++
			}
		}
		if soon == 0 || later == 0 {
			t.Errorf("%d clients are to come back soon, %d later", soon, later)
		}
		for _, c := range all {
			c.wantEnd(t)
		}
		if seconds := r.bySecond("derp session ended: drained"); len(seconds) < 2 {
			t.Errorf("clients are let go at: %v", seconds)
		}
		if err := r.proc.awaitExit(); err != nil {
			t.Errorf("nginx without clients: %v", err)
		}
	})
}
