package interop

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// A chronicle is what is to be known of keys that come and go, and of what
// those who received from them were told.
type chronicle struct {
	seed uint64

	mu      sync.Mutex
	roamers map[key.NodePublic]*roamer
	wrong   []string
	pongs   uint64        // the last that was asked for
	ponged  uint64        // and that came
	more    chan struct{} // closed, and made anew, at each change
}

// A roamer is one key.  Its presences are numbered; one begins with its first
// connection and ends with its last.
type roamer struct {
	name     string
	priv     key.NodePrivate
	rng      *rand.Rand
	presence uint32
	ending   uint32 // the last presence whose last connection may have ended
	conns    uint32 // so many there have been
	sent     []int  // packets, to each of the witnesses
	by       []witness

	// A connection may be closed a moment before the relay has its key taken
	// off; if that comes again by then, its presences are one.  Of these a
	// receiver is told nothing in between; of others every one is.
	merged map[uint32]bool // with the next, as a receiver would have it
	parted map[uint32]bool // from the next, as a receiver was told
	there  bool            // as the watcher sees it
	left   int             // so many times, as it was told
}

// A witness is what one receiver knows of one key.
type witness struct {
	heard   uint32 // the last presence that it received in
	told    uint32 // the last that it was told the end of
	arrived int
	last    map[uint32]uint32 // the number of the last packet, by connection
}

