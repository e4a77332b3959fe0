package interop

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// A region is our relay and derper, meshed both ways by cables.
type region struct {
	ours, theirs     *relay
	toTheirs, toOurs *cable
}

func startRegion(t *testing.T, workers int) *region {
	t.Helper()
	oursAt, theirsAt := reserveAddr(t, tls4), reserveAddr(t, tls4)
	g := &region{toTheirs: newCable(t, theirsAt), toOurs: newCable(t, oursAt)}
	// Ours first: derper tries a link once and then again only after 5 s.
	g.ours = startTarget(t, options{
		name: "ours", workers: workers, at: oursAt, meshWith: []string{g.toTheirs.addr},
	})
	g.theirs = startDerper(t, options{
		name: "theirs", at: theirsAt, meshWith: []string{g.toOurs.addr},
	})
	return g
}

// linkUp waits until packets cross between the two, both ways.
func linkUp(t *testing.T, a, b *client) {
	t.Helper()
	reaches(t, a, b)
	reaches(t, b, a)
}

// Packets cross between ours and derper, and so do arrivals and departures.
func TestMesh(t *testing.T) {
	t.Parallel()
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		t.Parallel()
		g := startRegion(t, workers)
		b := connect(t, g.theirs, "b")
		for i := range workers {
			a := connect(t, g.ours, fmt.Sprintf("a%d", i), on(i))
			linkUp(t, a, b)
			for _, size := range []int{0, 1, 1400, derp.MaxPacketSize} {
				delivers(t, a, b, payload(uint64(size), size))
				delivers(t, b, a, payload(uint64(size)+1, size))
			}
			a.close()
			b.want(t, gone(a))
			if i == 0 { // only so many are answered
				b.send(t, a.key, discoPacket())
				b.want(t, notHere(a.key))
			}
		}
		a := connect(t, g.ours, "a", on(0))
		linkUp(t, a, b)
		b.close()
		a.want(t, gone(b))
		a.send(t, b.key, discoPacket())
		a.want(t, notHere(b.key))
	})
}

// Either relay lists its own clients, and the other as one of them.
func TestMeshPresence(t *testing.T) {
	t.Parallel()
	g := startRegion(t, 2)
	ourKey, theirKey := serverKey(t, g.ours), serverKey(t, g.theirs)
	nameKey(ourKey, "our server")
	nameKey(theirKey, "their server")
	atOurs, w1 := watchLoop(t, g.ours, "at ours", on(0))
	atTheirs, w2 := watchLoop(t, g.theirs, "at theirs")
	a, b := connect(t, g.ours, "a", on(1)), connect(t, g.theirs, "b")
	linkUp(t, a, b)
	atOurs.wantExactly(t, w1, theirKey, a.key)
	atTheirs.wantExactly(t, w2, ourKey, b.key)
}

