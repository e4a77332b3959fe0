package interop

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// silence is how long a link bears it.
const silence = 15 * time.Second

// awaitEnd waits for the relay to let go of a link.
func (l *link) awaitEnd(t testing.TB) {
	t.Helper()
	select {
	case <-l.ended:
	case <-time.After(patience):
		t.Fatalf("%s still has the link after %v", l.peer.name, patience)
	}
}

func (l *link) wantAlive(t testing.TB) {
	t.Helper()
	select {
	case <-l.ended:
		t.Fatalf("%s lost its link", l.peer.name)
	default:
	}
}

// answer is a Pong that nobody need have asked for.
func (l *link) answer(t testing.TB) {
	t.Helper()
	if err := l.write(derp.FramePong, make([]byte, 8)); err != nil {
		t.Fatalf("%s answers a ping: %v", l.peer.name, err)
	}
}

// restless has a peer tell each new link of u and of 500 others, and go on with
// it: what arrives at a socket that is being closed is not to harm anything.
func restless(y *fakePeer, u key.NodePublic) {
	all := []key.NodePublic{u}
	for i := range 500 {
		all = append(all, newRemote(fmt.Sprint("another ", i)))
	}
	y.greet = func(l *link) {
		time.Sleep(300 * time.Millisecond) // so that there is a while without
		for _, k := range all {
			l.tell(k)
		}
		y.busy.Go(func() {
			for l.tell(all[1]) == nil {
				time.Sleep(5 * poll)
			}
		})
	}
}

// begin sends until a packet of the flow arrives, and then goes on until end.
func (f *flow) begin(t *testing.T, from *client) (end func()) {
	t.Helper()
	eventually(t, "the first packet of a flow", func() bool {
		from.send(t, f.dst, binary.BigEndian.AppendUint64(nil, tentative))
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.got) > 0
	})
	var sending sync.WaitGroup
	sending.Go(func() { f.run(t, from) })
	return func() {
		t.Helper()
		f.stop.Store(true)
		sending.Wait()
		f.check(t)
	}
}

// Reloads one after the other, faster than a link is handed over: no packet is
// lost to a peer whose clients come and go, and nobody hears that they left.
func TestLinkReloads(t *testing.T) {
	oursOnly(t, "it knows no reload")
	t.Parallel()
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		t.Parallel()
		u := newRemote("u")
		flow, y := newFlow(u), newFakePeer(t, "y", sharedCert())
		y.taken = flow.take
		restless(y, u)
		r := startNginx(t, options{workers: workers, meshWith: []string{y.addr}})
		first := y.awaitLink(t)
		c, m := connect(t, r, "c", on(0)), connect(t, r, "m", inMesh, on(1))
		end := flow.begin(t, c)
		forwardFrom(t, m, u, c)
		for range 4 {
			r.reload(t)
			time.Sleep(300 * time.Millisecond)
		}
		first.awaitEnd(t)
		r.workerIndex(t, wantOneLink(t, r, y.addr))
		end()
		fence(t, c, c) // and has been told nothing
	})
}

// Of two peers with a key the one that had it first before a reload has it
// first after that, whichever of the new links is told of it first.
func TestLinkReloadOrder(t *testing.T) {
	oursOnly(t, "it knows no reload")
	t.Parallel()
	y, z := newFakePeer(t, "y", sharedCert()), newFakePeer(t, "z", sharedCert())
	r := startNginx(t, options{workers: 2, meshWith: []string{y.addr, z.addr}})
	u, c := newRemote("u"), connect(t, r, "c", on(0))
	ly, lz := y.awaitLink(t), z.awaitLink(t)
	ly.present(t, u)
	ly.sync(t, c)
	lz.present(t, u)
	lz.sync(t, c)
	goesTo := func(l *link) {
		t.Helper()
		p := fencePacket()
		c.send(t, u, p)
		l.want(t, c, u, p)
	}
	goesTo(ly)

	y.deaf.Store(true) // or its new link might be up before it has told of u
	r.reload(t)
	ly2, lz2 := y.awaitLink(t), z.awaitLink(t)
	lz2.present(t, u)
	lz2.sync(t, c)
	goesTo(ly)
	ly.wantAlive(t)
	ly2.present(t, u)
	ly2.sync(t, c)
	goesTo(ly2)
	time.Sleep(2 * time.Second)
	ly.wantAlive(t) // the new one has not been answered
	ly2.answer(t)
	y.deaf.Store(false)
	ly.awaitEnd(t)
	lz.awaitEnd(t)
	goesTo(ly2)
	fence(t, c, c)
	ly2.gone(t, u, derp.PeerGoneReasonDisconnected)
	ly2.sync(t, c)
	goesTo(lz2)
}

