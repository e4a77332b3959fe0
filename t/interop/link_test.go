package interop

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// newRemote is a key of somebody who is never here.
func newRemote(name string) key.NodePublic {
	k := key.NewNode().Public()
	nameKey(k, name)
	return k
}

// forwardFrom has a mesh peer deliver a packet in the name of a remote key.
func forwardFrom(t *testing.T, m *client, src key.NodePublic, to *client) {
	t.Helper()
	p := fencePacket()
	if err := m.conn.ForwardPacket(src, to.key, p); err != nil {
		t.Fatal(err)
	}
	to.want(t, derp.ReceivedPacket{Source: src, Data: p})
}

func goneKey(k key.NodePublic) derp.PeerGoneMessage {
	return derp.PeerGoneMessage{Peer: k, Reason: derp.PeerGoneReasonDisconnected}
}

// wantOneLink waits until, of the whole relay, one worker has one connection
// to the peer.
func wantOneLink(t *testing.T, r *relay, addr string) (owner int) {
	t.Helper()
	if !r.isNginx {
		return 0
	}
	return r.awaitDialers(t, addr, 1)[0]
}

// awaitDialers waits until the workers have this many connections to a peer.
func (r *relay) awaitDialers(t *testing.T, addr string, want int) (owners []int) {
	t.Helper()
	eventually(t, fmt.Sprintf("just %d connections to %s", want, addr), func() bool {
		var err error
		if owners, err = dialers(addr, r.allWorkers()); err != nil {
			t.Fatal(err)
		}
		return len(owners) == want
	})
	return owners
}

// The relay links up once, as itself, and passes packets on from any worker
// with every byte in place.
func TestLink(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		y := newFakePeer(t, "y", sharedCert())
		r := startTarget(t, options{workers: workers, meshWith: []string{y.addr}})
		l := y.awaitLink(t)
		if l.key != serverKey(t, r) {
			t.Errorf("the link is from %v, not from the server's key", l.key)
		}
		wantOneLink(t, r, y.addr)

		u := newRemote("u")
		l.present(t, u)
		for i := range workers {
			c := connect(t, r, fmt.Sprintf("c%d", i), on(i))
			l.reaches(t, c, u)
			for _, size := range []int{0, 1, 1400, derp.MaxPacketSize} {
				p := payload(uint64(size), size)
				c.send(t, u, p)
				l.want(t, c, u, p)
			}
		}
		c := connect(t, r, "c", on(workers-1))
		l.gone(t, u, derp.PeerGoneReasonDisconnected)
		l.sync(t, c)
		c.send(t, u, discoPacket())
		c.want(t, notHere(u))
		if extra := len(y.links); extra > 0 {
			t.Errorf("%d more links", extra)
		}
	})
}

// What came over the mesh does not go over the mesh again.
func TestLinkOneHop(t *testing.T) {
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		y := newFakePeer(t, "y", sharedCert())
		r := startTarget(t, options{workers: workers, meshWith: []string{y.addr}})
		l, u := y.awaitLink(t), newRemote("u")
		c, m := connect(t, r, "c", on(0)), connect(t, r, "m", inMesh, on(1))
		l.present(t, u)
		l.reaches(t, c, u)
		if err := m.conn.ForwardPacket(newRemote("v"), u, payload(1, 100)); err != nil {
			t.Fatal(err)
		}
		m.sync(t)
		p := fencePacket()
		c.send(t, u, p)
		l.want(t, c, u, p)
	})
}

// Of two peers with a key the first to have announced it is used, and its
// clients hear of its departure when it is with neither.
func TestLinkFirstAnnounced(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		y, z := newFakePeer(t, "y", sharedCert()), newFakePeer(t, "z", sharedCert())
		r := startTarget(t, options{workers: workers, meshWith: []string{y.addr, z.addr}})
		ly, lz, u := y.awaitLink(t), z.awaitLink(t), newRemote("u")
		c, m := connect(t, r, "c", on(0)), connect(t, r, "m", inMesh, on(1))
		goesTo := func(l *link) {
			t.Helper()
			p := fencePacket()
			c.send(t, u, p)
			l.want(t, c, u, p)
		}

		ly.present(t, u)
		ly.sync(t, c)
		forwardFrom(t, m, u, c)
		lz.present(t, u)
		lz.sync(t, c)
		goesTo(ly)
		ly.gone(t, u, derp.PeerGoneReasonDisconnected)
		ly.sync(t, c)
		goesTo(lz)
		ly.present(t, u)
		ly.sync(t, c)
		goesTo(lz)
		lz.gone(t, u, derp.PeerGoneReasonDisconnected)
		lz.sync(t, c)
		goesTo(ly)
		fence(t, c, c) // and c was told nothing
		ly.gone(t, u, derp.PeerGoneReasonDisconnected)
		c.want(t, goneKey(u))
	})
}

