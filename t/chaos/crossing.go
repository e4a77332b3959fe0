package interop

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// A crossing is numbered packets between a client here and a remote one, all the
// time: there by our link, and back from a mesh peer's connection, as another
// relay has it.  Some may be lost: those that were sent while the link was, or
// while one of these connections was.
type crossing struct {
	t    *testing.T
	s    *server
	r    *remote
	stop chan struct{}
	busy sync.WaitGroup

	mu      sync.Mutex
	here    *observer // the client
	peer    *observer // the other relay's connection
	there   lane
	back    lane
	excused [][2]time.Time
}

// A lane is the packets of one direction.
type lane struct {
	name  string
	sent  []time.Time
	count []int
	seen  int
	last  uint64
	late  int // so many came behind one that was sent after them
}

// margin is for what was on its way when something died.
const margin = 200 * time.Millisecond

func newCrossing(t *testing.T, s *server, r *remote) *crossing {
	t.Helper()
	x := &crossing{t: t, s: s, r: r, stop: make(chan struct{}), there: lane{name: "there"}, back: lane{name: "back"}}
	r.mu.Lock()
	r.over = x
	r.mu.Unlock()
	x.connect(&x.here)
	x.connect(&x.peer)
	x.busy.Go(x.run)
	t.Cleanup(x.end)
	return x
}

// connect logs one of the two in, or in again.
func (x *crossing) connect(seat **observer) {
	x.t.Helper()
	name, opts := "the one that sends over the link", []setting{via(tls4), handled(x.receive)}
	if seat == &x.peer {
		name, opts = "the other relay", append(opts, inMesh)
	}
	c := connect(x.t, x.s.relay, name, opts...)
	o := &observer{client: c, pid: x.s.ownerOf(x.t, c, tls4)}
	x.mu.Lock()
	*seat = o
	x.mu.Unlock()
}

// again logs in anew whose worker is one of those that were killed.
func (x *crossing) again(pids []int) {
	x.t.Helper()
	for _, seat := range []**observer{&x.here, &x.peer} {
		if slices.Contains(pids, (*seat).pid) {
			<-(*seat).ended
			x.connect(seat)
		}
	}
}

// parties are the clients that it has.
func (x *crossing) parties() []*observer {
	x.mu.Lock()
	defer x.mu.Unlock()
	return []*observer{x.here, x.peer}
}

func (x *crossing) addTo(keys map[key.NodePublic]bool) {
	for _, o := range x.parties() {
		keys[o.key] = true
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
		here, peer := x.here, x.peer
		p, q := x.there.next(), x.back.next()
		x.mu.Unlock()
		here.conn.Send(x.r.key, p)
		peer.conn.ForwardPacket(x.r.key, here.key, q)
	}
}

// next is the next packet, which is about to be sent.
func (l *lane) next() []byte {
	n := len(l.sent)
	l.sent, l.count = append(l.sent, time.Now()), append(l.count, 0)
	return binary.BigEndian.AppendUint64(make([]byte, 0, 16), uint64(n))[:16]
}

func (x *crossing) arrived(l *lane, data []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := binary.BigEndian.Uint64(data)
	if n >= uint64(len(l.count)) {
		return
	}
	l.count[n]++
	l.seen++
	if n < l.last {
		l.late++
	}
	l.last = max(l.last, n)
}

func (x *crossing) receive(m derp.ReceivedMessage) {
	if p, ok := m.(derp.ReceivedPacket); ok && p.Source == x.r.key && len(p.Data) == 16 {
		x.arrived(&x.back, p.Data)
	}
}

// victims says, before they are killed, whether packets may be lost by it.
func (x *crossing) victims(pids []int) bool {
	x.t.Helper()
	owners, err := dialers(x.r.peer.addr, x.s.allWorkers())
	if err != nil {
		x.t.Fatal(err)
	}
	for _, o := range x.parties() {
		owners = append(owners, o.pid)
	}
	return slices.ContainsFunc(pids, func(pid int) bool { return slices.Contains(owners, pid) })
}

// excuse says that packets could be lost from then until now.
func (x *crossing) excuse(from time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.excused = append(x.excused, [2]time.Time{from.Add(-margin), time.Now()})
}

func (x *crossing) halt() {
	select {
	case <-x.stop:
	default:
		close(x.stop)
	}
	x.busy.Wait()
}

func (x *crossing) end() {
	x.halt()
	for _, o := range x.parties() {
		o.close()
	}
}

// check ends it, and says what became of its packets.
func (x *crossing) check() string {
	x.t.Helper()
	x.halt()
	deadline := time.Now().Add(patience)
	for {
		missing, lost := x.missing()
		if missing == "" || time.Now().After(deadline) {
			if missing != "" {
				x.t.Error(missing)
			}
			// A line that another takes the place of may end behind its beginning.
			if x.back.late > 0 {
				x.t.Errorf("%d packets from the other relay came out of order", x.back.late)
			}
			return fmt.Sprintf("%d packets over the link (%d out of order) and %d back, %d lost while one was",
				x.there.seen, x.there.late, x.back.seen, lost)
		}
		time.Sleep(poll)
	}
}

// missing is the first packet that should have arrived once and did not.
func (x *crossing) missing() (what string, lost int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, l := range []*lane{&x.there, &x.back} {
		for n, at := range l.sent {
			excused := slices.ContainsFunc(x.excused, func(w [2]time.Time) bool {
				return !at.Before(w[0]) && !at.After(w[1])
			})
			switch {
			case l.count[n] == 0 && excused:
				lost++
			case l.count[n] != 1 && what == "":
				what = fmt.Sprintf("packet %d of %d %s, sent at %v, arrived %d times",
					n, len(l.sent), l.name, at.Format("15:04:05.000"), l.count[n])
			}
		}
	}
	return what, lost
}