// A reload spreads links that are at work over the new workers.
func TestLinkReloadSpread(t *testing.T) {
	oursOnly(t, "it knows no reload")
	t.Parallel()
	var peers []*fakePeer
	var at []string
	for i := range 8 {
		peers = append(peers, newFakePeer(t, fmt.Sprint("peer ", i), sharedCert()))
		at = append(at, peers[i].addr)
	}
	r := startNginx(t, options{workers: 2, meshWith: at})
	c := connect(t, r, "c", on(0)) // keeps the old worker, and so its links
	for _, p := range peers {
		p.awaitLink(t)
	}
	r.reload(t)
	owners := map[int]bool{}
	for _, p := range peers {
		p.awaitLink(t)
		owners[r.workerIndex(t, wantOneLink(t, r, p.addr))] = true
	}
	if len(owners) != 2 {
		t.Error("all links are in one of the new workers")
	}
	c.wantAlive(t)
}

// A peer that does not answer is left after a while, and tried again; one that
// answers and says nothing else is not.
func TestLinkSilent(t *testing.T) {
	oursOnly(t, "it waits for two minutes")
	t.Parallel()
	deaf, well := newFakePeer(t, "deaf", sharedCert()), newFakePeer(t, "well", sharedCert())
	deaf.deaf.Store(true)
	startNginx(t, options{workers: 2, meshWith: []string{deaf.addr, well.addr}})
	ld, lw, at := deaf.awaitLink(t), well.awaitLink(t), time.Now()
	ld.awaitEnd(t)
	if took := time.Since(at); took < silence-time.Second {
		t.Errorf("left after %v, a silence of %v is borne", took, silence)
	}
	if n := ld.pings.Load(); n < 3 {
		t.Errorf("pinged %d times until then", n)
	}
	deaf.awaitLink(t)
	for lw.pings.Load() < 5 { // as many as take longer than the silence
		lw.wantAlive(t)
		time.Sleep(poll)
	}
}

// A relay of our own kind that is reloaded says so: it gets another link, and
// the old one goes when that is up.  No packet is lost.
func TestLinkRestarting(t *testing.T) {
	oursOnly(t, "it does not listen to that")
	t.Parallel()
	u := newRemote("u")
	flow, y := newFlow(u), newFakePeer(t, "y", sharedCert())
	y.taken = flow.take
	restless(y, u)
	r := startNginx(t, options{workers: 2, meshWith: []string{y.addr}})
	l := y.awaitLink(t)
	if l.info.AppName != "ngx_derp" {
		t.Errorf("the link is of %q", l.info.AppName)
	}
	c, m := connect(t, r, "c", on(0)), connect(t, r, "m", inMesh, on(1))
	end := flow.begin(t, c)
	forwardFrom(t, m, u, c)
	for range 3 {
		y.deaf.Store(true)
		if err := l.write(derp.FrameRestarting, make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		next := y.awaitLink(t)
		l.wantAlive(t)
		y.deaf.Store(false)
		next.answer(t)
		l.awaitEnd(t)
		l = next
	}
	r.workerIndex(t, wantOneLink(t, r, y.addr))
	end()
	fence(t, c, c)
}

// A link to be made anew for a relay that then is not there: the old one goes
// on as long as it lasts.
func TestLinkRestartingInVain(t *testing.T) {
	oursOnly(t, "it does not listen to that")
	t.Parallel()
	y := newFakePeer(t, "y", sharedCert())
	r := startNginx(t, options{workers: 2, meshWith: []string{y.addr}})
	l, u, c := y.awaitLink(t), newRemote("u"), connect(t, r, "c")
	l.present(t, u)
	l.reaches(t, c, u)
	y.ln.Close()
	mark := r.proc.log.mark()
	if err := l.write(derp.FrameRestarting, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	r.proc.log.awaitLine(t, mark, "could not be connected to")
	l.reaches(t, c, u)
	l.conn.Close()
	eventually(t, "u to be unknown", func() bool {
		c.send(t, u, discoPacket())
		return slices.Contains(c.pending(), derp.ReceivedMessage(notHere(u)))
	})
	y.listen(t)
	l = y.awaitLink(t)
	l.present(t, u)
	l.reaches(t, c, u)
}

// On a reload relays of our own kind are told that their link is to be made
// anew, and nobody else is.
func TestReloadTells(t *testing.T) {
	oursOnly(t, "it knows no reload")
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		r := startNginx(t, options{workers: workers, mesh: true})
		sibling := connect(t, r, "sibling", inMesh, app("ngx_derp"), on(0))
		unproved := connect(t, r, "unproved", app("ngx_derp"), on(0))
		other := connect(t, r, "other", inMesh, app("derper"), on(1))
		r.reload(t)
		sibling.await(t, "Restarting", func(m derp.ReceivedMessage) bool {
			_, ok := m.(derp.ServerRestartingMessage)
			return ok
		})
		r.reload(t)
		time.Sleep(time.Second) // a few ticks, in which nothing is to come
		fence(t, unproved, other)
		fence(t, other, unproved)
		fence(t, unproved, sibling)
	})
}

