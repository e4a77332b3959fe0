package interop

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// departure bounds the time from a worker's death until everyone has been told
// that its clients have left.
const departure = time.Second

// Workers are killed, one or two at once, old ones and those with the link to
// a mesh peer among them: the others' clients lose nothing, the dead ones' are
// announced as gone within a second, and who takes the place relays.
func TestKills(t *testing.T) {
	const (
		n       = 80
		workers = 4
	)
	f := rounds(t, 24, 14, 500)
	peer := newFakePeer(t, "mesh peer", sharedCert())
	s := start(t, conf{workers: workers, zone: "256m", inRelay: meshWithPeer(peer)})
	s.allow(`derp_relay "main".*link`, `while dialing`)
	remote := newRemote(t, peer)
	tr := newTraffic(t, s, n, 50*time.Millisecond)
	others := newChurn(t, s, 3)
	remote.awaitReachable(tr)
	over := newCrossing(t, s, remote)
	var seen, told longest
	kinds := map[string]int{}
	observers := make([]*observer, 2)
	reloads := 0
	for f.more() {
		others.pause()
		for i, o := range observers {
			if o == nil || ended(o.client) {
				observers[i] = observe(t, s, f.rounds+i)
			}
		}
		want := tr.keys()
		over.addTo(want)
		for _, o := range observers {
			want[o.key] = true
		}
		for _, o := range observers {
			o.awaitPicture(t, want)
		}
		others.resume()
		remote.awaitReachable(tr)

		if f.rounds%12 == 1 { // so that there are old workers to be killed
			s.reload(t)
			reloads++
			rejoin(t, tr, 1, 4)
		}
		kind, pids := s.victims(t, f.rounds, peer)
		kinds[kind]++

		time.Sleep(rand.N(50 * time.Millisecond)) // at a random moment
		dead := tr.doom(pids...)
		var lost []*observer
		var watching []*observer
		for _, o := range observers {
			if slices.Contains(pids, o.pid) {
				lost = append(lost, o)
			} else {
				watching = append(watching, o)
			}
		}
		at := time.Now()
		hit := over.victims(pids) // somebody whom the link needs
		s.kill(t, pids...)
		for _, o := range lost {
			<-o.ended
		}
		for _, o := range watching {
			for _, k := range deadKeys(dead, lost) {
				took := o.awaitLeft(t, k).Sub(at)
				seen.add(took)
				within(t, "a worker's death (kind "+kind+"), to an observer,", took, departure)
			}
		}
		tr.awaitTold(dead, at, &told)
		if hit {
			over.again(pids)
			remote.awaitReachable(tr)
			over.excuse(at)
		}
		within(t, "a worker's death (kind "+kind+"), to clients,", told.max, departure)
		tr.settle()
		tr.forget(dead)
		for _, p := range dead {
			<-p.ended
			tr.join(p.seat)
		}
	}
	remote.awaitReachable(tr)
	f.note("%d times %v, %d reloads and %d other logins meanwhile; %d clients, %d packets; departures seen by observers: %v, told to clients: %v; %s",
		f.rounds, kinds, reloads, others.logins.Load(), n, tr.delivered.Load(), &seen, &told, over.check())
}

func ended(c *client) bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

func deadKeys(dead []*party, lost []*observer) (keys []key.NodePublic) {
	for _, p := range dead {
		keys = append(keys, p.key)
	}
	for _, o := range lost {
		keys = append(keys, o.key)
	}
	return keys
}

// rejoin has one in so many clients leave and come back.
func rejoin(t *testing.T, tr *traffic, first, step int) {
	t.Helper()
	var seats []int
	for i := first % step; i < len(tr.seats); i += step {
		seats = append(seats, i)
	}
	left := tr.leave(seats...)
	tr.awaitTold(left, time.Now(), nil)
	tr.forget(left)
	for _, i := range seats {
		tr.join(i)
	}
}

// victims chooses whom to kill in this round.
func (s *server) victims(t *testing.T, round int, peer *fakePeer) (string, []int) {
	t.Helper()
	i := rand.IntN(len(s.workers))
	switch round % 6 {
	case 1, 2:
		s.retired = slices.DeleteFunc(s.retired, gonePid)
		if len(s.retired) > 0 {
			return "old worker", []int{s.retired[rand.IntN(len(s.retired))]}
		}
	case 3:
		j := (i + 1 + rand.IntN(len(s.workers)-1)) % len(s.workers)
		return "two at once", []int{s.workers[i], s.workers[j]}
	case 4:
		var owners []int
		eventually(t, "a worker to have the link", func() bool {
			var err error
			owners, err = dialers(peer.addr, s.allWorkers())
			return err == nil && len(owners) > 0
		})
		return "owner of the link", owners[:1]
	}
	return "any worker", []int{s.workers[i]}
}

// A worker dies between having taken it upon itself to ring another and doing
// so: what it had sent is delivered, and the other is not deaf.
func TestKilledWhileRinging(t *testing.T) {
	module := faultModule(t)
	f := rounds(t, 10, 1, 30)
	fs, path := newFault(t)
	s := start(t, conf{workers: 3, module: module, env: []string{"NGX_DERP_FAULT=" + path}})
	var late longest
	for f.more() {
		a, b, c := connect(t, s.relay, "a", on(0)), connect(t, s.relay, "b", on(1)), connect(t, s.relay, "c", on(2))
		of := s.workers[0]
		everyPairOf(t, b, c)
		time.Sleep(20 * time.Millisecond) // so that all are asleep
		fs.arm("slot_ring", 1)
		last := fencePacket()
		at := time.Now()
		a.send(t, b.key, last)
		pids := s.awaitDead(t, 1)
		if pids[0] != of {
			t.Fatalf("worker %d died, not that of a", pids[0])
		}
		next := fencePacket()
		c.send(t, b.key, next)
		// What comes of either is told in any order: they are of two workers.
		var got [3]bool
		for range got {
			m := b.next(t, "a packet or a departure")
			got[0] = got[0] || same(m, derp.ReceivedPacket{Source: a.key, Data: last})
			got[1] = got[1] || same(m, derp.ReceivedPacket{Source: c.key, Data: next})
			got[2] = got[2] || same(m, gone(a))
		}
		took := time.Since(at)
		late.add(took)
		within(t, "a packet of a worker that died before it rang", took, departure)
		if got != [3]bool{true, true, true} {
			t.Errorf("b received of a, of c, and of a's departure: %v", got)
		}
		b.close()
		c.close()
	}
	f.note("%d times; all was there: %v", f.rounds, &late)
}
