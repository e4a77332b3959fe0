package interop

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// A worker stands still: the others' clients lose nothing; what is for its own
// may be dropped; and when it goes on, so does everything.
func TestStoppedWorker(t *testing.T) {
	const n = 90
	f := rounds(t, 2, 5, 3)
	s := start(t, conf{workers: 3})
	tr := newTraffic(t, s, n, 25*time.Millisecond)
	pause := 3 * time.Second
	if long() {
		pause = 10 * time.Second
	}
	for f.more() {
		pid := s.workers[f.rounds%len(s.workers)]
		stopped := tr.choose(pid)
		for _, p := range stopped {
			p.lossy.Store(true)
		}
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(pause / 2) // half of the time that it stands still
		before := tr.deliveredBetweenOthers(pid)
		time.Sleep(pause / 2)
		during := tr.deliveredBetweenOthers(pid) - before
		if during == 0 {
			t.Error("the others received nothing meanwhile")
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		tr.recover(stopped)
	}
	if tr.dropped.Load() == 0 && long() { // a short stop is bridged
		t.Error("nothing was dropped, so nothing was tried")
	}
	f.note("%d times for %v; %d clients, %d packets, %d dropped on the way to the worker that stood still",
		f.rounds, pause, n, tr.delivered.Load(), tr.dropped.Load())
}

// A worker stands still, and clients send to it all the while: what the
// same clients send to others must not wait for it.
func TestStoppedWorkerLatency(t *testing.T) {
	const (
		senders = 4
		every   = 2 * time.Millisecond
		packets = 500                    // of each, to the one that lives
		bound   = 200 * time.Millisecond // 50 are wanted where no other process wants the cores
	)
	f := rounds(t, 1, 2, 3)
	s := start(t, conf{workers: 3})
	var worst time.Duration
	for f.more() {
		var mu sync.Mutex
		var took []time.Duration
		next := map[key.NodePublic]uint64{}
		lives := connect(t, s.relay, "lives", via(plain4), on(1), handled(func(m derp.ReceivedMessage) {
			p, ok := m.(derp.ReceivedPacket)
			if !ok || len(p.Data) < 16 {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if n := binary.BigEndian.Uint64(p.Data); n != next[p.Source] {
				t.Errorf("packet %d came where %d was due", n, next[p.Source])
			}
			next[p.Source]++
			took = append(took, time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(p.Data[8:])))))
		}))
		still := connect(t, s.relay, "stands still", via(plain4), on(2))
		var from []*client
		for range senders {
			from = append(from, connect(t, s.relay, "sender", via(plain4), on(0)))
		}
		for _, c := range from {
			fence(t, c, still)
		}
		if err := syscall.Kill(s.workers[2], syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Kill(s.workers[2], syscall.SIGCONT) })
		var busy sync.WaitGroup
		for _, c := range from {
			busy.Go(func() {
				large, due := payload(1, 1<<10), time.Now()
				for n := range uint64(packets) {
					due = due.Add(every)
					time.Sleep(time.Until(due))
					small := payload(n, 200)
					binary.BigEndian.PutUint64(small, n)
					binary.BigEndian.PutUint64(small[8:], uint64(due.UnixNano()))
					for range 4 {
						c.conn.Send(still.key, large)
					}
					c.conn.Send(lives.key, small)
				}
			})
		}
		busy.Wait()
		eventually(t, "all packets to the one that lives", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(took) == senders*packets
		})
		if err := syscall.Kill(s.workers[2], syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		slices.Sort(took)
		p99 := took[len(took)*99/100]
		worst = max(worst, p99)
		if p99 > bound {
			t.Errorf("99 of 100 packets beside those to a worker that stands still came within %v only", p99)
		}
		for _, c := range append(from, lives, still) {
			c.close()
		}
	}
	f.note("%d times; 99 of 100 packets of the same senders to others came within %v", f.rounds, worst.Round(time.Millisecond))
}