// A reload that leaves no relay at all is a reload: who is there stays, and is
// told of a restart when there is one.
func TestReloadWithout(t *testing.T) {
	oursOnly(t, "it knows no reload")
	r := startNginx(t, options{workers: 2, inRelay: "drain 0;"})
	a, b := connect(t, r, "a", on(0)), connect(t, r, "b", on(1))
	fence(t, a, b)
	text := regexp.MustCompile(`(?s)derp_relay main {.*?\n    }`).ReplaceAllString(r.config(), "")
	writeFile(t, r.path("nginx.conf"), strings.Replace(text, "derp main;", "return 404;", 1), 0o644)
	r.reload(t)
	time.Sleep(time.Second) // a few ticks, in which nothing is to come
	fence(t, a, b)
	fence(t, b, a)
	r.quit(t)
	for _, c := range []*client{a, b} {
		c.await(t, "Restarting", func(m derp.ReceivedMessage) bool {
			_, ok := m.(derp.ServerRestartingMessage)
			return ok
		})
		c.wantEnd(t)
	}
}

// Two of ours, one reloaded: the other's link moves to the new workers, those
// without clients go, and no packet is lost either way.
func TestSiblingReload(t *testing.T) {
	oursOnly(t, "it knows no reload")
	t.Parallel()
	at := []string{reserveAddr(t, tls4), reserveAddr(t, tls4)}
	n1 := startNginx(t, options{name: "n1", workers: 2, at: at[0], meshWith: []string{at[1]}, inRelay: "drain 0;"})
	n2 := startNginx(t, options{name: "n2", workers: 2, at: at[1], meshWith: []string{at[0]}, inRelay: "drain 0;"})
	toN1, toN2 := newFlow(key.NodePublic{}), newFlow(key.NodePublic{})
	a := connect(t, n1, "a", on(0), handled(toN1.receive))
	b := connect(t, n2, "b", on(1), handled(toN2.receive))
	toN1.dst, toN2.dst = a.key, b.key
	endTo1, endTo2 := toN1.begin(t, b), toN2.begin(t, a)
	for range 3 {
		n1.reload(t)
		time.Sleep(300 * time.Millisecond)
	}
	owner, err := n1.acceptedFrom(a.local)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old workers without clients to go", func() bool {
		return !slices.ContainsFunc(n1.retired, func(pid int) bool {
			return pid != owner && parentOf(pid) == n1.proc.pid()
		})
	})
	wantOneLink(t, n1, at[1])
	wantOneLink(t, n2, at[0])
	endTo1()
	endTo2()
	if parentOf(owner) != n1.proc.pid() {
		t.Error("the old worker with a client has gone")
	}
}

// receive takes a flow's packets at a client, which is to hear nothing else.
func (f *flow) receive(m derp.ReceivedMessage) {
	p, ok := m.(derp.ReceivedPacket)
	if !ok {
		f.mu.Lock()
		f.odd = append(f.odd, describe(m))
		f.mu.Unlock()
		return
	}
	f.take(forward{dst: f.dst, data: p.Data})
}

// acceptedFrom is which worker has the connection from an address.
func (r *relay) acceptedFrom(local netip.AddrPort) (int, error) {
	inode, err := socketInode(netip.MustParseAddrPort(r.addr(r.anyTransport())), local)
	return socketOwner(inode, r.allWorkers()), err
}

// A peer that cannot keep up: what is sent to it waits, up to a bound, and what
// comes on top of that is lost, but nobody waits for it.
func TestLinkQueue(t *testing.T) {
	oursOnly(t, "its queue is another")
	y := newFakePeer(t, "y", sharedCert())
	r := startNginx(t, options{workers: 2, meshWith: []string{y.addr}})
	l, u := y.awaitLink(t), newRemote("u")
	c := connect(t, r, "c", on(r.workerIndex(t, wantOneLink(t, r, y.addr))))
	l.present(t, u)
	l.reaches(t, c, u)

	const size, n = 16 << 10, 2048 // 32 MiB, more than queue and sockets hold
	l.reading.Lock()
	for i := range n {
		c.send(t, u, payload(uint64(i), size))
	}
	c.sync(t)
	l.reading.Unlock()

	got := 0
	for f := range l.until(t, c, u) {
		if !slices.Equal(f.data, payload(uint64(got), size)) {
			t.Fatalf("what arrived after %d packets is not the next", got)
		}
		got++
	}
	switch {
	case got == n:
		t.Error("nothing was dropped, so nothing was tried")
	case got*size < 4<<20:
		t.Errorf("only %d packets of %d bytes were kept", got, size)
	}
	l.wantAlive(t)
}

