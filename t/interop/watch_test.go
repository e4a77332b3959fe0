package interop

import (
	"encoding/json"
	"testing"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

const (
	regular  = derp.PeerPresentFlags(derp.PeerPresentIsRegular)
	meshPeer = derp.PeerPresentFlags(derp.PeerPresentIsMeshPeer)
	isProber = derp.PeerPresentFlags(derp.PeerPresentIsProber)
	strayed  = derp.PeerPresentFlags(derp.PeerPresentNotIdeal)
)

// wantAll takes as many messages as are wanted, in any order.
func (c *client) wantAll(t testing.TB, want ...derp.ReceivedMessage) {
	t.Helper()
	missing := map[derp.ReceivedMessage]bool{}
	for _, m := range want {
		missing[m] = true
	}
	for range want {
		m := c.next(t, "one of several messages")
		if !missing[m] {
			t.Fatalf("%s received %s, of %d others that it waits for", c.name, describe(m), len(missing))
		}
		delete(missing, m)
	}
}

// A watcher is told who is there, itself among them, and then who comes and
// goes, with addresses and flags.
func TestWatch(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers, mesh: true})
		ways := r.serves(plain4, tls6, tls4, plain6)
		way := func(i int) setting { return via(ways[i%len(ways)]) }

		w1 := connect(t, r, "w1", watching, on(0))
		w1.want(t, present(w1, meshPeer))
		c1 := connect(t, r, "c1", way(0), on(0))
		w1.want(t, present(c1, regular))
		c2 := connect(t, r, "c2", way(1), on(1))
		w1.want(t, present(c2, regular))
		probe := connect(t, r, "probe", way(2), on(2), prober)
		w1.want(t, present(probe, isProber))
		stray := connect(t, r, "stray", way(3), on(3), notIdeal)
		w1.want(t, present(stray, strayed))
		quiet := connect(t, r, "quiet", way(3), on(1), inMesh)
		w1.want(t, present(quiet, meshPeer))

		w2 := connect(t, r, "w2", watching, on(1))
		w1.want(t, present(w2, meshPeer))
		w2.wantAll(t, present(w1, meshPeer), present(w2, meshPeer), present(c1, regular),
			present(c2, regular), present(probe, isProber), present(stray, strayed), present(quiet, meshPeer))

		for _, leaver := range []*client{c2, probe, stray, quiet} {
			leaver.close()
			w1.want(t, gone(leaver))
			w2.want(t, gone(leaver))
		}
		w2.close()
		w1.want(t, gone(w2))
		w3 := connect(t, r, "w3", watching, on(2))
		w1.want(t, present(w3, meshPeer))
		w3.wantAll(t, present(w1, meshPeer), present(w3, meshPeer), present(c1, regular))
		c1.close()
		w1.want(t, gone(c1))
		w3.want(t, gone(c1))
	})
}

// With the server's own key a watch is taken and not served: a relay that has
// itself in its list finds out so.
func TestWatchOwnKey(t *testing.T) {
	dir, priv := workDir(t, "key"), key.NewNode()
	file, err := json.Marshal(struct{ PrivateKey key.NodePrivate }{priv})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/derp.key", string(file), 0o600)
	r := startTarget(t, options{workers: 2, mesh: true, keyFile: dir + "/derp.key"})
	own := connect(t, r, "own", as(priv), watching, on(0))
	c := connect(t, r, "c", on(1))
	own.sync(t)
	c.close()
	own.sync(t)
}

// A frame is a type and a body.
type frame struct {
	name string
	typ  derp.FrameType
	body []byte
}

// What needs the mesh key, or is malformed, ends the connection and no other.
func TestBadFrames(t *testing.T) {
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers, mesh: true})
		bystander, other := connect(t, r, "bystander", on(0)), connect(t, r, "other", on(1))
		target := bystander.key.AppendTo(nil)
		privileged := []frame{
			{"WatchConns", derp.FrameWatchConns, nil},
			{"ClosePeer", derp.FrameClosePeer, target},
			{"ForwardPacket", derp.FrameForwardPacket, append(target, target...)},
		}
		malformed := []frame{
			{"WatchConns with a body", derp.FrameWatchConns, []byte{0}},
			{"short ClosePeer", derp.FrameClosePeer, target[:31]},
			{"long ClosePeer", derp.FrameClosePeer, append(target, 0)},
			{"short ForwardPacket", derp.FrameForwardPacket, make([]byte, 63)},
			{"short SendPacket", derp.FrameSendPacket, target[:31]},
			{"empty NotePreferred", derp.FrameNotePreferred, nil},
			{"long NotePreferred", derp.FrameNotePreferred, []byte{1, 1}},
			{"short Ping", derp.FramePing, make([]byte, 7)},
		}
		for _, f := range privileged {
			c := connect(t, r, f.name, byHand, on(0))
			c.frame(t, f.typ, f.body)
			c.wantEnd(t)
			fence(t, other, bystander)
		}
		for _, f := range malformed {
			c := connect(t, r, f.name, byHand, inMesh, on(1))
			c.frame(t, f.typ, f.body)
			c.wantEnd(t)
			fence(t, bystander, other)
		}
	})
}

// ClosePeer closes all connections of a key, wherever they are: on each worker,
// and on one that a reload has replaced.
func TestClosePeer(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers, mesh: true})
		m, bystander := connect(t, r, "m", inMesh, on(0)), connect(t, r, "bystander", on(1))
		priv := key.NewNode()
		targets := []*client{connect(t, r, "target", as(priv), on(1))}
		if r.isNginx {
			r.reload(t)
			m = connect(t, r, "m", inMesh, on(0))
		}
		for i := range max(2, workers) {
			targets = append(targets, connect(t, r, "target", as(priv), on(i)))
		}
		fence(t, targets[0], bystander)
		if err := m.conn.ClosePeer(priv.Public()); err != nil {
			t.Fatal(err)
		}
		for _, c := range targets {
			c.wantEnd(t)
		}
		bystander.want(t, gone(targets[0]))
		fence(t, m, bystander)
		if err := m.conn.ClosePeer(priv.Public()); err != nil { // nobody there
			t.Fatal(err)
		}
		m.sync(t)
		back := connect(t, r, "target", as(priv), on(1))
		fence(t, m, back)
	})
}

// A mesh peer delivers in the name of another.
func TestForwardPacket(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers, mesh: true})
		m := connect(t, r, "m", inMesh, on(0))
		remote := key.NewNode().Public()
		nameKey(remote, "remote")
		for i := range workers {
			c := connect(t, r, "c", on(i))
			for _, size := range []int{0, 1, 1400, derp.MaxPacketSize} {
				p := payload(uint64(size), size)
				if err := m.conn.ForwardPacket(remote, c.key, p); err != nil {
					t.Fatal(err)
				}
				c.want(t, derp.ReceivedPacket{Source: remote, Data: p})
			}
		}
		// To a key that is not here it is lost, and nothing else happens.
		if err := m.conn.ForwardPacket(remote, key.NewNode().Public(), payload(1, 100)); err != nil {
			t.Fatal(err)
		}
		m.sync(t)
	})
}