// A worker stands still with the registry's lock, in the midst of a change: the
// others relay on among themselves, whether or not they have before; who comes
// meanwhile gets in, and who leaves is told of, once it goes on.
func TestStoppedInLock(t *testing.T) {
	points := []string{ // each is come to by a login, a departure or a packet
		"registry_attach_half", "registry_free_peer", "channel_open_used", "registry_begin",
		"registry_insert_peer", "registry_detach_half", "journal_body", "registry_commit",
	}
	f := rounds(t, 4, 3, 2*len(points))
	fs, path := newFault(t)
	s := start(t, conf{workers: 3, zone: "256m", module: faultModule(t), env: []string{"NGX_DERP_FAULT=" + path},
		inRelay: "handshake_timeout 30s;"})
	s.allow(`has its registry locked by a worker that does not go on`)
	tr := newTraffic(t, s, 40, 25*time.Millisecond)
	pause := 2 * time.Second
	if long() {
		pause = 10 * time.Second
	}
	logins := 0
	for f.more() {
		point := points[(f.rounds-1)%len(points)]
		s.reload(t) // new workers have no channels to each other
		if f.rounds%2 == 0 {
			rejoin(t, tr, f.rounds/2%3, 3)
		}
		all := oneOnEach(t, s, nil)
		a, b := all[1], all[2]
		leaves, trigger := connect(t, s.relay, "leaves", on(1)), connect(t, s.relay, "trigger", on(0))
		fence(t, leaves, a)
		o := observe(t, s, 2)

		pid := s.workers[0]
		stopped := tr.choose(pid)
		for _, p := range stopped {
			p.lossy.Store(true)
		}
		fs.armWith(syscall.SIGSTOP, point, 1)
		late := s.accepted(t, 0, 1, 2, 1, 2, 1, 2)
		came := make(chan error, len(late))
		come := func(r *raw) { came <- r.login() }
		first := 0
		switch {
		case strings.HasPrefix(point, "channel_"):
			all[0].send(t, a.key, fencePacket())
		case strings.HasPrefix(point, "registry_free_"), strings.HasPrefix(point, "registry_detach_"):
			trigger.close()
		default:
			first = 1
			go come(late[0])
		}
		eventually(t, "a worker to stop at "+point, func() bool { return standsStill(pid) })
		since := time.Now()
		t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) })

		a.send(t, key.NewNode().Public(), fencePacket())
		for range 20 {
			fence(t, a, b)
		}
		within(t, "relaying between the others", time.Since(since), time.Second)
		leaves.close()
		for _, r := range late[first:] {
			go come(r)
		}
		before := tr.deliveredBetweenOthers(pid)
		time.Sleep(pause - time.Since(since))
		if tr.deliveredBetweenOthers(pid) == before {
			t.Error("the others received nothing meanwhile")
		}
		if len(came) > 0 {
			t.Errorf("a client got in while a worker stood still at %s", point)
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		goesOn := time.Now()
		want := tr.keys()
		for _, r := range late {
			if err := <-came; err != nil {
				t.Errorf("logging in while a worker stood still at %s: %v", point, err)
			}
			want[r.key] = true
		}
		within(t, "logins after "+point, time.Since(goesOn), 2*time.Second)
		logins += len(late)
		a.await(t, "the departure", func(m derp.ReceivedMessage) bool { return same(m, gone(leaves)) })
		tr.recover(stopped)
		trigger.close()
		for _, c := range append(all, o.client) {
			want[c.key] = true
		}
		o.awaitPicture(t, want)
		fence(t, a, all[0])
		for _, c := range append(all, o.client) {
			c.close()
		}
		for _, r := range late {
			r.Close()
		}
	}
	tr.leave(allSeats(40)...)
	s.awaitGone(t, s.retired)
	if s.count("has its registry locked") == 0 {
		t.Error("the log says nothing of it")
	}
	f.note("%d times for %v, at %d points; %d logins meanwhile; %d packets", f.rounds, pause, min(f.rounds, len(points)), logins,
		tr.delivered.Load())
}