// A peer that takes nothing, and so answers nothing, is not taken for dead as
// soon as one that only does not answer.
func TestLinkBlocked(t *testing.T) {
	oursOnly(t, "it is closed by the kernel")
	t.Parallel()
	l, c, u := blocked(t)
	time.Sleep(silence + 7*time.Second)
	if len(l.peer.links) > 0 {
		t.Error("there is another link")
	}
	l.reading.Unlock()
	for range l.until(t, c, u) { // as long as its queue is full packets are dropped
	}
}

// It is left in the end.
func TestLinkStuck(t *testing.T) {
	oursOnly(t, "it is closed by the kernel")
	t.Parallel()
	l, _, _ := blocked(t)
	for range 2 { // which are too short a while, each
		select {
		case next := <-l.peer.links:
			l.reading.Unlock()
			next.wantAlive(t)
			l.awaitEnd(t)
			return
		case <-time.After(patience):
		}
	}
	l.reading.Unlock()
	t.Error("the relay still has the link")
}

// blocked is a link to a peer that reads nothing any more, and has much to read.
func blocked(t *testing.T) (*link, *client, key.NodePublic) {
	t.Helper()
	y := newFakePeer(t, "y", sharedCert())
	r := startNginx(t, options{workers: 2, meshWith: []string{y.addr}})
	l, u, c := y.awaitLink(t), newRemote("u"), connect(t, r, "c")
	l.present(t, u)
	l.reaches(t, c, u)
	l.reading.Lock()
	for range 2048 {
		c.send(t, u, payload(1, 16<<10))
	}
	c.sync(t)
	return l, c, u
}

// until is what has been forwarded before a last packet, sent until it comes.
func (l *link) until(t *testing.T, from *client, dst key.NodePublic) func(func(forward) bool) {
	return func(yield func(forward) bool) {
		last := fencePacket()
		from.send(t, dst, last)
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			select {
			case f := <-l.forwards:
				if slices.Equal(f.data, last) {
					return
				}
				if !yield(f) {
					return
				}
			case <-time.After(time.Second): // it may itself have been dropped
				from.send(t, dst, last)
			}
		}
		t.Errorf("%s waited %v in vain for the last packet", l.peer.name, patience)
	}
}

// A peer that is slow to read has the whole of what was sent to it by an old
// link, however long ago that was handed over, while it goes on writing there.
func TestLinkReloadSlow(t *testing.T) {
	oursOnly(t, "it knows no reload")
	t.Parallel()
	u, y := newRemote("u"), newFakePeer(t, "y", sharedCert())
	restless(y, u)
	r := startNginx(t, options{workers: 2, meshWith: []string{y.addr}})
	l := y.awaitLink(t)
	c := connect(t, r, "c", on(r.workerIndex(t, wantOneLink(t, r, y.addr))))
	l.reaches(t, c, u)
	const size, n = 16 << 10, 100
	l.reading.Lock()
	for i := range n {
		c.send(t, u, payload(uint64(i), size))
	}
	c.sync(t)
	r.reload(t)
	l2 := y.awaitLink(t)
	time.Sleep(4 * time.Second) // the old worker has sent all that it had
	l.reading.Unlock()
	l.awaitEnd(t)
	for i := range n {
		if len(l.forwards) == 0 {
			t.Fatalf("%d of %d packets arrived by the old link", i, n)
		}
		if f := <-l.forwards; !slices.Equal(f.data, payload(uint64(i), size)) {
			t.Fatalf("packet %d arrived as another", i)
		}
	}
	l2.reaches(t, c, u)
	fence(t, c, c)
}

// A peer may say twice what it has said, and that the relay itself is one of
// its clients: neither changes anything.
func TestLinkIdempotent(t *testing.T) {
	oursOnly(t, "it takes itself for a client")
	y := newFakePeer(t, "y", sharedCert())
	r := startTarget(t, options{workers: 2, meshWith: []string{y.addr}})
	l, u, c := y.awaitLink(t), newRemote("u"), connect(t, r, "c", on(0))
	self := serverKey(t, r)
	nameKey(self, "the relay")
	l.present(t, self)
	l.present(t, u)
	l.present(t, u)
	l.reaches(t, c, u)
	c.send(t, self, discoPacket())
	c.want(t, notHere(self))
	l.gone(t, u, derp.PeerGoneReasonNotHere)
	l.sync(t, c)
	l.reaches(t, c, u)
	l.gone(t, u, derp.PeerGoneReasonDisconnected)
	l.gone(t, self, derp.PeerGoneReasonDisconnected)
	l.sync(t, c)
	c.send(t, u, discoPacket())
	c.want(t, notHere(u))
}
