package interop

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/derp"
)

// A quit with thousands of clients: each is told, once, and they are let go one
// by one over the default of "drain".  Debian ends a stop after 5 s; a machine
// that does other things besides has some more.
func TestQuitCrowd(t *testing.T) {
	const n = 4000
	f := rounds(t, 1, 1, 2)
	most, longest := 0, time.Duration(0)
	for f.more() {
		s := start(t, conf{workers: 4, connections: 4096, inMain: "worker_rlimit_nofile 20000;"})
		crowd := crowdOf(t, s, n)
		quit := time.Now()
		s.quit(t)
		var busy sync.WaitGroup
		var once atomic.Int64
		for _, r := range crowd {
			busy.Go(func() {
				if r.timesTold() == 1 {
					once.Add(1)
				}
			})
		}
		busy.Wait()
		if once.Load() != n {
			t.Errorf("of %d clients %d were told once, and let go", n, once.Load())
		}
		if err := s.proc.awaitExit(); err != nil {
			t.Errorf("nginx without clients: %v", err)
		}
		took := time.Since(quit)
		within(t, "a quit", took, 9*time.Second)
		longest = max(longest, took)
		seconds := s.bySecond("derp session ended: drained")
		for _, n := range seconds {
			most = max(most, n)
		}
		if most > n/2 {
			t.Errorf("of %d clients these were let go in one second: %v", n, seconds)
		}
	}
	f.note("%d times %d clients, each told once; at most %d of them let go in the same second, nginx gone after %v at most",
		f.rounds, n, most, longest.Round(10*time.Millisecond))
}

func crowdOf(t *testing.T, s *server, n int) (all []*raw) {
	t.Helper()
	var mu sync.Mutex
	var coming sync.WaitGroup
	for range 8 {
		coming.Go(func() {
			for range n / 8 {
				r, err := loginRaw(s.addr(plain4), 0, 0, patience)
				if err != nil {
					t.Errorf("one of many logs in: %v", err)
					return
				}
				mu.Lock()
				all = append(all, r)
				mu.Unlock()
			}
		})
	}
	coming.Wait()
	t.Cleanup(func() {
		for _, r := range all {
			r.Close()
		}
	})
	return all
}

// timesTold reads to the end, and says how often Restarting was there; -1: there
// is no end.
func (r *raw) timesTold() (n int) {
	r.SetReadDeadline(time.Now().Add(patience))
	for {
		m, err := r.derp.Recv()
		if isTimeout(err) {
			return -1
		}
		if err != nil {
			return n
		}
		if _, ok := m.(derp.ServerRestartingMessage); ok {
			n++
		}
	}
}