// Workers that start while another stands still with the lock take part once it
// goes on, and until then say so.
func TestStartedWhileStopped(t *testing.T) {
	f := rounds(t, 1, 1, 3)
	fs, path := newFault(t)
	s := start(t, conf{workers: 2, module: faultModule(t), env: []string{"NGX_DERP_FAULT=" + path}})
	s.allow(`has its registry locked by a worker that does not go on`)
	for f.more() {
		all := oneOnEach(t, s, nil)
		pid, mark := s.workers[0], s.proc.log.mark()
		fs.armWith(syscall.SIGSTOP, "registry_attach_half", 1)
		r := s.accepted(t, 0)[0]
		go r.login()
		eventually(t, "a worker to stop", func() bool { return standsStill(pid) })
		t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) })
		s.proc.signal(t, syscall.SIGHUP)
		s.retired = append(s.retired, s.workers...)
		s.workers = s.awaitWorkers(t, mark, s.conf.workers)
		both := func(text string) {
			eventually(t, "both workers to say: "+text, func() bool {
				lines, _, _ := s.proc.log.since(mark)
				return countLines(lines, text) == s.conf.workers
			})
		}
		both("this one relays nothing yet")
		fence(t, all[1], all[1])
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		both("derp relays from now on")
		both("gracefully shutting down")
		all = oneOnEach(t, s, all)
		everyPairOf(t, all...)
		for _, c := range all {
			c.close()
		}
		r.Close()
	}
	f.note("%d times", f.rounds)
}

// accepted are connections that these workers have taken.
func (s *server) accepted(t *testing.T, workers ...int) (all []*raw) {
	t.Helper()
	for _, i := range workers {
		conn, err := s.connectTCP(context.Background(), plain4, i)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(patience))
		priv := key.NewNode()
		all = append(all, &raw{Conn: conn, priv: priv, key: priv.Public()})
	}
	return all
}

func standsStill(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") T ")
}

func (tr *traffic) deliveredBetweenOthers(pid int) (n uint64) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, f := range tr.streams {
		if f.from.pid != pid && f.to.pid != pid {
			n += f.next.Load()
		}
	}
	return n
}

// A worker stands still while others come and go by thousands, more than the
// journal holds: afterwards its clients are told of who left, and a watcher of
// it has the right picture, or is closed so that it starts afresh.
func TestStoppedAndOverrun(t *testing.T) {
	f := rounds(t, 1, 2, 3)
	s := start(t, conf{workers: 3, zone: "4m"})
	s.allow(`\[error\].* derp watcher has fallen behind`)
	logins, afresh := 0, 0
	for f.more() {
		i := f.rounds % len(s.workers)
		pid := s.workers[i]
		x, stays := connect(t, s.relay, "x", on(i)), connect(t, s.relay, "stays", on(i+1))
		leaves := connect(t, s.relay, "leaves", on(i+2))
		everyPairOf(t, x, stays, leaves)
		w, there := observe(t, s, i), observe(t, s, i+1)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		leaves.close()
		stays.want(t, gone(leaves))
		logins += s.comeAndGo(overrun)
		everyPairOf(t, stays)
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		x.want(t, gone(leaves))
		everyPairOf(t, x, stays)
		select {
		case <-w.ended:
			afresh++
		case <-time.After(departure):
			t.Error("a watcher whose worker was overrun was not closed")
		}
		w = observe(t, s, i)
		for _, o := range []*observer{w, there} {
			o.awaitPicture(t, map[key.NodePublic]bool{x.key: true, stays.key: true, there.key: true, w.key: true})
		}
		for _, c := range []*client{x, stays, w.client, there.client} {
			c.close()
		}
	}
	f.note("%d times, %d other logins; %d watchers started afresh", f.rounds, logins, afresh)
}

// overrun is more changes than there are entries in the journal of 4 MiB.
const overrun = 6000

// comeAndGo logs so many clients in and out again, wherever a worker answers.
func (s *server) comeAndGo(n int) int {
	var done atomic.Int64
	var busy sync.WaitGroup
	deadline := time.Now().Add(patience)
	for range 8 {
		busy.Go(func() {
			for done.Load() < int64(n) && time.Now().Before(deadline) {
				if c, err := loginRaw(s.addr(plain4), 0, 0, 50*time.Millisecond); err == nil {
					c.Close()
					done.Add(1)
				}
			}
		})
	}
	busy.Wait()
	return int(done.Load())
}
