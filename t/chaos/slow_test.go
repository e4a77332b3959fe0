package interop

import (
	"encoding/binary"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// A flood sends packets to some as fast as the relay takes them.
type flood struct {
	stop chan struct{}
	busy sync.WaitGroup
	sent int
}

func newFlood(t *testing.T, s *server, to []key.NodePublic, size int) *flood {
	f := &flood{stop: make(chan struct{})}
	from := connect(t, s.relay, "flood", via(plain4), handled(func(derp.ReceivedMessage) {}))
	data := payload(1, size)
	f.busy.Go(func() {
		for {
			for _, k := range to {
				select {
				case <-f.stop:
					from.close()
					return
				default:
				}
				if from.conn.Send(k, data) != nil {
					return
				}
				f.sent++
			}
		}
	})
	t.Cleanup(f.end)
	return f
}

func (f *flood) end() {
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
	f.busy.Wait()
}

// memoryBound is buffers here, and what a worker needs besides.
const (
	memoryBound = "16m"
	memorySlack = 24 << 10 // KiB
)

func checkMemory(t *testing.T, s *server, before map[int]int) (most int) {
	t.Helper()
	for _, pid := range s.workers {
		grown := rssOf(t, pid) - before[pid]
		most = max(most, grown)
		if grown > 16<<10+memorySlack {
			t.Errorf("worker %d has grown by %d KiB", pid, grown)
		}
	}
	return most
}

func memoryOf(t *testing.T, s *server) map[int]int {
	t.Helper()
	all := map[int]int{}
	for _, pid := range s.workers {
		all[pid] = rssOf(t, pid)
	}
	return all
}

// Clients that never read are closed after write_timeout, and cost no more
// than buffers until then; the others notice nothing.
func TestNeverReading(t *testing.T) {
	f := rounds(t, 1, 3, 3)
	s := start(t, conf{workers: 2, inRelay: "buffers " + memoryBound + ";"})
	tr := newTraffic(t, s, 40, 50*time.Millisecond)
	before, most, closed := memoryOf(t, s), 0, 0
	for f.more() {
		var deaf []*raw
		var keys []key.NodePublic
		for range 40 {
			c := connectRaw(t, s, s.addr(plain4), 4096, 0)
			deaf, keys = append(deaf, c), append(keys, c.key)
		}
		fl := newFlood(t, s, keys, 32<<10)
		for s.count("write timed out") < (f.rounds)*len(deaf) {
			time.Sleep(50 * time.Millisecond)
			most = max(most, checkMemory(t, s, before))
			if t.Failed() {
				return
			}
			if time.Since(f.started) > time.Duration(f.rounds)*patience {
				t.Fatalf("only %d of %d clients that read nothing were closed", s.count("write timed out"), f.rounds*len(deaf))
			}
		}
		fl.end()
		for _, c := range deaf {
			c.wantClosed(t)
		}
		closed += len(deaf)
		tr.settle()
	}
	f.note("%d clients that read nothing closed; a worker grew by %d KiB at most; %d packets of others'",
		closed, most, tr.delivered.Load())
}

// Clients that read a byte a second cost no more than buffers.
func TestByteASecond(t *testing.T) {
	f := rounds(t, 1, 2, 1)
	s := start(t, conf{workers: 2, inRelay: "buffers " + memoryBound + ";"})
	tr := newTraffic(t, s, 40, 50*time.Millisecond)
	before, most := memoryOf(t, s), 0
	var slow []*raw
	var keys []key.NodePublic
	for range 40 {
		c := connectRaw(t, s, s.addr(plain4), 4096, 0)
		slow, keys = append(slow, c), append(keys, c.key)
	}
	fl := newFlood(t, s, keys, 1200)
	seconds := 6
	if long() {
		seconds = int(max(30*time.Second, time.Until(f.until)) / time.Second)
	}
	for range seconds {
		time.Sleep(time.Second)
		for _, c := range slow {
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
			c.Read(make([]byte, 1))
		}
		most = max(most, checkMemory(t, s, before))
	}
	fl.end()
	tr.settle()
	f.note("%d clients for %d s, %d of them closed; a worker grew by %d KiB at most; %d packets of others'",
		len(slow), seconds, s.count("write timed out"), most, tr.delivered.Load())
}

// Half a frame waits for its other half, for ever if it must, and is a frame
// once that comes; half a login is closed.
func TestHalfFrames(t *testing.T) {
	const n = 200
	f := rounds(t, 1, 1, 2)
	s := start(t, conf{workers: 2, connections: 8192, inRelay: "handshake_timeout 2s;"})
	tr := newTraffic(t, s, 40, 50*time.Millisecond)
	before := memoryOf(t, s)
	most := 0
	for f.more() {
		to := connect(t, s.relay, "to")
		var halves []*raw
		frame := make([]byte, 5+32+60000)
		frame[0] = byte(derp.FrameSendPacket)
		binary.BigEndian.PutUint32(frame[1:], uint32(len(frame)-5))
		to.key.AppendTo(frame[5:5])
		fill(frame[37:], 7)
		for range n {
			c := connectRaw(t, s, s.addr(plain4), 0, 0)
			c.Write(frame[:len(frame)/2])
			halves = append(halves, c)
		}
		var logins []net.Conn
		for range n {
			conn, err := dialRaw(s.addr(plain4), 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			br, err := switchProtocols(conn)
			if err != nil {
				t.Fatal(err)
			}
			_ = br
			conn.Write(append([]byte{byte(derp.FrameClientInfo), 0, 3, 0, 0}, make([]byte, 3<<15)...))
			logins = append(logins, conn)
		}
		eventually(t, "half logins to be closed", func() bool {
			most = max(most, checkHeld(t, s, before))
			return s.count("login timed out") >= n*f.rounds
		})
		for _, c := range halves {
			c.Write(frame[len(frame)/2:])
			to.want(t, derp.ReceivedPacket{Source: c.key, Data: frame[37:]})
		}
		for _, c := range halves {
			c.Close()
		}
		for _, c := range logins {
			c.Close()
		}
		to.close()
		tr.settle()
	}
	f.note("%d half frames, held and then completed, %d half logins closed; a worker grew by %d KiB at most; %d packets of others'",
		n*f.rounds, n*f.rounds, most, tr.delivered.Load())
}

func checkHeld(t *testing.T, s *server, before map[int]int) (most int) {
	t.Helper()
	for _, pid := range s.workers {
		most = max(most, rssOf(t, pid)-before[pid])
	}
	return most
}

// As many connections as there may be, none of which logs in: some say nothing
// at all, some upgrade and then say nothing.
func TestNeverLoggingIn(t *testing.T) {
	n := 3000
	if long() {
		n = 18000
	}
	f := rounds(t, 1, 1, 1)
	s := start(t, conf{workers: 2, connections: 16000,
		inMain: "worker_rlimit_nofile 20000;",
		inHTTP: "client_header_timeout 15s;", inRelay: "handshake_timeout 10s;"})
	tr := newTraffic(t, s, 40, 50*time.Millisecond)
	before := memoryOf(t, s)
	fds := map[int]int{}
	for _, pid := range s.workers {
		fds[pid] = footprintOf(t, pid).fds
	}
	silent := make([]net.Conn, n)
	for i := range silent {
		conn, err := dialRaw(s.addr(plain4), 0, 0)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if i%2 == 0 {
			if _, err := switchProtocols(conn); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
		silent[i] = conn
	}
	most := checkHeld(t, s, before)
	for _, conn := range silent {
		(&raw{Conn: conn, br: newReader(conn)}).wantClosed(t)
		conn.Close()
	}
	for _, pid := range s.workers {
		eventually(t, "descriptors to be given back", func() bool { return footprintOf(t, pid).fds <= fds[pid] })
	}
	tr.settle()
	f.note("%d connections, all closed in time; a worker grew by %d KiB at most; %d packets of others'",
		n, most, tr.delivered.Load())
}

// Clients whose link is down, as after a power cut, are found out about.
func TestPowerCut(t *testing.T) {
	f := rounds(t, 1, 3, 1)
	far := newFarNetwork(t)
	s := start(t, conf{workers: 2, inServer: fmt.Sprintf("listen %s:8080;", far.here)})
	addr := far.here + ":8080"
	tr := newTraffic(t, s, 40, 50*time.Millisecond)
	var least, most time.Duration
	lost := 0
	for f.more() {
		w := observe(t, s, 0)
		from := connect(t, s.relay, "from", via(plain4))
		var cut []*raw
		for range 10 {
			c := connectRaw(t, s, addr, 0, far.pid)
			from.send(t, c.key, fencePacket())
			cut = append(cut, c)
		}
		// The last is sent nothing but the relay's own KeepAlive.
		idle := connectRaw(t, s, addr, 0, far.pid)
		far.cut(t)
		at := time.Now()
		for _, c := range cut {
			from.send(t, c.key, fencePacket())
		}
		for _, c := range cut {
			took := w.awaitLeft(t, c.key).Sub(at)
			if least == 0 {
				least = took
			}
			most = max(most, took)
		}
		lost += len(cut)
		if long() {
			deadline := time.Now().Add(65*time.Second + 30*time.Second)
			for w.leftAt(idle.key).IsZero() {
				if time.Now().After(deadline) {
					t.Errorf("an idle client that was cut off is still there after %v", time.Since(at))
					break
				}
				time.Sleep(10 * poll)
			}
			most = max(most, time.Since(at))
			lost++
		}
		far.mend(t)
		w.close()
		tr.settle()
	}
	f.note("%d clients cut off and found out about, after %.1f to %.1f s; %d packets of others'",
		lost, least.Seconds(), most.Seconds(), tr.delivered.Load())
}

func (o *observer) leftAt(k key.NodePublic) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.left[k]
}

// A farNetwork is another network namespace, with one link to this one.
type farNetwork struct {
	here, there string
	pid         int // of a process in it
}

func newFarNetwork(t *testing.T) *farNetwork {
	t.Helper()
	n := &farNetwork{here: "192.0.2.1", there: "192.0.2.2"}
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.pid = cmd.Process.Pid
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait() // the link ends with the namespace
	})
	n.ip(t, fmt.Sprintf("link add near address 02:00:00:00:00:01 type veth peer name far address %s netns %d", farAddr, n.pid))
	n.ip(t, "addr add "+n.here+"/24 dev near")
	n.ip(t, "link set near up")
	n.ipThere(t, "link set far up")
	// The address stays known when nobody answers for it: as behind a router,
	// what is sent goes out and nothing comes back, not even an error.
	n.ip(t, "neigh replace "+n.there+" lladdr "+farAddr+" nud permanent dev near")
	n.mend(t)
	return n
}

const farAddr = "02:00:00:00:00:02"

func (n *farNetwork) cut(t *testing.T)  { n.ipThere(t, "addr del "+n.there+"/24 dev far") }
func (n *farNetwork) mend(t *testing.T) { n.ipThere(t, "addr add "+n.there+"/24 dev far") }

func (n *farNetwork) ip(t *testing.T, command string) {
	t.Helper()
	if err := run("ip", strings.Fields(command)...); err != nil {
		t.Fatal(err)
	}
}

func (n *farNetwork) ipThere(t *testing.T, command string) {
	t.Helper()
	args := append([]string{"-t", fmt.Sprint(n.pid), "-n", "ip"}, strings.Fields(command)...)
	if err := run("nsenter", args...); err != nil {
		t.Fatal(err)
	}
}
