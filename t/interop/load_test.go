package interop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// window is how many packets may be under way to one client: the relay queues
// 32, and drops only beyond.
const window = 24

// A crowd is clients each of which sends to each, and who knows what is to
// come from whom.
type crowd struct {
	t       *testing.T
	members []*client
	index   map[key.NodePublic]int
	arrived []atomic.Int32 // packets from i to j, at i*n+j
	landed  chan struct{}  // one for each packet that arrived
	leaving atomic.Bool    // the test is over: members are told of departures
}

func gather(t *testing.T, r *relay, n int) *crowd {
	c := &crowd{
		t: t, index: map[key.NodePublic]int{},
		arrived: make([]atomic.Int32, n*n), landed: make(chan struct{}, n*window),
	}
	ways := r.serves(transports...)
	for i := range n {
		m := connect(t, r, fmt.Sprint(i), via(ways[i%len(ways)]),
			handled(func(m derp.ReceivedMessage) { c.receive(i, m) }))
		c.members = append(c.members, m)
		c.index[m.key] = i
	}
	t.Cleanup(func() { c.leaving.Store(true) })
	return c
}

// packet is what i sends to j: of any size up to the common 1400.
func (c *crowd) packet(i, j int) []byte {
	seed := uint64(i)<<32 | uint64(j)
	return payload(seed, int(seed*2654435761>>7%1401))
}

// receive checks what member j got.  The index is complete before the first
// packet is sent.
func (c *crowd) receive(j int, m derp.ReceivedMessage) {
	if c.leaving.Load() {
		return
	}
	p, ok := m.(derp.ReceivedPacket)
	if !ok {
		c.t.Errorf("%d received %s", j, describe(m))
		return
	}
	i, ok := c.index[p.Source]
	if !ok || !bytes.Equal(p.Data, c.packet(i, j)) {
		c.t.Errorf("%d received %s, harmed", j, describe(m))
	}
	c.arrived[i*len(c.members)+j].Add(1)
	c.landed <- struct{}{}
}

// rounds sends from everyone at once.  In each round everyone sends to another,
// so that as much comes to each as goes out.
func (c *crowd) rounds(first, count int) {
	n := len(c.members)
	var sending sync.WaitGroup
	for i, m := range c.members {
		sending.Go(func() {
			for k := first; k < first+count; k++ {
				j := (i + k) % n
				if err := m.conn.Send(c.members[j].key, c.packet(i, j)); err != nil {
					c.t.Errorf("%d sends to %d: %v", i, j, err)
				}
			}
		})
	}
	sending.Wait()
	timeout := time.After(patience)
	for arrived := range n * count {
		select {
		case <-c.landed:
		case <-timeout:
			c.t.Fatalf("only %d of %d packets arrived in %v", arrived, n*count, patience)
		}
	}
}

// Two hundred clients, over all transports, send to each other and themselves,
// and every packet arrives once.
func TestEveryPair(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		const n = 200
		r := startTarget(t, options{workers: workers})
		c := gather(t, r, n)
		for first := 0; first < n; first += window {
			c.rounds(first, min(window, n-first))
		}
		for i := range c.arrived {
			if got := c.arrived[i].Load(); got != 1 {
				t.Errorf("%d packets from %d to %d", got, i/n, i%n)
			}
		}
	})
}

// A stream is packets from one client to another, numbered and checked.
type stream struct {
	t     *testing.T
	total int
	room  chan struct{} // one for each packet that may be under way
	done  chan struct{} // closed when the last has arrived
	next  int           // owned by the receiver's reader
	want  []byte

	beside func(i int) // if set, called before each packet is sent
}

func newStream(t *testing.T, total int) *stream {
	s := &stream{
		t: t, total: total, want: make([]byte, derp.MaxPacketSize),
		room: make(chan struct{}, window), done: make(chan struct{}),
	}
	for range window {
		s.room <- struct{}{}
	}
	return s
}

// size has most packets like WireGuard's, and now and then one of the largest.
func (s *stream) size(i int) int {
	if i%1000 == 999 {
		return derp.MaxPacketSize
	}
	return 8 + i*7919%1393
}

// packet makes the packet with this number in buf.
func (s *stream) packet(buf []byte, i int) []byte {
	p := buf[:s.size(i)]
	fill(p, uint64(i))
	binary.BigEndian.PutUint64(p, uint64(i))
	return p
}

func (s *stream) receive(m derp.ReceivedMessage) {
	p, ok := m.(derp.ReceivedPacket)
	if !ok {
		if s.next < s.total { // afterwards, departures are nobody's concern
			s.t.Errorf("received %s", describe(m))
		}
		return
	}
	if s.next == s.total || !bytes.Equal(p.Data, s.packet(s.want, s.next)) {
		s.t.Errorf("received %s, want packet %d", describe(m), s.next)
	}
	s.next++
	if s.next == s.total {
		close(s.done)
	}
	s.room <- struct{}{}
}

// run sends all, and returns when all has arrived.
func (s *stream) run(from, to *client) error {
	buf := make([]byte, derp.MaxPacketSize)
	timeout := time.NewTimer(patience)
	for i := range s.total {
		timeout.Reset(patience)
		select {
		case <-s.room:
		case <-to.ended:
			return fmt.Errorf("%s lost its connection: %w", to.name, to.err)
		case <-timeout.C:
			return fmt.Errorf("no packet arrived for %v, after %d", patience, i)
		}
		if s.t.Failed() {
			return errors.New("stopped: one harmed packet says it all")
		}
		if s.beside != nil {
			s.beside(i)
		}
		if err := from.conn.Send(to.key, s.packet(buf, i)); err != nil {
			return err
		}
	}
	select {
	case <-s.done:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("the last packets did not arrive in %v", patience)
	}
}

// A hundred thousand packets, from one worker to another, arrive in order and unharmed.
func TestOrder(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		for _, tr := range []transport{plain4, tls6} {
			t.Run(tr.String(), func(t *testing.T) {
				r := startTarget(t, options{workers: workers, via: tr})
				s := newStream(t, 100_000)
				a := connect(t, r, "a", via(tr), on(0))
				b := connect(t, r, "b", via(tr), on(1), handled(s.receive))
				if err := s.run(a, b); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}

// Streams that cross, many to one worker and back, do not mix.
func TestCrossingStreams(t *testing.T) {
	forWorkers(t, []int{1, 4}, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers})
		var running sync.WaitGroup
		for i := range 8 {
			s := newStream(t, 2000)
			a := connect(t, r, fmt.Sprintf("a%d", i), on(i))
			b := connect(t, r, fmt.Sprintf("b%d", i), on(i/2), handled(s.receive))
			running.Go(func() {
				if err := s.run(a, b); err != nil {
					t.Error(err)
				}
			})
		}
		running.Wait()
	})
}