// With a link all goes that was announced by it, and comes back with it.
func TestLinkLost(t *testing.T) {
	t.Parallel()
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		y, z := newFakePeer(t, "y", sharedCert()), newFakePeer(t, "z", sharedCert())
		r := startTarget(t, options{workers: workers, meshWith: []string{y.addr, z.addr}})
		ly, lz := y.awaitLink(t), z.awaitLink(t)
		u, v := newRemote("u"), newRemote("v")
		c, m := connect(t, r, "c", on(0)), connect(t, r, "m", inMesh, on(1))
		ly.present(t, u)
		ly.present(t, v)
		ly.sync(t, c)
		lz.present(t, v)
		lz.sync(t, c)
		forwardFrom(t, m, u, c)
		forwardFrom(t, m, v, c)

		ly.conn.Close()
		c.want(t, goneKey(u))
		lz.reaches(t, c, v)
		c.send(t, u, discoPacket())
		c.want(t, notHere(u))

		ly = y.awaitLink(t)
		ly.present(t, u)
		ly.reaches(t, c, u)
		lz.reaches(t, c, v)
	})
}

// Whoever is here is reached here, whatever is said elsewhere.
func TestLinkLocalFirst(t *testing.T) {
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		y := newFakePeer(t, "y", sharedCert())
		r := startTarget(t, options{workers: workers, meshWith: []string{y.addr}})
		l, priv := y.awaitLink(t), key.NewNode()
		c := connect(t, r, "c", on(0))

		// It is there, comes here, and leaves here first.
		l.present(t, priv.Public())
		l.reaches(t, c, priv.Public())
		u := connect(t, r, "u", as(priv), on(1))
		fence(t, c, u)
		fence(t, u, c)
		u.close()
		l.reaches(t, c, u.key)
		fence(t, c, c) // and is not gone
		l.gone(t, u.key, derp.PeerGoneReasonDisconnected)
		c.want(t, gone(u))

		// It is here, is said to be there too, and leaves there first.
		u = connect(t, r, "u", as(priv), on(1))
		c2 := connect(t, r, "c2", on(1))
		fence(t, u, c2)
		l.present(t, u.key)
		l.sync(t, c2)
		fence(t, c2, u)
		l.gone(t, u.key, derp.PeerGoneReasonDisconnected)
		l.sync(t, c2)
		fence(t, c2, u)
		u.close()
		c2.want(t, gone(u))

		// It is here twice, and there; and leaves in that order.
		u = connect(t, r, "u", as(priv), on(0))
		again := connect(t, r, "u", as(priv), on(1))
		l.present(t, u.key)
		l.sync(t, c2)
		fence(t, c2, again)
		fence(t, again, c2)
		again.close()
		reaches(t, c2, u)
		u.close()
		l.reaches(t, c2, u.key)
		fence(t, c2, c2) // and is not gone
		l.gone(t, u.key, derp.PeerGoneReasonDisconnected)
		c2.want(t, gone(u))
	})
}

// derper answers a packet that it cannot deliver; the link bears it.
func TestLinkNotHere(t *testing.T) {
	y := newFakePeer(t, "y", sharedCert())
	r := startTarget(t, options{workers: 2, meshWith: []string{y.addr}})
	l, u := y.awaitLink(t), newRemote("u")
	c := connect(t, r, "c")
	l.present(t, u)
	l.reaches(t, c, u)
	p := discoPacket()
	c.send(t, u, p)
	l.want(t, c, u, p)
	l.gone(t, u, derp.PeerGoneReasonNotHere)
	l.gone(t, newRemote("never here"), derp.PeerGoneReasonDisconnected)
	l.sync(t, c)
	l.present(t, u)
	l.reaches(t, c, u)
}

