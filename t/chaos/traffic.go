package interop

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// A traffic is clients that send to each other at a steady rate, and who knows
// what is to come from whom.  A seat is taken by one client after the other;
// each sends to those in the next seats, and to some far away.
type traffic struct {
	t     *testing.T
	s     *server
	every time.Duration // between two packets of one client

	seats []atomic.Pointer[party]
	gate  sync.RWMutex // held to keep everyone from sending
	stop  chan struct{}
	busy  sync.WaitGroup

	mu      sync.Mutex
	streams []*flow
	byKey   map[key.NodePublic]*party

	landed    chan struct{} // that something has arrived
	delivered atomic.Int64
	dropped   atomic.Int64 // on the way to who is lossy
	complaint atomic.Int32 // so many were made
	surprise  atomic.Bool  // workers die by themselves
	over      atomic.Bool
}

// A party is one client in the traffic, from its login to its end.
type party struct {
	*client
	seat   int
	tr     transport
	pid    int // of its worker
	doomed atomic.Bool
	lossy  atomic.Bool // packets to it may be dropped

	mu    sync.Mutex
	sends map[*party]*flow
	heard map[key.NodePublic]int         // packets from each
	told  map[key.NodePublic][]time.Time // PeerGone of each
	late  map[key.NodePublic]int         // packets from each behind that
}

// A flow is the packets from one party to another, numbered.
type flow struct {
	id       uint32
	from, to *party
	sent     atomic.Uint64
	next     atomic.Uint64 // that is to arrive
}

const (
	partners   = 6
	flowHeader = 12
)

// newTraffic connects n clients, and has each send a packet in each interval.
func newTraffic(t *testing.T, s *server, n int, every time.Duration) *traffic {
	t.Helper()
	tr := &traffic{
		t: t, s: s, every: every, seats: make([]atomic.Pointer[party], n),
		stop: make(chan struct{}), landed: make(chan struct{}, 1), byKey: map[key.NodePublic]*party{},
	}
	for i := range n {
		tr.join(i)
	}
	for i := range n {
		tr.busy.Go(func() { tr.send(i) })
	}
	t.Cleanup(tr.end)
	return tr
}

func (tr *traffic) end() {
	if tr.over.Swap(true) {
		return
	}
	close(tr.stop)
	tr.busy.Wait()
	for i := range tr.seats {
		if p := tr.seats[i].Load(); p != nil {
			p.doomed.Store(true)
			p.close()
		}
	}
}

// errorf complains, but not without end.
func (tr *traffic) errorf(format string, args ...any) {
	if tr.complaint.Add(1) <= 20 && !tr.over.Load() {
		tr.t.Errorf(format, args...)
	}
}

// join has a new client take a seat, by TLS.
func (tr *traffic) join(seat int) *party {
	tr.t.Helper()
	p := &party{
		seat: seat, tr: tls4,
		sends: map[*party]*flow{}, heard: map[key.NodePublic]int{}, told: map[key.NodePublic][]time.Time{},
		late: map[key.NodePublic]int{},
	}
	if seat%2 == 1 {
		p.tr = tls6
	}
	priv := key.NewNode()
	tr.mu.Lock()
	tr.byKey[priv.Public()] = p
	tr.mu.Unlock()
	// Nobody sends to it before it is in its seat, so p.client is set when
	// the first packet arrives.
	c, err := tryConnect(tr.s.relay, fmt.Sprintf("client %d", seat), via(p.tr), as(priv),
		handled(func(m derp.ReceivedMessage) { tr.receive(p, m) }))
	if err != nil {
		tr.t.Fatalf("connecting a client for seat %d: %v", seat, err)
	}
	p.client = c
	p.pid = tr.s.ownerOf(tr.t, c, p.tr)
	tr.seats[seat].Store(p)
	go func() {
		<-c.ended
		if tr.surprise.Load() {
			p.doomed.Store(true)
		} else if !p.doomed.Load() {
			tr.errorf("%s on worker %d was disconnected: %v", c.name, p.pid, c.err)
		}
	}()
	return p
}

// leave has the client in a seat go, once all has arrived that it sent, and
// that was sent to it.
func (tr *traffic) leave(seats ...int) []*party {
	tr.t.Helper()
	tr.gate.Lock()
	defer tr.gate.Unlock()
	tr.awaitAll()
	var left []*party
	for _, seat := range seats {
		p := tr.seats[seat].Swap(nil)
		p.doomed.Store(true)
		p.close()
		left = append(left, p)
	}
	return left
}