// Many packets cross in order, both ways at once.
func TestMeshOrder(t *testing.T) {
	t.Parallel()
	g := startRegion(t, 2)
	out, back := newStream(t, 5000), newStream(t, 5000)
	a, b := connect(t, g.ours, "a", on(0)), connect(t, g.theirs, "b")
	linkUp(t, a, b)
	a2 := connect(t, g.ours, "a2", on(1), handled(back.receive))
	b2 := connect(t, g.theirs, "b2", handled(out.receive))
	knows(t, a, g.theirs)
	knows(t, b, g.ours)

	done := make(chan error, 1)
	go func() { done <- out.run(a, b2) }()
	if err := back.run(b, a2); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A link is cut, and mended.  What the other link carries is not disturbed.
func TestMeshCut(t *testing.T) {
	t.Parallel()
	g := startRegion(t, 2)
	a, b := connect(t, g.ours, "a", on(0)), connect(t, g.theirs, "b")
	a2 := connect(t, g.ours, "a2", on(1))
	linkUp(t, a, b)
	linkUp(t, a2, b)

	g.toTheirs.cut()
	a.want(t, gone(b))
	a2.want(t, gone(b))
	a.send(t, b.key, discoPacket())
	a.want(t, notHere(b.key))
	fence(t, b, a)
	fence(t, b, a2)
	g.toTheirs.mend(t)
	linkUp(t, a, b)
	linkUp(t, a2, b)

	g.toOurs.cut()
	b.wantAll(t, gone(a), gone(a2))
	fence(t, a, b)
	fence(t, a2, b)
	g.toOurs.mend(t)
	linkUp(t, a, b)
	linkUp(t, a2, b)
	b.close()
	goneAgain(t, b, a, a2)
}

// goneAgain is a departure by those who have been told of one before, as derper
// does not do.
func goneAgain(t *testing.T, leaver *client, told ...*client) {
	t.Helper()
	if targetIsDerper {
		return
	}
	for _, c := range told {
		c.want(t, gone(leaver))
	}
}

// derper dies and comes back.
func TestMeshPeerKilled(t *testing.T) {
	t.Parallel()
	g := startRegion(t, 2)
	priv := key.NewNode()
	a, b := connect(t, g.ours, "a", on(1)), connect(t, g.theirs, "b", as(priv))
	linkUp(t, a, b)
	g.theirs.killDerper(t)
	b.wantEnd(t)
	a.want(t, gone(b))
	a.send(t, b.key, discoPacket())
	a.want(t, notHere(b.key))

	g.theirs.launchDerper(t)
	b = connect(t, g.theirs, "b", as(priv))
	linkUp(t, a, b)
	b.close()
	goneAgain(t, b, a)
}

// Ours is stopped and comes back, as nginx is when it is restarted.
func TestMeshRestarted(t *testing.T) {
	oursOnly(t, "it is killed in another test")
	t.Parallel()
	g := startRegion(t, 2)
	priv := key.NewNode()
	a, b := connect(t, g.ours, "a", as(priv), on(0)), connect(t, g.theirs, "b")
	linkUp(t, a, b)
	g.ours.stopAndStart(t, syscall.SIGTERM)
	a.wantEnd(t)
	b.want(t, gone(a))
	a = connect(t, g.ours, "a", as(priv), on(1))
	linkUp(t, a, b) // when derper tries again, after 5 s
	b.close()
	a.want(t, gone(b))
}

// The worker that has our link dies.
func TestMeshOwnerKilled(t *testing.T) {
	oursOnly(t, "it is but one process")
	t.Parallel()
	forWorkers(t, []int{2, 4}, func(t *testing.T, workers int) {
		t.Parallel()
		g := startRegion(t, workers)
		b := connect(t, g.theirs, "b")
		owner := g.ours.workerIndex(t, wantOneLink(t, g.ours, g.toTheirs.addr))
		a := connect(t, g.ours, "a", on(owner+1))
		linkUp(t, a, b)
		g.ours.killWorker(t, owner)
		linkUp(t, a, b)
		a.pending() // it may have been told that b was gone for a while
		wantOneLink(t, g.ours, g.toTheirs.addr)
		b.close()
		a.want(t, gone(b))
		a.send(t, b.key, discoPacket())
		a.want(t, notHere(b.key))
	})
}

// Each worker dies in turn, the one that has derper's link among them.
func TestMeshWorkersKilled(t *testing.T) {
	oursOnly(t, "it is but one process")
	t.Parallel()
	const workers = 2
	g := startRegion(t, workers)
	b := connect(t, g.theirs, "b")
	for i := range workers {
		a := connect(t, g.ours, "a", on(i+1))
		linkUp(t, a, b)
		g.ours.killWorker(t, i)
		linkUp(t, a, b)
		linkUp(t, connect(t, g.ours, "another", on(i)), b)
	}
}

// Across reloads of ours, faster than a link is handed over, the region stays
// whole: no packet is lost either way, and nobody is told of a departure.
func TestMeshReload(t *testing.T) {
	oursOnly(t, "it knows no reload")
	t.Parallel()
	g := startRegion(t, 2)
	toOurs, toTheirs := newFlow(key.NodePublic{}), newFlow(key.NodePublic{})
	before := connect(t, g.ours, "before", on(0), handled(toOurs.receive))
	b := connect(t, g.theirs, "b", handled(toTheirs.receive))
	toOurs.dst, toTheirs.dst = before.key, b.key
	endToOurs, endToTheirs := toOurs.begin(t, b), toTheirs.begin(t, before)
	for range 3 {
		g.ours.reload(t)
		time.Sleep(300 * time.Millisecond)
	}
	g.ours.workerIndex(t, wantOneLink(t, g.ours, g.toTheirs.addr))
	endToOurs()
	endToTheirs()

	c := connect(t, g.theirs, "c")
	for i := range 2 {
		after := connect(t, g.ours, "after", on(i))
		linkUp(t, after, c)
	}
	linkUp(t, connect(t, g.ours, "last", on(1)), c)
}

// A ring is derper and two of ours, each linked to both others, the first of
// ours by cables; and a client of each.
type ring struct {
	n1, n2, d      *relay
	x, y, z        *client
	toN2, toDerper *cable
}

func startRing(t *testing.T) *ring {
	t.Helper()
	at := []string{reserveAddr(t, tls4), reserveAddr(t, tls4), reserveAddr(t, tls4)}
	g := &ring{toN2: newCable(t, at[1]), toDerper: newCable(t, at[2])}
	g.n1 = startTarget(t, options{name: "n1", workers: 2, at: at[0], meshWith: []string{g.toN2.addr, g.toDerper.addr}})
	g.n2 = startTarget(t, options{name: "n2", workers: 2, at: at[1], meshWith: []string{at[0], at[2]}})
	g.d = startDerper(t, options{name: "derper", at: at[2], meshWith: []string{at[0], at[1]}})
	g.x, g.y, g.z = connect(t, g.d, "x"), connect(t, g.n1, "y", on(0)), connect(t, g.n2, "z", on(1))
	g.linkUp(t)
	return g
}

func (g *ring) linkUp(t *testing.T) {
	t.Helper()
	linkUp(t, g.x, g.y)
	linkUp(t, g.y, g.z)
	linkUp(t, g.z, g.x)
}

func TestRing(t *testing.T) {
	t.Parallel()
	g := startRing(t)
	everyPair(t, g.x, g.y, g.z)
	ringMove(t, g.n1, g.n2, g.x, g.y)

	if g.n1.isNginx {
		g.n1.killWorker(t, 1)
		g.n2.killWorker(t, 0)
	}
	g.linkUp(t)
	for _, c := range []*client{g.x, g.y, g.z} {
		c.pending() // it may have been told that others were gone for a while
	}
	everyPair(t, g.x, g.y, g.z) // and has it heard of them since
	g.x.close()                 // derper tells it of nobody twice
	g.y.want(t, gone(g.x))
	g.z.want(t, gone(g.x))
	g.x = connect(t, g.d, "x")
	g.linkUp(t)
	everyPair(t, g.x, g.y, g.z)

	g.z.close()
	g.x.want(t, gone(g.z))
	g.y.want(t, gone(g.z))
	g.y.close()
	g.x.want(t, gone(g.y))
}

// In a ring a link is cut and mended, and derper dies and comes back: what the
// other links carry is not disturbed, and in the end all is as it was.
func TestRingCut(t *testing.T) {
	t.Parallel()
	g := startRing(t)
	for _, cut := range []struct {
		*cable
		far, near *client
	}{{g.toN2, g.z, g.x}, {g.toDerper, g.x, g.z}} {
		cut.cut()
		g.y.want(t, gone(cut.far))
		g.y.send(t, cut.far.key, discoPacket()) // it does not go by the third
		g.y.want(t, notHere(cut.far.key))
		everyPair(t, g.x, g.z)
		fence(t, cut.far, g.y)
		fence(t, g.y, cut.near)
		cut.mend(t)
		linkUp(t, g.y, cut.far)
		everyPair(t, g.x, g.y, g.z)
	}

	g.d.killDerper(t)
	g.x.wantEnd(t)
	g.y.want(t, gone(g.x))
	g.z.want(t, gone(g.x))
	everyPair(t, g.y, g.z)
	g.d.launchDerper(t)
	g.x = connect(t, g.d, "x")
	g.linkUp(t)
	everyPair(t, g.x, g.y, g.z)
}

// ringMove has one key at two relays: it leaves when it has left both, and is
// reached where it is first found, at home before anywhere else.
func ringMove(t *testing.T, n1, n2 *relay, x, y *client) {
	t.Helper()
	priv := key.NewNode()
	u1 := connect(t, n1, "u", as(priv), on(1))
	linkUp(t, x, u1)
	linkUp(t, y, u1)
	u2 := connect(t, n2, "u", as(priv), on(0))
	knows(t, x, n2)
	fence(t, x, u1)
	fence(t, y, u1)
	u1.close()
	reaches(t, x, u2)
	reaches(t, y, u2)
	u2.close()
	x.want(t, gone(u2))
	y.want(t, gone(u2))
}

// knows waits until a client's relay knows who is at another relay by now: all
// who came there before the one that it reaches.
func knows(t *testing.T, c *client, other *relay) {
	t.Helper()
	last := connect(t, other, "last")
	defer last.close()
	reaches(t, c, last)
}
