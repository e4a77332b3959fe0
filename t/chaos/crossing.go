package interop

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// A crossing is numbered packets from a client here to a remote one, all the
// time.  Some may be lost: those that were sent while the link was, or while
// the client was.
type crossing struct {
	t    *testing.T
	s    *server
	r    *remote
	stop chan struct{}
	busy sync.WaitGroup

	mu      sync.Mutex
	from    *client
	pid     int
	sent    []time.Time
	count   []int
	excused [][2]time.Time
	seen    int
}

// margin is for what was on its way when something died.
const margin = 200 * time.Millisecond

func newCrossing(t *testing.T, s *server, r *remote) *crossing {
	t.Helper()
	x := &crossing{t: t, s: s, r: r, stop: make(chan struct{})}
	r.mu.Lock()
	r.over = x
	r.mu.Unlock()
	x.connect()
	x.busy.Go(x.run)
	t.Cleanup(x.end)
	return x
}

// connect logs the client in, or in again.
func (x *crossing) connect() {
	x.t.Helper()
	c := connect(x.t, x.s.relay, "the one that sends over the link", via(tls4))
	pid := x.s.ownerOf(x.t, c, tls4)
	x.mu.Lock()
	x.from, x.pid = c, pid
	x.mu.Unlock()
}

// again logs the client in, if its worker is one of those that were killed.
func (x *crossing) again(pids []int) {
	x.t.Helper()
	if slices.Contains(pids, x.pid) {
		<-x.from.ended
		x.connect()
	}
}

func (x *crossing) run() {
	for {
		select {
		case <-x.stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		x.mu.Lock()
		from, n := x.from, len(x.sent)
		x.sent = append(x.sent, time.Now())
		x.count = append(x.count, 0)
		x.mu.Unlock()
		from.conn.Send(x.r.key, binary.BigEndian.AppendUint64(make([]byte, 0, 16), uint64(n))[:16])
	}
}

func (x *crossing) arrived(n uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n < uint64(len(x.count)) {
		x.count[n]++
		x.seen++
	}
}

// victims says, before they are killed, whether packets may be lost by it.
func (x *crossing) victims(pids []int) bool {
	x.t.Helper()
	owners, err := dialers(x.r.peer.addr, x.s.allWorkers())
	if err != nil {
		x.t.Fatal(err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.ContainsFunc(pids, func(pid int) bool { return pid == x.pid || slices.Contains(owners, pid) })
}

// excuse says that packets could be lost from then until now.
func (x *crossing) excuse(from time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.excused = append(x.excused, [2]time.Time{from.Add(-margin), time.Now()})
}

func (x *crossing) end() {
	select {
	case <-x.stop:
	default:
		close(x.stop)
	}
	x.busy.Wait()
	x.mu.Lock()
	x.from.close()
	x.mu.Unlock()
}

// check ends it, and says what became of its packets.
func (x *crossing) check() string {
	x.t.Helper()
	select {
	case <-x.stop:
	default:
		close(x.stop)
	}
	x.busy.Wait()
	deadline := time.Now().Add(patience)
	for {
		missing, lost := x.missing()
		if missing == "" || time.Now().After(deadline) {
			if missing != "" {
				x.t.Error(missing)
			}
			return fmt.Sprintf("%d packets over the link, %d lost while it was", x.seen, lost)
		}
		time.Sleep(poll)
	}
}

// missing is the first packet that should have arrived once and did not.
func (x *crossing) missing() (what string, lost int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for n, at := range x.sent {
		excused := slices.ContainsFunc(x.excused, func(w [2]time.Time) bool {
			return !at.Before(w[0]) && !at.After(w[1])
		})
		switch {
		case x.count[n] == 0 && excused:
			lost++
		case x.count[n] != 1 && what == "":
			what = fmt.Sprintf("packet %d of %d over the link, sent at %v, arrived %d times",
				n, len(x.sent), at.Format("15:04:05.000"), x.count[n])
		}
	}
	return what, lost
}