// A peer takes back what it never announced, and another has.
func TestLinkGoneOfAnother(t *testing.T) {
	y, z := newFakePeer(t, "y", sharedCert()), newFakePeer(t, "z", sharedCert())
	r := startTarget(t, options{workers: 2, meshWith: []string{y.addr, z.addr}})
	ly, lz, u := y.awaitLink(t), z.awaitLink(t), newRemote("u")
	c := connect(t, r, "c")
	ly.present(t, u)
	ly.reaches(t, c, u)
	lz.gone(t, u, derp.PeerGoneReasonDisconnected)
	lz.sync(t, c)
	ly.reaches(t, c, u)
	fence(t, c, c) // and it has not been told
}

// Relays that are there and hang up are tried less and less often, and not all
// at the same time.
func TestLinkBackOff(t *testing.T) {
	oursOnly(t, "it has a time of its own for that")
	t.Parallel()
	const tries = 6
	var addrs []string
	var tried [2]chan time.Time
	for i := range tried {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		addrs, tried[i] = append(addrs, ln.Addr().String()), make(chan time.Time, 100)
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				tried[i] <- time.Now()
				conn.Close()
			}
		}()
	}
	startNginx(t, options{workers: 1, meshWith: addrs})
	var took [2][]time.Duration
	for i := range tried {
		var first time.Time
		for n := range tries {
			select {
			case at := <-tried[i]:
				if n == 0 {
					first = at
				}
				took[i] = append(took[i], at.Sub(first))
			case <-time.After(patience):
				t.Fatalf("waited %v in vain for try %d", patience, n)
			}
		}
		// 3.9 s at least, and 1.3 s at most if the time between them did not grow.
		if took[i][tries-1] < 2*time.Second {
			t.Errorf("%d tries, at %v", tries, took[i])
		}
	}
	for n := 1; n < tries; n++ {
		if (took[0][n] - took[1][n]).Abs() > 5*time.Millisecond {
			return
		}
	}
	t.Errorf("two relays are tried at the same times: %v", took)
}

// While two peers take turns in having a key, no packet to it is lost.
func TestLinkHandover(t *testing.T) {
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		u := newRemote("u")
		flow := newFlow(u)
		y, z := newFakePeer(t, "y", sharedCert()), newFakePeer(t, "z", sharedCert())
		y.taken, z.taken = flow.take, flow.take
		r := startTarget(t, options{workers: workers, meshWith: []string{y.addr, z.addr}})
		links := []*link{y.awaitLink(t), z.awaitLink(t)}
		c, helper := connect(t, r, "c", on(0)), connect(t, r, "helper", on(1))
		links[0].present(t, u)
		links[0].sync(t, helper)

		var sending sync.WaitGroup
		sending.Go(func() { flow.run(t, c) })
		for i := range 20 {
			from, to := links[i%2], links[(i+1)%2]
			to.present(t, u)
			to.sync(t, helper)
			from.gone(t, u, derp.PeerGoneReasonDisconnected)
			from.sync(t, helper)
		}
		flow.stop.Store(true)
		sending.Wait()
		flow.check(t)
		fence(t, c, c)
	})
}

// A flow is numbered packets to one remote key, by whichever link.
type flow struct {
	dst  key.NodePublic
	room chan struct{}
	stop atomic.Bool
	sent uint64

	mu  sync.Mutex
	got map[uint64]int
	odd []string // what else was received by a client that is to receive nothing else
}

// A flow's first packets are numbered from this on, and may be lost.
const tentative = 1 << 62

func newFlow(dst key.NodePublic) *flow {
	f := &flow{dst: dst, room: make(chan struct{}, window), got: map[uint64]int{}}
	for range window {
		f.room <- struct{}{}
	}
	return f
}

func (f *flow) take(p forward) bool {
	if p.dst != f.dst {
		return false
	}
	n := binary.BigEndian.Uint64(p.data)
	f.mu.Lock()
	f.got[n]++
	f.mu.Unlock()
	if n < tentative {
		f.room <- struct{}{}
	}
	return true
}

func (f *flow) run(t *testing.T, from *client) {
	timeout := time.NewTimer(patience)
	for !f.stop.Load() {
		timeout.Reset(patience)
		select {
		case <-f.room:
		case <-timeout.C:
			t.Errorf("of %d packets the last %d did not arrive in %v", f.sent, window, patience)
			return
		}
		if err := from.conn.Send(f.dst, binary.BigEndian.AppendUint64(nil, f.sent)); err != nil {
			t.Error(err)
			return
		}
		f.sent++
	}
}

