package interop

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// fillUp logs clients in until some in a row are refused, so that no worker has
// room.
func fillUp(t *testing.T, s *server, most int) (in []*raw) {
	t.Helper()
	for refused := 0; refused < 3*s.conf.workers; {
		c, err := loginRaw(s.addr(plain4), 0, 0, time.Second)
		if err != nil {
			refused++
			continue
		}
		refused = 0
		if in = append(in, c); len(in) == most {
			t.Fatalf("%d clients, and none was refused", most)
		}
	}
	return in
}

// empty has them all leave, and waits until there is room again.
func empty(t *testing.T, s *server, in []*raw) {
	t.Helper()
	for _, c := range in {
		c.Close()
	}
	eventually(t, "a client to get in again", func() bool {
		c, err := loginRaw(s.addr(plain4), 0, 0, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// exhaust fills the server and empties it, time and again, beside other
// clients that notice nothing, and a link that is lost meanwhile and comes back;
// line is what the log says of it.
func exhaust(t *testing.T, f *form, s *server, peer *fakePeer, most int, line string) {
	t.Helper()
	s.allow(`derp_relay "main".*(link|mesh peer)`, `while dialing`)
	remote := newRemote(t, peer)
	tr := newTraffic(t, s, 30, 25*time.Millisecond)
	remote.awaitReachable(tr)
	got := 0
	for f.more() {
		in := fillUp(t, s, most)
		got = max(got, len(in))
		tr.settle()
		other := remote.another() // for whom there may be no room now
		remote.awaitReachable(tr)
		empty(t, s, in)
		tr.settle()
		remote.awaitReachableAs(tr, other)

		in = fillUp(t, s, most)
		lost := s.count("has lost its link")
		remote.cut()
		eventually(t, "the link to be lost", func() bool { return s.count("has lost its link") > lost })
		in = append(in, fillUp(t, s, most)...)
		empty(t, s, in)
		tr.settle()
		remote.awaitReachable(tr)
	}
	n := s.count(line)
	if n == 0 {
		t.Errorf("no line %q in the log", line)
	}
	f.note("%d times; %d clients got in beside others; %d lines %q in %.0f s; %d packets of others'",
		f.rounds, got, n, line, time.Since(f.started).Seconds(), tr.delivered.Load())
}

func TestConnectionsExhausted(t *testing.T) {
	f := rounds(t, 3, 1, 20)
	peer := newFakePeer(t, "mesh peer", sharedCert())
	s := start(t, conf{workers: 2, connections: 128, inRelay: meshWithPeer(peer)})
	s.allow(`\[alert\].* 128 worker_connections are not enough`)
	exhaust(t, f, s, peer, 256, "worker_connections are not enough")
}

func TestDescriptorsExhausted(t *testing.T) {
	f := rounds(t, 1, 1, 10)
	peer := newFakePeer(t, "mesh peer", sharedCert())
	s := start(t, conf{workers: 2, inMain: "worker_rlimit_nofile 230;", inRelay: meshWithPeer(peer)})
	// nginx's timer to accept again may outlive the listening socket at a quit
	s.allow(`\[alert\].* accept4\(\) failed \(9: Bad file descriptor\)`)
	s.allow(`\[crit\].* accept4\(\) failed \(24: Too many open files\)`,
		`\[alert\].* socket\(\) failed \(24: Too many open files\)`)
	exhaust(t, f, s, peer, 2*230, "Too many open files")
}

func TestZoneFull(t *testing.T) {
	f := rounds(t, 1, 2, 3)
	peer := newFakePeer(t, "mesh peer", sharedCert())
	s := start(t, conf{workers: 2, connections: 16000, zone: "4m", inMain: "worker_rlimit_nofile 20000;",
		inRelay: meshWithPeer(peer)})
	s.allow(`\[error\].* has no room for (another client|a mesh peer's client|a link): increase its "zone"`)
	exhaust(t, f, s, peer, 18000, "increase its")
	if n, most := s.count("increase its"), 2*(1+int(time.Since(f.started).Seconds())/10); n > most {
		t.Errorf("%d lines about it in the log, at most %d were expected", n, most)
	}
}

// The disk for the logs is full: relaying, logins and reloads go on.
func TestDiskFull(t *testing.T) {
	f := rounds(t, 2, 1, 10)
	dir, err := os.MkdirTemp("", "full")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=777"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Unmount(dir, syscall.MNT_DETACH)
		os.Remove(dir)
	})
	s := start(t, conf{workers: 2, shared: true, inMain: fmt.Sprintf("error_log %s/error.log info;", dir),
		accessLog: dir + "/access.log"})
	s.allow(`\[alert\].* write\(\) to ".*/access.log" (failed \(28: No space left on device\)|was incomplete)`)
	tr := newTraffic(t, s, 40, 25*time.Millisecond)
	for f.more() {
		ballast := dir + "/ballast"
		if out, err := exec.Command("dd", "if=/dev/zero", "of="+ballast, "bs=1k").CombinedOutput(); err == nil ||
			!strings.Contains(string(out), "No space left") {
			t.Fatalf("the disk is not full: %s", out)
		}
		rejoin(t, tr, 0, 2)
		s.reload(t)
		rejoin(t, tr, 1, 2)
		tr.settle()
		os.Truncate(ballast, 0)
		for _, log := range []string{"/error.log", "/access.log"} {
			os.Truncate(dir+log, 0)
			eventually(t, log+" to be written again", func() bool {
				if c, err := loginRaw(s.addr(plain4), 0, 0, patience); err == nil {
					c.Close()
				}
				st, err := os.Stat(dir + log)
				return err == nil && st.Size() > 0
			})
		}
	}
	f.note("%d times, with %d reloads; %d packets", f.rounds, f.rounds, tr.delivered.Load())
}

// The system refuses memory: some clients are refused or lost, workers go on,
// and once there is memory again so is everything.
func TestMemoryRefused(t *testing.T) {
	f := rounds(t, 2, 1, 10)
	// Limits are for processes of one's own to be changed.
	s := start(t, conf{workers: 2, inMain: "user root;"})
	s.allow(`\[emerg\].* (malloc|posix_memalign)\(.* failed \(12: Cannot allocate memory\)`, `\[(crit|alert)\].* SSL`)
	var in, refused int
	for f.more() {
		a, b := connect(t, s.relay, "a", via(plain4), on(0)), connect(t, s.relay, "b", via(plain4), on(1))
		var deaf []key.NodePublic
		for range 20 {
			deaf = append(deaf, connectRaw(t, s, s.addr(plain4), 4096, 0).key)
		}
		fl := newFlood(t, s, deaf, 32<<10) // it takes memory, for what waits
		for _, pid := range s.workers {
			limitMemory(t, pid, "0") // no more than there is
		}
		for range 300 {
			c, err := tryConnect(s.relay, "late", via(transports[in%4]), handled(func(derp.ReceivedMessage) {}))
			if err != nil {
				refused++
				continue
			}
			t.Cleanup(c.close)
			in++
		}
		fl.end()
		for _, pid := range s.workers {
			limitMemory(t, pid, "unlimited")
		}
		everyPairOf(t, a, b)
		c := connect(t, s.relay, "after", via(tls4))
		everyPairOf(t, a, b, c)
	}
	if refused == 0 {
		t.Error("nobody was refused, so nothing was tried")
	}
	f.note("%d times; %d clients got in nevertheless, %d were refused; %d lines about memory in %.1f s",
		f.rounds, in, refused, s.count("Cannot allocate memory"), time.Since(f.started).Seconds())
}

func limitMemory(t *testing.T, pid int, size string) {
	t.Helper()
	if err := run("prlimit", "--pid", fmt.Sprint(pid), "--as="+size+":unlimited"); err != nil {
		t.Fatal(err)
	}
}