func (tr *traffic) send(seat int) {
	tick := time.NewTicker(tr.every)
	defer tick.Stop()
	buf := make([]byte, 1400)
	rnd := rand.New(rand.NewPCG(uint64(seat), 1))
	for k := 0; ; k++ {
		select {
		case <-tr.stop:
			return
		case <-tick.C:
		}
		tr.gate.RLock()
		tr.sendOne(seat, k, buf, rnd)
		tr.gate.RUnlock()
	}
}

func (tr *traffic) sendOne(seat, k int, buf []byte, rnd *rand.Rand) {
	n := len(tr.seats)
	hop := k % partners
	to := tr.seats[(seat+1+hop*(n/partners))%n].Load()
	from := tr.seats[seat].Load()
	if from == nil || to == nil || from.doomed.Load() || to.doomed.Load() {
		return
	}
	f := tr.flow(from, to)
	num := f.sent.Load()
	p := f.packet(buf, num)
	f.sent.Add(1)
	if err := from.conn.Send(to.key, p); err != nil && !from.doomed.Load() && !tr.surprise.Load() {
		tr.errorf("%s sends to %s: %v", from.name, to.name, err)
	}
}

func (tr *traffic) flow(from, to *party) *flow {
	from.mu.Lock()
	defer from.mu.Unlock()
	f := from.sends[to]
	if f == nil {
		f = &flow{from: from, to: to}
		from.sends[to] = f
		tr.mu.Lock()
		f.id = uint32(len(tr.streams))
		tr.streams = append(tr.streams, f)
		tr.mu.Unlock()
	}
	return f
}

// packet makes the packet of this number in buf: 20 to 1400 bytes.
func (f *flow) packet(buf []byte, num uint64) []byte {
	seed := uint64(f.id)<<32 ^ num
	p := buf[:20+seed*2654435761>>7%1381]
	fill(p, seed)
	binary.BigEndian.PutUint32(p, f.id)
	binary.BigEndian.PutUint64(p[4:], num)
	return p
}

var packetBufs = sync.Pool{New: func() any { return make([]byte, 1400) }}

func (tr *traffic) receive(p *party, m derp.ReceivedMessage) {
	switch m := m.(type) {
	case derp.ReceivedPacket:
		tr.receivePacket(p, m)
	case derp.PeerGoneMessage:
		tr.mu.Lock()
		peer := tr.byKey[m.Peer]
		tr.mu.Unlock()
		if peer != nil && !peer.doomed.Load() && !tr.surprise.Load() {
			tr.errorf("seat %d was told that seat %d left, which has not", p.seat, peer.seat)
		}
		p.mu.Lock()
		p.told[m.Peer] = append(p.told[m.Peer], time.Now())
		p.mu.Unlock()
	case derp.ServerRestartingMessage, derp.HealthMessage:
	default:
		tr.errorf("seat %d received %s", p.seat, describe(m))
	}
}

func (tr *traffic) receivePacket(p *party, m derp.ReceivedPacket) {
	if len(m.Data) < flowHeader {
		tr.errorf("seat %d received a packet of %d bytes", p.seat, len(m.Data))
		return
	}
	id, num := binary.BigEndian.Uint32(m.Data), binary.BigEndian.Uint64(m.Data[4:])
	tr.mu.Lock()
	var f *flow
	if int(id) < len(tr.streams) {
		f = tr.streams[id]
	}
	tr.mu.Unlock()
	if f == nil || f.to != p || f.from.key != m.Source {
		tr.errorf("seat %d received a packet that is not for it, of %s", p.seat, keyName(m.Source))
		return
	}
	buf := packetBufs.Get().([]byte)
	if !bytes.Equal(m.Data, f.packet(buf, num)) {
		tr.errorf("seat %d received a harmed packet, of %s", p.seat, f.from.name)
	}
	packetBufs.Put(buf)
	switch next := f.next.Load(); {
	case num > next && p.lossy.Load():
		tr.dropped.Add(int64(num - next))
	case num != next:
		tr.errorf("%s (worker %d) received packet %d of %s (worker %d), want %d: lost or reordered",
			f.to.name, f.to.pid, num, f.from.name, f.from.pid, next)
	}
	f.next.Store(num + 1)
	p.mu.Lock()
	p.heard[m.Source]++
	if len(p.told[m.Source]) > 0 {
		p.late[m.Source]++ // it was under way, and the departure is told again
	}
	p.mu.Unlock()
	tr.delivered.Add(1)
	select {
	case tr.landed <- struct{}{}:
	default:
	}
}