// check waits for the packets still under way, and then for nothing more.
func (f *flow) check(t *testing.T) {
	t.Helper()
	if t.Failed() {
		return
	}
	for i := range window {
		select {
		case <-f.room:
		case <-time.After(patience):
			t.Fatalf("%d packets of %d did not arrive in %v", window-i, f.sent, patience)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.odd) > 0 {
		t.Errorf("%s was told %q", keyName(f.dst), f.odd)
	}
	for i := range f.sent {
		if f.got[i] != 1 {
			t.Errorf("packet %d of %d arrived %d times", i, f.sent, f.got[i])
		}
	}
}

// The link's worker dies, and another links up; of what the old link had said
// only that is true which the new one says again.
func TestLinkOwnerKilled(t *testing.T) {
	oursOnly(t, "it is but one process")
	t.Parallel()
	forWorkers(t, []int{1, 2, 4}, func(t *testing.T, workers int) {
		y := newFakePeer(t, "y", sharedCert())
		r := startNginx(t, options{workers: workers, meshWith: []string{y.addr}})
		l, u, v := y.awaitLink(t), newRemote("u"), newRemote("v")
		owner := r.workerIndex(t, wantOneLink(t, r, y.addr))
		c, m := connect(t, r, "c", on(owner+1)), connect(t, r, "m", inMesh, on(owner+1))
		l.present(t, u)
		l.present(t, v)
		l.sync(t, c)
		forwardFrom(t, m, u, c)

		r.killWorker(t, owner)
		if workers == 1 {
			c = connect(t, r, "c", on(owner))
		} else {
			c.want(t, goneKey(u))
		}
		l = y.awaitLink(t)
		l.present(t, v)
		l.reaches(t, c, v)
		c.send(t, u, discoPacket())
		c.want(t, notHere(u))
		wantOneLink(t, r, y.addr)
	})
}

func (r *relay) workerIndex(t *testing.T, pid int) int {
	t.Helper()
	for i, w := range r.workers {
		if w == pid {
			return i
		}
	}
	t.Fatalf("process %d is no present worker", pid)
	return -1
}

// A reload moves the link to the new generation; the old one's clients go on
// using it.
func TestLinkReload(t *testing.T) {
	oursOnly(t, "it knows no reload")
	t.Parallel()
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		y := newFakePeer(t, "y", sharedCert())
		r := startNginx(t, options{workers: workers, meshWith: []string{y.addr}})
		l, u := y.awaitLink(t), newRemote("u")
		before := connect(t, r, "before", on(0))
		l.present(t, u)
		l.reaches(t, before, u)

		r.reload(t)
		after := connect(t, r, "after", on(0))
		select {
		case <-l.ended:
		case <-time.After(patience):
			t.Fatalf("the old generation still has the link after %v", patience)
		}
		l = y.awaitLink(t)
		l.present(t, u)
		l.reaches(t, after, u)
		l.reaches(t, before, u)
		r.workerIndex(t, wantOneLink(t, r, y.addr))
	})
}

// A peer taken off the list is let go, and what it announced with it; a new
// one is linked to.
func TestLinkReconfigured(t *testing.T) {
	oursOnly(t, "it knows no reload")
	t.Parallel()
	y, z := newFakePeer(t, "y", sharedCert()), newFakePeer(t, "z", sharedCert())
	r := startNginx(t, options{workers: 2, meshWith: []string{y.addr}})
	ly, u, v := y.awaitLink(t), newRemote("u"), newRemote("v")
	c := connect(t, r, "c", on(0))
	ly.present(t, u)
	ly.reaches(t, c, u)

	r.opts.meshWith = []string{z.addr}
	r.configure(t)
	r.reload(t)
	lz := z.awaitLink(t)
	lz.present(t, v)
	lz.reaches(t, c, v)
	select {
	case <-ly.ended:
	case <-time.After(patience):
		t.Fatalf("still linked to a peer off the list after %v", patience)
	}
	eventually(t, "u to be unknown", func() bool {
		c.send(t, u, discoPacket())
		return slices.Contains(c.pending(), derp.ReceivedMessage(notHere(u)))
	})
}

// A relay that finds itself in its list leaves itself alone.
func TestLinkSelf(t *testing.T) {
	t.Parallel()
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		y := newFakePeer(t, "y", sharedCert())
		r := startTarget(t, options{workers: workers, meshWith: []string{"self", y.addr}})
		p, k := watchLoop(t, r, "w", on(0))
		l, u := y.awaitLink(t), newRemote("u")
		if r.isNginx {
			r.awaitDialers(t, r.meshAddr(), 0)
		}
		a, b := connect(t, r, "a", on(0)), connect(t, r, "b", on(1))
		fence(t, a, b)
		fence(t, b, a)
		l.present(t, u)
		l.reaches(t, a, u)
		if r.isNginx { // derper keeps the connection to itself open, unused
			p.wantExactly(t, k, a.key, b.key)
		}
	})
}

