package interop

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// Who received from a key is told when it leaves, and nobody else is.
func TestPeerGone(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers})
		a, b := connect(t, r, "a", on(0)), connect(t, r, "b", on(1))
		c, d := connect(t, r, "c", on(2)), connect(t, r, "d", on(3))
		fence(t, a, b)
		fence(t, c, a) // to have sent to it is nothing
		fence(t, d, b)
		fence(t, d, c)

		a.close()
		b.want(t, gone(a))
		// Departures are told in their order: this one would come after.
		d.close()
		b.want(t, gone(d))
		c.want(t, gone(d))

		// Nobody is told of c, though it was sent to.
		c.close()
		e := connect(t, r, "e", on(2))
		fence(t, e, b)
	})
}

// Every departure is told to those who received since the one before.
func TestPeerGoneEachTime(t *testing.T) {
	oursOnly(t, "it tells a connection once in its life")
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers})
		b, priv := connect(t, r, "b", on(1)), key.NewNode()
		for i := range 5 {
			a := connect(t, r, "a", on(i), as(priv))
			fence(t, a, b)
			fence(t, a, b)
			a.close()
			b.want(t, gone(a))
		}
		// The last one sent nothing, so it leaves unnoticed.
		a := connect(t, r, "a", on(0), as(priv))
		fence(t, b, a)
		a.close()
		fence(t, b, b)
	})
}

// The packets that a departed key still has in the queue come first, and then
// word that it has left.
func TestPeerGoneBehindQueue(t *testing.T) {
	oursOnly(t, "it forgets a departure whose packets are still queued")
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers, mesh: true, inRelay: patient})
		w := connect(t, r, "w", on(0), watching)
		release := make(chan struct{})
		b := connect(t, r, "b", on(1), held(release))
		a := connect(t, r, "a", on(0))
		flood(t, a, b)
		a.close()
		w.await(t, "a's departure", func(m derp.ReceivedMessage) bool { return same(m, gone(a)) })
		close(release)

		last, count := drainFlood(t, a, b)
		if last != floodPackets-1 || count == floodPackets {
			t.Fatalf("the last of %d packets that arrived is %d: nothing was queued", count, last)
		}
		fence(t, w, b)
	})
}

// patient has nobody closed for reading nothing, however slow this machine is.
const patient = "        write_timeout 5m;\n"

// floodPackets of the largest size are more than sockets buffer, by far.
const floodPackets = 200

// flood overruns a client that does not read.
func flood(t *testing.T, from, to *client) {
	t.Helper()
	for i := range uint64(floodPackets) {
		from.send(t, to.key, floodPacket(i))
	}
	from.sync(t)
}

func floodPacket(i uint64) []byte {
	p := payload(1, derp.MaxPacketSize)
	binary.BigEndian.PutUint64(p, i)
	return p
}

// drainFlood takes what is left of a flood, up to the sender's departure.
func drainFlood(t *testing.T, from, to *client) (last uint64, count int) {
	t.Helper()
	for {
		m := to.next(t, "the rest of the flood, or PeerGone")
		if same(m, gone(from)) {
			return last, count
		}
		last = checkFlood(t, from, m, last)
		count++
	}
}

// checkFlood looks at one packet of a flood, which may have gaps but no more.
func checkFlood(t *testing.T, from *client, m derp.ReceivedMessage, last uint64) uint64 {
	t.Helper()
	p, ok := m.(derp.ReceivedPacket)
	if !ok || len(p.Data) != derp.MaxPacketSize {
		t.Fatalf("after packet %d of the flood: %s", last, describe(m))
	}
	i := binary.BigEndian.Uint64(p.Data)
	if !same(m, derp.ReceivedPacket{Source: from.key, Data: floodPacket(i)}) || (i <= last && i > 0) {
		t.Fatalf("after packet %d of the flood: %s", last, describe(m))
	}
	return i
}

// Of a full queue the oldest packets go, and the connection stays.
func TestOverflow(t *testing.T) {
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		forTransports(t, options{workers: workers, inRelay: patient}, func(t *testing.T, r *relay, tr transport) {
			release := make(chan struct{})
			a := connect(t, r, "a", on(0), via(tr))
			b := connect(t, r, "b", on(1), via(tr), held(release))
			flood(t, a, b)
			close(release)
			last, count := uint64(0), 0
			for last != floodPackets-1 {
				last = checkFlood(t, a, b.next(t, "the rest of the flood"), last)
				count++
			}
			if count == floodPackets {
				t.Error("nothing was dropped: the queue was not full")
			}
			fence(t, a, b)
			fence(t, b, a)
		})
	})
}

