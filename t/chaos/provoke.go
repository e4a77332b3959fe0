package interop

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// A provoker does what leads to a fault point that load alone does not pass.
type provoker struct {
	t        *testing.T
	s        *server
	fs       fault
	remote   *remote
	expected int // deaths
}

// die has a worker die at a point; it says whether one did.
func (p *provoker) die(point string) bool {
	lead, count := p.lead(point)
	p.expected = 0
	if strings.HasPrefix(point, "repair_") {
		p.repair(point)
	} else {
		p.fs.arm(point, count)
	}
	deadline := time.Now().Add(5 * time.Second)
	for !p.fs.fired() && time.Now().Before(deadline) {
		if lead != nil {
			lead()
		}
		p.await(300 * time.Millisecond)
	}
	fired := p.fs.fired()
	p.fs.disarm()
	if fired {
		p.expected++
	}
	return fired
}

// lead says what leads to a point, and how often it is to be passed.
func (p *provoker) lead(point string) (func(), uint32) {
	for _, l := range []struct {
		prefix string
		lead   func()
	}{
		{"channel_remove_", p.killPasser},
		{"region_remove_", p.kill},
		{"region_reap", p.kill},
		{"census_retire", p.kill},
		{"registry_remove_some", p.kill},
		{"slot_claim", p.kill}, // and slot_claimed
		{"slot_alive", p.kill},
		{"registry_first_conn", p.crowd},
		{"channel_want", p.fill},
		{"inbox_", p.shortage},
		{"channel_open", p.generation},
		{"channel_close", p.generation},
		{"channel_drop", p.generation},
		{"channel_release", p.generation},
		{"region_join", p.generation},
		{"region_leave", p.generation},
		{"lease_", p.generation},
		{"registry_add_link", p.remote.cut},
		{"registry_activate", p.duplicate},
	} {
		if strings.HasPrefix(point, l.prefix) {
			return l.lead, 1
		}
	}
	return nil, 1 + rand.Uint32N(3)
}

func (p *provoker) await(wait time.Duration) {
	for end := time.Now().Add(wait); !p.fs.fired() && time.Now().Before(end); {
		time.Sleep(poll)
	}
}

// kill kills a worker, so that another takes its clients off.
func (p *provoker) kill() {
	p.s.census(p.t)
	if len(p.s.workers) < p.s.conf.workers {
		return // as yet
	}
	if syscall.Kill(p.s.workers[rand.IntN(len(p.s.workers))], syscall.SIGKILL) == nil {
		p.expected++
	}
}

// killPasser kills a worker that has channels.
func (p *provoker) killPasser() {
	all := p.passers(8)
	p.await(50 * time.Millisecond)
	p.kill()
	p.await(50 * time.Millisecond)
	for _, c := range all {
		c.close()
	}
}

// repair has a worker die in the midst of a change while all others stand
// still, so that the repair is yet to come when the switch is armed for it.
func (p *provoker) repair(point string) {
	s := p.s
	s.census(p.t)
	all := append(s.allWorkers(), s.proc.pid())
	mutant := s.workers[rand.IntN(len(s.workers))]
	for _, pid := range all {
		if pid != mutant {
			syscall.Kill(pid, syscall.SIGSTOP)
		}
	}
	p.fs.arm("registry_attach_half", 1)
	p.await(100 * time.Millisecond)
	for end := time.Now().Add(time.Second); !p.fs.fired() && time.Now().Before(end); {
		if c, err := loginRaw(s.addr(plain4), 0, 0, 20*time.Millisecond); err == nil {
			c.Close()
		}
	}
	if p.fs.fired() {
		p.expected++
	}
	p.fs.arm(point, 1)
	for _, pid := range all {
		syscall.Kill(pid, syscall.SIGCONT)
	}
}

// passers are clients that send to each other, wherever they have landed.
func (p *provoker) passers(n int) (all []*client) {
	for range n {
		all = p.join(all, -1)
	}
	pass(all)
	return all
}

func (p *provoker) join(all []*client, worker int) []*client {
	c, err := tryConnect(p.s.relay, fmt.Sprint("passer ", len(all)), via(plain4), on(worker),
		handled(func(derp.ReceivedMessage) {}))
	if err != nil {
		return all
	}
	return append(all, c)
}

func pass(all []*client) {
	for _, a := range all {
		for _, b := range all {
			a.conn.Send(b.key, fencePacket())
		}
	}
}

// generation has workers come, use channels, and go.
func (p *provoker) generation() {
	all := p.passersOfNew()
	all = append(all, p.passersOfNew()...)
	for _, c := range all {
		c.close()
	}
}

// shortage has so many workers send to each other that they lack channels.
func (p *provoker) shortage() {
	var all []*client
	for range 4 {
		p.reload()
		for i := range p.s.workers {
			all = p.join(all, i)
		}
	}
	pass(all)
	p.await(300 * time.Millisecond)
	for _, c := range all {
		c.close()
	}
}

func (p *provoker) passersOfNew() []*client {
	p.reload()
	return p.passers(8)
}

func (p *provoker) reload() {
	s := p.s
	// Slots are not to run out, and a link takes a second to be handed over.
	eventually(p.t, "old workers to go", func() bool {
		s.census(p.t)
		return len(s.allWorkers()) < 72
	})
	before := s.generations
	s.proc.signal(p.t, syscall.SIGHUP)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		s.census(p.t)
		if s.generations > before && len(s.workers) == s.conf.workers {
			break
		}
		time.Sleep(poll)
	}
}

// crowd has more clients than ever at a time.
func (p *provoker) crowd() {
	for range 500 {
		if p.fs.fired() {
			return
		}
		if c, err := loginRaw(p.s.addr(plain4), 0, 0, 100*time.Millisecond); err == nil {
			defer c.Close()
		}
	}
}

// handOver waits until no old worker has a link any more.
func (p *provoker) handOver() {
	eventually(p.t, "one worker alone to have the link", func() bool {
		owners, err := dialers(p.remote.peer.addr, p.s.allWorkers())
		return err == nil && len(owners) == 1
	})
}

// duplicate has two clients with one key speak by turns.
func (p *provoker) duplicate() {
	priv := key.NewNode()
	var pair []*client
	for range 2 {
		c, err := tryConnect(p.s.relay, "duplicate", as(priv), via(plain4), handled(func(derp.ReceivedMessage) {}))
		if err == nil {
			defer c.close()
			pair = append(pair, c)
		}
	}
	for range 4 {
		for _, c := range pair {
			c.conn.SendPing(pingData())
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// fill has a channel be full for a while, but not for so long that anything is
// dropped.
func (p *provoker) fill() {
	p.s.census(p.t)
	all := p.passers(8)
	size := 60 << 10
	deaf := p.s.workers[rand.IntN(len(p.s.workers))]
	syscall.Kill(deaf, syscall.SIGSTOP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		data := payload(1, size)
		for range 16 {
			for _, a := range all {
				for _, b := range all {
					if a.conn.Send(b.key, data) != nil {
						return
					}
				}
			}
		}
	}()
	p.await(200 * time.Millisecond)
	syscall.Kill(deaf, syscall.SIGCONT)
	p.await(300 * time.Millisecond)
	for _, c := range all {
		c.close()
	}
	<-done
}