// A peer whose certificate is not trusted is not told the mesh key, unless the
// operator wants it so.
func TestLinkVerifies(t *testing.T) {
	oursOnly(t, "its directives are others")
	stranger := newCertificate()
	t.Run("untrusted", func(t *testing.T) {
		y := newFakePeer(t, "y", stranger)
		r := startNginx(t, options{workers: 2, meshWith: []string{y.addr}})
		r.awaitRefusal(t, y)
	})
	t.Run("wrong name", func(t *testing.T) {
		y := newFakePeer(t, "y", sharedCert())
		r := startNginx(t, options{workers: 2, meshWith: []string{y.addr}, inRelay: "mesh_ssl_name other.example;"})
		r.awaitRefusal(t, y)
	})
	t.Run("given name", func(t *testing.T) {
		y := newFakePeer(t, "y", sharedCert())
		startNginx(t, options{workers: 2, meshWith: []string{y.addr}, inRelay: "mesh_ssl_name localhost;"})
		y.awaitLink(t)
	})
	root, chain := newChain(2)
	for depth, trusted := range map[int]bool{1: false, 2: true} {
		t.Run(fmt.Sprintf("two between, depth %d", depth), func(t *testing.T) {
			y := newFakePeer(t, "y", chain)
			dir := workDir(t, "root")
			writeFile(t, dir+"/root.pem", root.certPEM, 0o644)
			r := startNginx(t, options{workers: 2, meshWith: []string{y.addr}, inRelay: fmt.Sprintf(
				"mesh_ssl_trusted_certificate %s/root.pem; mesh_ssl_verify_depth %d;", dir, depth)})
			if trusted {
				y.awaitLink(t)
			} else {
				r.awaitRefusal(t, y)
			}
		})
	}
	t.Run("off", func(t *testing.T) {
		y := newFakePeer(t, "y", stranger)
		startNginx(t, options{workers: 2, meshWith: []string{y.addr}, inRelay: "mesh_ssl_verify off;"})
		y.awaitLink(t)
	})
}

func (r *relay) awaitRefusal(t *testing.T, y *fakePeer) {
	t.Helper()
	err := r.proc.log.await(0, func(lines []string) bool {
		for _, l := range lines {
			if strings.Contains(l, "[error]") && strings.Contains(l, "certificate") {
				return true
			}
		}
		return false
	})
	if err != nil {
		t.Fatalf("the log says nothing of the certificate: %v", err)
	}
	if len(y.links) > 0 {
		t.Error("linked up nevertheless")
	}
}

// A peer's name is looked up anew after each failure, and verified.
func TestLinkName(t *testing.T) {
	oursOnly(t, "it asks the system's resolver")
	t.Parallel()
	for _, c := range []struct {
		name          string
		before, after answer
		at            transport
		inHTTP        string
	}{
		{"moved", answer{addrs: []string{"127.0.0.2"}}, answer{addrs: []string{"127.0.0.1"}}, plain4, "ipv6=off"},
		{"unknown at first", answer{rcode: dnsmessage.RCodeNameError}, answer{addrs: []string{"127.0.0.1"}}, plain4, ""},
		{"no answer at first", answer{silent: true}, answer{addrs: []string{"127.0.0.1"}}, plain4, ""},
		{"IPv6", answer{}, answer{addrs: []string{"::1"}}, plain6, ""},
		{"one of several", answer{}, answer{addrs: []string{"127.0.0.2", "127.0.0.3", "127.0.0.1"}}, plain4, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dns := newNameServer(t, c.before)
			y := newFakePeerAt(t, "y", sharedCert(), reserveAddr(t, c.at))
			_, port, _ := net.SplitHostPort(y.addr)
			startNginx(t, options{
				workers: 2, meshWith: []string{net.JoinHostPort(peerName, port)},
				inHTTP: fmt.Sprintf("resolver %s valid=1s %s; resolver_timeout 1s;", dns.addr, c.inHTTP),
			})
			select {
			case <-dns.asked:
			case <-time.After(patience):
				t.Fatalf("the name is not looked up in %v", patience)
			}
			dns.set(c.after)
			y.awaitLink(t)
		})
	}
}