func newChronicle(t *testing.T, roamers, witnesses int) *chronicle {
	seed := rand.Uint64()
	if s := os.Getenv("TEST_DERP_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("TEST_DERP_SEED=%d", seed)
	c := &chronicle{seed: seed, roamers: map[key.NodePublic]*roamer{}, more: make(chan struct{})}
	for i := range roamers {
		r := &roamer{
			name: fmt.Sprintf("roamer%d", i), priv: key.NewNode(),
			rng:  rand.New(rand.NewPCG(seed, uint64(i))),
			sent: make([]int, witnesses), by: make([]witness, witnesses),
			merged: map[uint32]bool{}, parted: map[uint32]bool{},
		}
		for j := range r.by {
			r.by[j].last = map[uint32]uint32{}
		}
		c.roamers[r.priv.Public()] = r
	}
	return c
}

func (c *chronicle) complain(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// receive notes what a receiver got, and whether it should have.
func (c *chronicle) receive(i int, m derp.ReceivedMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { close(c.more); c.more = make(chan struct{}) }()
	switch m := m.(type) {
	case derp.ReceivedPacket:
		if r := c.roamers[m.Source]; r != nil && len(m.Data) >= 12 {
			c.packet(i, r, m.Data)
			return
		}
	case derp.PeerGoneMessage:
		if r := c.roamers[m.Peer]; r != nil && m.Reason == derp.PeerGoneReasonDisconnected {
			c.gone(i, r)
			return
		}
	case derp.PongMessage:
		c.ponged = binary.BigEndian.Uint64(m[:])
		return
	}
	c.complain("receiver %d got %s", i, describe(m))
}

func (c *chronicle) packet(i int, r *roamer, data []byte) {
	w := &r.by[i]
	presence := binary.BigEndian.Uint32(data)
	conn := binary.BigEndian.Uint32(data[4:])
	number := binary.BigEndian.Uint32(data[8:])
	what := fmt.Sprintf("receiver %d got packet %d of connection %d of %s in its presence %d",
		i, number, conn, r.name, presence)
	if presence <= w.told {
		c.complain("%s, after PeerGone for presence %d", what, w.told)
	}
	if presence < w.heard {
		c.complain("%s, after one of presence %d", what, w.heard)
	}
	if w.told < w.heard {
		for p := w.heard; p < presence; p++ {
			r.merged[p] = true
		}
	}
	if number != w.last[conn]+1 {
		c.complain("%s, after packet %d", what, w.last[conn])
	}
	w.last[conn] = number
	w.heard = max(w.heard, presence)
	w.arrived++
}

func (c *chronicle) gone(i int, r *roamer) {
	w := &r.by[i]
	switch {
	case w.heard == w.told:
		c.complain("receiver %d got PeerGone for %s, from which it has received nothing since presence %d",
			i, r.name, w.told)
	case r.ending < w.heard:
		c.complain("receiver %d got PeerGone for %s in presence %d, which has not ended", i, r.name, w.heard)
	}
	w.told = w.heard
	if r.presence == w.heard { // else the end may be that of a later one
		r.parted[w.told] = true
	}
}

// watch notes what a watcher is told.
func (c *chronicle) watch(m derp.ReceivedMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { close(c.more); c.more = make(chan struct{}) }()
	switch m := m.(type) {
	case derp.PeerPresentMessage:
		if r := c.roamers[m.Key]; r != nil {
			r.there = true
		}
	case derp.PeerGoneMessage:
		if r := c.roamers[m.Peer]; r != nil {
			r.there = false
			r.left++
		}
	}
}

// whole looks at a roamer that has left for good, and that all know of: to
// whom two presences were one, they were.
func (c *chronicle) whole(r *roamer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range r.merged {
		if r.parted[p] {
			return fmt.Errorf("of the end of presence %d not all are told", p)
		}
	}
	if len(r.merged) > int(r.presence)-r.left {
		return fmt.Errorf("it left %d times in %d presences, but of %d ends nobody is told",
			r.left, r.presence, len(r.merged))
	}
	return nil
}

// await waits until all that concerns a roamer is so, or anything is wrong.
func (c *chronicle) await(what string, done func() bool) error {
	timeout := time.After(patience)
	for {
		c.mu.Lock()
		ok, more, wrong := done(), c.more, len(c.wrong)
		c.mu.Unlock()
		if wrong > 0 {
			return fmt.Errorf("%d things are wrong, the first: %s", wrong, c.wrong[0])
		}
		if ok {
			return nil
		}
		select {
		case <-more:
		case <-timeout:
			return fmt.Errorf("waited %v in vain for %s", patience, what)
		}
	}
}

// over has the receivers answered a ping, which comes behind all that there is.
func (c *chronicle) over(t *testing.T, to []*client) {
	t.Helper()
	for i, x := range to {
		c.mu.Lock()
		c.pongs++
		want := c.pongs
		c.mu.Unlock()
		var data [8]byte
		binary.BigEndian.PutUint64(data[:], want)
		if err := x.conn.SendPing(data); err != nil {
			t.Fatalf("receiver %d pings: %v", i, err)
		}
		if err := c.await("a pong", func() bool { return c.ponged == want }); err != nil {
			t.Fatalf("receiver %d: %v", i, err)
		}
	}
}

func (r *roamer) allArrived() bool {
	for i, n := range r.sent {
		if r.by[i].arrived != n {
			return false
		}
	}
	return true
}

func (r *roamer) allTold() bool {
	for i := range r.by {
		if r.by[i].told != r.by[i].heard {
			return false
		}
	}
	return r.allArrived()
}

// An appearance is one of a roamer's connections.
type appearance struct {
	*client
	id     uint32
	number []uint32 // of the last packet to each receiver
}

func (r *roamer) appear(c *chronicle, relay *relay) (*appearance, error) {
	ways := relay.serves(plain4, plain6, plain4, tls4)
	cl, err := tryConnect(relay, r.name, as(r.priv), via(ways[r.rng.IntN(len(ways))]), byHand)
	if err != nil {
		return nil, err
	}
	r.conns++
	return &appearance{client: cl, id: r.conns, number: make([]uint32, len(r.sent))}, nil
}

// speak sends a few packets to some of the receivers.
func (r *roamer) speak(c *chronicle, a *appearance, to []*client) error {
	for i := range to {
		if r.rng.IntN(2) == 0 {
			continue
		}
		for range 1 + r.rng.IntN(6) {
			if err := r.say(c, a, to, i); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *roamer) say(c *chronicle, a *appearance, to []*client, i int) error {
	a.number[i]++
	data := make([]byte, 12+r.rng.IntN(200))
	binary.BigEndian.PutUint32(data, r.presence)
	binary.BigEndian.PutUint32(data[4:], a.id)
	binary.BigEndian.PutUint32(data[8:], a.number[i])
	c.mu.Lock()
	r.sent[i]++
	c.mu.Unlock()
	return a.conn.Send(to[i].key, data)
}

// leave ends a connection.  Politely: it says so, and once the relay has closed
// it, it is no more.  Or not: then nobody knows when the relay finds out.
func (r *roamer) leave(c *chronicle, a *appearance, politely bool) error {
	if politely {
		return a.leave()
	}
	err := c.await("the last packets of "+r.name, r.allArrived)
	a.close()
	return err
}

// live is one presence: how many connections it took.
func (r *roamer) live(c *chronicle, relay *relay, to []*client) (int, error) {
	c.mu.Lock()
	r.presence++
	c.mu.Unlock()
	a, err := r.appear(c, relay)
	if err != nil {
		return 0, err
	}
	n, politely := 1, r.rng.IntN(3) > 0
	if err := r.speak(c, a, to); err != nil {
		return n, err
	}
	for r.rng.IntN(10) == 0 { // a duplicate, of which either may be the first to leave
		b, err := r.appear(c, relay)
		if err != nil {
			return n, err
		}
		n++
		for range 3 {
			if err := r.speak(c, a, to); err != nil {
				return n, err
			}
			if err := r.speak(c, b, to); err != nil {
				return n, err
			}
		}
		if r.rng.IntN(2) == 0 {
			a, b = b, a
		}
		if err := r.leave(c, b, politely); err != nil {
			return n, err
		}
		if err := r.speak(c, a, to); err != nil {
			return n, err
		}
	}
	if !politely { // then it is by word of the receivers that it is known
		if err := r.say(c, a, to, r.rng.IntN(len(to))); err != nil {
			return n, err
		}
		if err := c.await("the packets of "+r.name, r.allArrived); err != nil {
			return n, err
		}
	}
	c.mu.Lock()
	r.ending = r.presence
	c.mu.Unlock()
	if err := r.leave(c, a, politely); err != nil {
		return n, err
	}
	if politely {
		return n, nil // and come again at once
	}
	return n, c.await("the end of "+r.name, r.allTold)
}

// Keys come, go and return, two thousand times in all, a tenth of them twice at a time;
// who received from one is told of its end once, behind its last packet and
// before the first of its next presence, and never while it is there.
func TestPresences(t *testing.T) {
	oursOnly(t, "it tells a departure only once in a connection's life")
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		const roamers, receivers = 8, 6
		relay := startTarget(t, options{workers: workers, mesh: true})
		c := newChronicle(t, roamers, receivers)
		connect(t, relay, "watcher", watching, handled(c.watch))
		var to []*client
		for i := range receivers {
			to = append(to, connect(t, relay, fmt.Sprintf("receiver%d", i), on(i),
				handled(func(m derp.ReceivedMessage) { c.receive(i, m) })))
		}
		var running sync.WaitGroup
		for _, r := range c.roamers {
			running.Go(func() {
				for n := 0; n < 300*workers/roamers; {
					lived, err := r.live(c, relay, to)
					if err != nil {
						t.Errorf("%s, in presence %d: %v", r.name, r.presence, err)
						return
					}
					n += lived
				}
				err := c.await("all that there is to tell of "+r.name, func() bool {
					return !r.there && r.allTold()
				})
				if err == nil {
					err = c.whole(r)
				}
				if err != nil {
					t.Errorf("%s: %v", r.name, err)
				}
			})
		}
		running.Wait()
		// What comes too often would be there by now, in the same order.
		c.over(t, to)
	})
}
