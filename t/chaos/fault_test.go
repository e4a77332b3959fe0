package interop

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// A fault is the switch by which a worker is killed or stopped in the midst of
// a change: see src/region/ngx_derp_fault.h.
type fault []byte

const faultSize = 64

func newFault(t *testing.T) (fault, string) {
	t.Helper()
	dir, err := runDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "fault")
	writeFile(t, path, string(make([]byte, faultSize)), 0o666)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	mem, err := syscall.Mmap(int(file.Fd()), 0, faultSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	return mem, path
}

func (f fault) arm(point string, count uint32) { f.armWith(syscall.SIGKILL, point, count) }

func (f fault) armWith(sig syscall.Signal, point string, count uint32) {
	f.disarm()
	clear(f[4:])
	binary.NativeEndian.PutUint32(f[4:], uint32(sig))
	copy(f[8:faultSize-1], point)
	atomic.StoreUint32(f.count(), count)
}

func (f fault) disarm() { atomic.StoreUint32(f.count(), 0) }

// fired says that the worker has been killed, or that the switch is off.
func (f fault) fired() bool { return atomic.LoadUint32(f.count()) == 0 }

func (f fault) count() *uint32 { return (*uint32)(unsafe.Pointer(&f[0])) }

// faultPoints are all that there are in the sources.
func faultPoints(t *testing.T) (points []string) {
	t.Helper()
	files, err := filepath.Glob("../../src/*/*.c")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`NGX_DERP_FAULT\((\w+)\);`).FindAllSubmatch(text, -1) {
			if !slices.Contains(points, string(m[1])) {
				points = append(points, string(m[1]))
			}
		}
	}
	return points
}

// Workers die in the midst of each critical section of the registry and the
// channels, with the same outcome as anywhere else.
func TestFaultPoints(t *testing.T) {
	dieAt(t, "256m", slices.DeleteFunc(faultPoints(t), inInbox))
}

// The same where channels are few, so that inboxes are shared, of which there is
// one for each worker that there may be.
func TestInboxFaultPoints(t *testing.T) {
	points := slices.DeleteFunc(faultPoints(t), func(point string) bool { return !inInbox(point) })
	dieAt(t, "64m", points)
}

func inInbox(point string) bool { return strings.HasPrefix(point, "inbox_") }

// faultModule is the module that has them.
func faultModule(t *testing.T) string {
	t.Helper()
	module := os.Getenv("TEST_DERP_FAULT_MODULE")
	if module == "" {
		t.Skip("NOT RUN: TEST_DERP_FAULT_MODULE names no module with fault points")
	}
	return module
}

func dieAt(t *testing.T, zone string, points []string) {
	t.Helper()
	module := faultModule(t)
	const n = 60
	fs, path := newFault(t)
	f := rounds(t, len(points), 6, 3*len(points))
	peer := newFakePeer(t, "mesh peer", sharedCert())
	s := start(t, conf{workers: 3, zone: zone, module: module, env: []string{"NGX_DERP_FAULT=" + path},
		inRelay: meshWithPeer(peer)})
	s.allow(`derp_relay "main".*link`, `while dialing`, `close\(\) socket|open socket .* left in connection|aborting`)
	p := &provoker{t: t, s: s, fs: fs, remote: newRemote(t, peer)}
	tr := newTraffic(t, s, n, 25*time.Millisecond)
	others := newChurn(t, s, 3)
	var seen longest
	died, alive := map[string]int{}, []string{}
	for f.more() {
		point := points[(f.rounds-1)%len(points)]
		others.pause()
		s.census(t)
		o := observe(t, s, rand.IntN(3))
		want := tr.keys()
		want[o.key] = true
		o.awaitPicture(t, want) // so that it can see who leaves
		others.resume()
		tr.surprise.Store(true)
		if p.die(point) {
			died[point]++
		} else {
			alive = append(alive, point)
		}
		at := time.Now()
		pids := s.awaitDead(t, p.expected)
		dead := tr.doom(pids...)
		for _, d := range dead {
			<-d.ended
		}
		tr.surprise.Store(false)
		if !slices.Contains(pids, o.pid) {
			for _, d := range dead {
				took := o.awaitLeft(t, d.key).Sub(at)
				seen.add(took)
				within(t, "a death at "+point, took, departure)
			}
			others.pause()
			want = tr.keys()
			want[o.key] = true
			o.awaitPictureAfter(t, want, len(pids))
			others.resume()
		}
		tr.awaitTold(dead, at, nil)
		tr.settle()
		tr.forget(dead)
		o.close()
		for _, d := range dead {
			tr.join(d.seat)
		}
		if t.Failed() {
			t.Logf("that was after a death at %s", point)
		}
	}
	if !t.Failed() && f.rounds >= len(points) && len(died) < len(points) {
		t.Errorf("points that nobody died at: %q", alive)
	}
	p.handOver() // TestQuitInHandOver is about a quit before
	f.note("%d points, %d deaths at %d of them, and %d others to get there; %d other logins; %d packets; departures seen: %v",
		len(points), f.rounds-len(alive), len(died), s.kills-(f.rounds-len(alive)), others.logins.Load(), tr.delivered.Load(), &seen)
}
