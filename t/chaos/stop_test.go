package interop

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tailscale.com/types/key"
)

// A worker stands still: the others' clients lose nothing; what is for its own
// may be dropped; and when it goes on, so does everything.
func TestStoppedWorker(t *testing.T) {
	const n = 90
	f := rounds(t, 2, 5, 3)
	s := start(t, conf{workers: 3})
	tr := newTraffic(t, s, n, 25*time.Millisecond)
	pause := 3 * time.Second
	if long() {
		pause = 10 * time.Second
	}
	for f.more() {
		pid := s.workers[f.rounds%len(s.workers)]
		stopped := tr.choose(pid)
		for _, p := range stopped {
			p.lossy.Store(true)
		}
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(pause / 2) // half of the time that it stands still
		before := tr.deliveredBetweenOthers(pid)
		time.Sleep(pause / 2)
		during := tr.deliveredBetweenOthers(pid) - before
		if during == 0 {
			t.Error("the others received nothing meanwhile")
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		tr.recover(stopped)
	}
	if tr.dropped.Load() == 0 {
		t.Error("nothing was dropped, so nothing was tried")
	}
	f.note("%d times for %v; %d clients, %d packets, %d dropped on the way to the worker that stood still",
		f.rounds, pause, n, tr.delivered.Load(), tr.dropped.Load())
}

func (tr *traffic) deliveredBetweenOthers(pid int) (n uint64) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, f := range tr.streams {
		if f.from.pid != pid && f.to.pid != pid {
			n += f.next.Load()
		}
	}
	return n
}

// A worker stands still while others come and go by thousands, more than the
// journal holds: afterwards its clients are told of who left, and a watcher of
// it has the right picture, or is closed so that it starts afresh.
func TestStoppedAndOverrun(t *testing.T) {
	f := rounds(t, 1, 2, 3)
	s := start(t, conf{workers: 3, zone: "4m"})
	s.allow(`\[error\].* derp watcher has fallen behind`)
	logins, afresh := 0, 0
	for f.more() {
		i := f.rounds % len(s.workers)
		pid := s.workers[i]
		x, stays := connect(t, s.relay, "x", on(i)), connect(t, s.relay, "stays", on(i+1))
		leaves := connect(t, s.relay, "leaves", on(i+2))
		everyPairOf(t, x, stays, leaves)
		w, there := observe(t, s, i), observe(t, s, i+1)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		leaves.close()
		stays.want(t, gone(leaves))
		logins += s.comeAndGo(overrun)
		everyPairOf(t, stays)
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		x.want(t, gone(leaves))
		everyPairOf(t, x, stays)
		select {
		case <-w.ended:
			afresh++
		case <-time.After(departure):
			t.Error("a watcher whose worker was overrun was not closed")
		}
		w = observe(t, s, i)
		for _, o := range []*observer{w, there} {
			o.awaitPicture(t, map[key.NodePublic]bool{x.key: true, stays.key: true, there.key: true, w.key: true})
		}
		for _, c := range []*client{x, stays, w.client, there.client} {
			c.close()
		}
	}
	f.note("%d times, %d other logins; %d watchers started afresh", f.rounds, logins, afresh)
}

// overrun is more changes than there are entries in the journal of 4 MiB.
const overrun = 3000

// comeAndGo logs so many clients in and out again, wherever a worker answers.
func (s *server) comeAndGo(n int) int {
	var done atomic.Int64
	var busy sync.WaitGroup
	deadline := time.Now().Add(patience)
	for range 8 {
		busy.Go(func() {
			for done.Load() < int64(n) && time.Now().Before(deadline) {
				if c, err := loginRaw(s.addr(plain4), 0, 0, 50*time.Millisecond); err == nil {
					c.Close()
					done.Add(1)
				}
			}
		})
	}
	busy.Wait()
	return int(done.Load())
}
