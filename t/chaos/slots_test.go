package interop

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
)

// Ten generations of 64 workers, all but the last of them with clients that
// stay: everybody is let in, and all reach each other.
func TestGenerations64(t *testing.T) {
	const workers, generations, newcomers, sampled = 64, 10, 128, 4
	f := rounds(t, 1, 2, 1)
	s := start(t, conf{workers: workers, zone: "512m", connections: 1024, inMain: "worker_rlimit_nofile 16384;"})
	// The master has two descriptors for each worker.
	if err := run("prlimit", "--pid", fmt.Sprint(s.proc.pid()), "--nofile=16384:16384"); err != nil {
		t.Fatal(err)
	}
	pairs, bells, descriptors, old := 0, 0, 0, 0
	for f.more() {
		var all, some []*client
		for generation := 1; generation <= generations; generation++ {
			if generation > 1 {
				s.reload(t)
			}
			for i := range newcomers {
				all = append(all, connect(t, s.relay, fmt.Sprintf("client %d of generation %d", i, generation), via(plain4)))
			}
			some = append(some, all[len(all)-sampled:]...)
			for _, c := range some {
				c.reachesAll(t, some)
			}
		}
		for _, c := range all {
			c.reachesAll(t, some)
		}
		for _, c := range some {
			c.reachesAll(t, all)
		}
		pairs += 2 * len(all) * len(some)
		living := s.everyoneHasASlot(t)
		old = max(old, living-workers)
		b, d := mostHeld(t, s.allWorkers())
		bells, descriptors = max(bells, b), max(descriptors, d)
		for _, c := range all {
			c.close()
		}
		s.awaitGone(t, s.retired)
	}
	if bells > mostBells {
		t.Errorf("a worker holds %d eventfds and unix datagram sockets, at most %d were expected", bells, mostBells)
	}
	s.everyoneHasASlot(t)
	f.note("%d times %d generations of %d workers, %d old ones with clients at once; %d clients, all let in; %d pairs tried, all reach each other; a worker held %d descriptors at most, %d of them for bells",
		f.rounds, generations, workers, old, f.rounds*generations*newcomers, pairs, descriptors, bells)
}

// mostBells is how many eventfds and unix datagram sockets a worker may have:
// the module's one bell and one socket to ring others, and nginx's own eventfds,
// one to notify itself and one for asynchronous files.
const mostBells = 4

// mostHeld says how many descriptors a worker holds at most, and how many of
// those may be bells.
func mostHeld(t *testing.T, pids []int) (bells, all int) {
	t.Helper()
	datagrams := datagramSockets(t)
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // it has gone
		}
		n := 0
		for _, fd := range fds {
			link, _ := os.Readlink(dir + "/" + fd.Name())
			if link == "anon_inode:[eventfd]" || datagrams[link] {
				n++
			}
		}
		bells, all = max(bells, n), max(all, len(fds))
	}
	return bells, all
}

// datagramSockets are all unix datagram sockets that there are, as /proc/PID/fd
// names them.
func datagramSockets(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		// number, references, protocol, flags, type, state, inode, name
		if f := strings.Fields(line); len(f) >= 7 && f[4] == fmt.Sprintf("%04d", syscall.SOCK_DGRAM) {
			all["socket:["+f[6]+"]"] = true
		}
	}
	return all
}

// everyoneHasASlot waits until as many slots are taken as there are workers; it
// returns how many.
func (s *server) everyoneHasASlot(t *testing.T) (living int) {
	t.Helper()
	used := 0
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%d workers were alive, with %d slots", living, used)
		}
	})
	eventually(t, "each worker to have a slot", func() bool {
		living = 0
		for _, pid := range s.allWorkers() {
			if !gonePid(pid) {
				living++
			}
		}
		used = s.usage(t).Slots.Used
		return used == living
	})
	return living
}

// A reload each half second while worker_shutdown_timeout is 6 s, so that there
// are some thirteen generations all the time: whoever logs in is let in, those
// that are cut come again, and clients of the newest workers lose nothing.
func TestReloadsFast(t *testing.T) {
	const workers, residents, n = 16, 48, 12
	const timeout, every = 6 * time.Second, time.Second / 2
	const generations = int(timeout/every) + 1
	f := rounds(t, 20, 1, 60)
	s := start(t, conf{workers: workers, zone: "512m", connections: 1024,
		inMain: "worker_shutdown_timeout 6s; worker_rlimit_nofile 16384;"})
	tr := newTraffic(t, s, n, 25*time.Millisecond)
	g := newGuests(t, s)
	g.come(false)
	most := 0
	tick := time.NewTicker(every)
	defer tick.Stop()
	for f.more() {
		<-tick.C
		s.reload(t)
		rejoin(t, tr, 0, 1)
		if f.rounds < generations {
			for range residents {
				g.come(true)
			}
		}
		most = max(most, s.usage(t).Slots.Used)
	}
	if g.cut.Load() == 0 {
		t.Error("worker_shutdown_timeout has cut nobody, so it was not tried")
	}
	g.end()
	tr.leave(allSeats(n)...)
	s.awaitGone(t, s.retired)
	s.everyoneHasASlot(t)
	f.note("%d reloads, one each %v or later; %d logins, none refused; %d clients cut by worker_shutdown_timeout; %d workers with a slot at most; %d packets of %d others, always on the newest",
		f.rounds, every, g.logins.Load(), g.cut.Load(), most, tr.delivered.Load(), n)
}

// Guests log in over and over, and are always to be let in.
type guests struct {
	t      *testing.T
	s      *server
	stop   chan struct{}
	busy   sync.WaitGroup
	logins atomic.Int64
	cut    atomic.Int64 // whose worker has gone
}

func newGuests(t *testing.T, s *server) *guests {
	g := &guests{t: t, s: s, stop: make(chan struct{})}
	t.Cleanup(g.end)
	return g
}

func (g *guests) end() {
	select {
	case <-g.stop:
	default:
		close(g.stop)
	}
	g.busy.Wait()
}

// come has one more come, who stays until it is cut, or leaves at once; and
// then comes again.
func (g *guests) come(stays bool) {
	const pause = 10 * time.Millisecond // so that logins are not all there is
	ignore := handled(func(derp.ReceivedMessage) {})
	done := func() bool {
		select {
		case <-g.stop:
			return true
		default:
			return false
		}
	}
	g.busy.Go(func() {
		for !done() {
			c, err := tryConnect(g.s.relay, "guest", via(plain4), ignore)
			if err != nil {
				g.t.Errorf("a login: %v", err)
				return
			}
			g.logins.Add(1)
			if stays {
				select {
				case <-c.ended:
					g.cut.Add(1)
				case <-g.stop:
				}
			}
			c.close()
			time.Sleep(pause)
		}
	})
}