// settle keeps everyone from sending until all has arrived that was sent
// between clients that are alive.
func (tr *traffic) settle() {
	tr.t.Helper()
	tr.gate.Lock()
	defer tr.gate.Unlock()
	tr.awaitAll()
}

func (tr *traffic) awaitAll() {
	tr.t.Helper()
	timeout := time.After(patience)
	for {
		f := tr.outstanding()
		if f == nil || tr.t.Failed() {
			return
		}
		select {
		case <-tr.landed:
		case <-timeout:
			tr.errorf("of %d packets from %s (worker %d) to %s (worker %d) %d arrived", f.sent.Load(),
				f.from.name, f.from.pid, f.to.name, f.to.pid, f.next.Load())
			return
		}
	}
}

// outstanding is a flow between the living of which something is under way.
func (tr *traffic) outstanding() *flow {
	for i := range tr.seats {
		from := tr.seats[i].Load()
		if from == nil || from.doomed.Load() {
			continue
		}
		from.mu.Lock()
		for to, f := range from.sends {
			if to.doomed.Load() {
				delete(from.sends, to) // there will be no more of it
				continue
			}
			if f.next.Load() != f.sent.Load() {
				from.mu.Unlock()
				return f
			}
		}
		from.mu.Unlock()
	}
	return nil
}

// choose are the clients of these workers.
func (tr *traffic) choose(pids ...int) (all []*party) {
	for i := range tr.seats {
		if p := tr.seats[i].Load(); p != nil && slices.Contains(pids, p.pid) {
			all = append(all, p)
		}
	}
	return all
}

// recover waits until packets arrive again from everyone at those to whom they
// may have been dropped; from then on none may be.
func (tr *traffic) recover(lossy []*party) {
	tr.t.Helper()
	since := map[*flow]uint64{}
	tr.mu.Lock()
	for _, f := range tr.streams {
		if slices.Contains(lossy, f.to) && !f.from.doomed.Load() {
			since[f] = f.sent.Load()
		}
	}
	tr.mu.Unlock()
	timeout := time.After(patience)
	for f, sent := range since {
		for f.next.Load() <= sent {
			select {
			case <-tr.landed:
			case <-timeout:
				tr.errorf("%s receives nothing of %s any more", f.to.name, f.from.name)
				return
			}
		}
	}
	for _, p := range lossy {
		p.lossy.Store(false)
	}
	tr.settle()
}

// doom marks the clients of workers that are about to die.
func (tr *traffic) doom(pids ...int) (doomed []*party) {
	doomed = tr.choose(pids...)
	for _, p := range doomed {
		p.doomed.Store(true)
	}
	return doomed
}

// living are the clients that are to be told of what happens.
func (tr *traffic) living() (all []*party) {
	for i := range tr.seats {
		if p := tr.seats[i].Load(); p != nil && !p.doomed.Load() {
			all = append(all, p)
		}
	}
	return all
}

// awaitTold waits until each living client that has heard of one of the dead
// has been told that it left, and returns the times that it took.  Nobody else
// is to be told, and nobody twice.
func (tr *traffic) awaitTold(dead []*party, since time.Time, took *longest) {
	tr.t.Helper()
	for _, p := range tr.living() {
		for _, d := range dead {
			eventually(tr.t, fmt.Sprintf("%s to be told that %s left", p.name, d.name), func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.heard[d.key] == 0 || len(p.told[d.key]) > 0
			})
			p.mu.Lock()
			heard, told, late := p.heard[d.key], p.told[d.key], p.late[d.key]
			p.mu.Unlock()
			switch {
			case heard == 0 && len(told) > 0:
				tr.errorf("%s was told that %s left, of whom it had received nothing", p.name, d.name)
			case len(told) > 1+late:
				tr.errorf("%s was told %d times that %s left", p.name, len(told), d.name)
			case len(told) > 0 && took != nil:
				took.add(told[0].Sub(since))
			}
		}
	}
}

// forget drops what is known of clients that are gone.
func (tr *traffic) forget(dead []*party) {
	for _, p := range tr.living() {
		p.mu.Lock()
		for _, d := range dead {
			delete(p.heard, d.key)
			delete(p.told, d.key)
			delete(p.late, d.key)
		}
		p.mu.Unlock()
	}
	tr.mu.Lock()
	for _, d := range dead {
		delete(tr.byKey, d.key)
	}
	tr.mu.Unlock()
}

// keys are those of the living.
func (tr *traffic) keys() map[key.NodePublic]bool {
	all := map[key.NodePublic]bool{}
	for _, p := range tr.living() {
		all[p.key] = true
	}
	return maps.Clone(all)
}