// A disco packet to an unknown key is answered, three times and then once a
// second; no other packet is.
func TestNotHere(t *testing.T) {
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers})
		stranger := key.NewNode().Public()
		nameKey(stranger, "stranger")
		for _, name := range []string{"a", "b"} { // each on its own account
			c := connect(t, r, name)
			c.send(t, stranger, payload(1, 100))
			c.send(t, stranger, discoPacket()[:61]) // too short for one
			c.sync(t)

			began := time.Now()
			const sent = 10
			for range sent {
				c.send(t, stranger, discoPacket())
			}
			for range 3 {
				c.want(t, notHere(stranger))
			}
			more := 0
			last := pingData()
			if err := c.conn.SendPing(last); err != nil {
				t.Fatal(err)
			}
			c.await(t, "the pong", func(m derp.ReceivedMessage) bool {
				if same(m, notHere(stranger)) {
					more++
				}
				return same(m, derp.PongMessage(last))
			})
			if allowed := int(time.Since(began).Seconds()); more > allowed {
				t.Errorf("%d more answers than 3 in %d s", more, allowed)
			}
		}
	})
}

// Once a key has left it is as unknown as if it had never been.
func TestNotHereAfterDeparture(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers})
		a, b := connect(t, r, "a", on(0)), connect(t, r, "b", on(1))
		fence(t, a, b) // a's session now knows where b is
		fence(t, b, a)
		b.close()
		a.want(t, gone(b))
		a.send(t, b.key, discoPacket())
		a.want(t, notHere(b.key))

		again := connect(t, r, "b", on(2), as(key.NewNode()))
		fence(t, a, again)
	})
}

// One client that stops reading is not felt by those who talk to another.
func TestSendFreeze(t *testing.T) {
	t.Parallel()
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		for _, tr := range []transport{plain4, tls4} {
			t.Run(tr.String(), func(t *testing.T) {
				t.Parallel()
				r := startTarget(t, options{workers: workers, mesh: true, via: tr})
				freeze(t, r, tr)
			})
		}
	})
}

func freeze(t *testing.T, r *relay, tr transport) {
	release := make(chan struct{})
	w := connect(t, r, "w", via(tr), watching)
	s := newStream(t, 3000)
	bob := connect(t, r, "bob", via(tr), on(1), handled(s.receive))
	cathy := connect(t, r, "cathy", via(tr), on(1), held(release))
	alice := connect(t, r, "alice", via(tr), on(0))
	s.beside = func(i int) {
		if i%15 == 0 {
			alice.send(t, cathy.key, floodPacket(uint64(i/15)))
		}
	}
	if err := s.run(alice, bob); err != nil {
		t.Fatal(err)
	}
	// The relay gives cathy up, and tells her nothing but the truth till then.
	w.await(t, "cathy's departure", func(m derp.ReceivedMessage) bool { return same(m, gone(cathy)) })
	close(release)
	cathy.wantEnd(t)
	last := uint64(0)
	for _, m := range cathy.pending() {
		last = checkFlood(t, alice, m, last)
	}
	fence(t, w, alice)
}

// Who reads nothing and is to be told of thousands of departures is told of
// them all; of still more, and it is let go: no client can have the relay keep
// for it what has no end.
func TestPeerGoneToBlocked(t *testing.T) {
	oursOnly(t, "it forgets departures whose packets are still queued")
	for _, c := range []struct {
		departures int
		stays      bool
	}{{4000, true}, {9000, false}} {
		t.Run(fmt.Sprint(c.departures), func(t *testing.T) {
			y := newFakePeer(t, "y", sharedCert())
			r := startTarget(t, options{workers: 2, meshWith: []string{y.addr}, inRelay: patient})
			l := y.awaitLink(t)
			release := make(chan struct{})
			a, m := connect(t, r, "a", on(0)), connect(t, r, "m", inMesh, on(0))
			b := connect(t, r, "b", on(1), held(release))
			var remotes []key.NodePublic
			for i := range c.departures {
				remotes = append(remotes, newRemote(fmt.Sprint("remote", i)))
				l.present(t, remotes[i])
			}
			l.sync(t, a)
			flood(t, a, b)
			for _, k := range remotes {
				if err := m.conn.ForwardPacket(k, b.key, []byte("hello")); err != nil {
					t.Fatal(err)
				}
			}
			m.sync(t)
			fence(t, m, a) // nothing of it is under way any more
			for _, k := range remotes {
				l.gone(t, k, derp.PeerGoneReasonDisconnected)
			}
			l.sync(t, a)
			if !c.stays {
				err := r.proc.log.await(0, func(lines []string) bool {
					return strings.Contains(strings.Join(lines, "\n"), "ended: no room in its outbox")
				})
				if err != nil {
					t.Fatal(err)
				}
				close(release)
				b.wantEnd(t)
				return
			}
			close(release)
			told := map[key.NodePublic]bool{}
			for len(told) < c.departures {
				m := b.await(t, "PeerGone", func(m derp.ReceivedMessage) bool {
					_, ok := m.(derp.PeerGoneMessage)
					return ok
				}).(derp.PeerGoneMessage)
				if told[m.Peer] {
					t.Fatalf("b is told twice of %s", keyName(m.Peer))
				}
				told[m.Peer] = true
			}
			fence(t, a, b)
		})
	}
}
