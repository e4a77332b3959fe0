package interop

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"tailscale.com/derp"
)

// What a worker was sent by another is spoilt before it takes it: it says so,
// counts a drop, and goes on; nobody is harmed, and what comes next arrives.
func TestSpoiltRecords(t *testing.T) {
	const recordLen, head = 24, 5 + 32
	size := 300
	spoils := []struct {
		what    string
		at      int // from the record's beginning
		value   uint32
		dropped bool // as what is no record; otherwise its client is gone
	}{
		{"its length is that of all there is", 0, 1 << 31, true},
		{"its length is more than was published", 0, uint32(head + size + 64), true},
		{"its length is less than its frame's", 0, uint32(head + size - 16), true},
		{"its length is nothing", 0, 0, true},
		{"it has no packets", 4, 0, true},
		{"it has more packets than there are", 4, 2, true},
		{"its connection is behind all there are", 12, 1<<24 - 1, false},
		{"it was born after all there is", 20, 1, true},
		{"its frame is of another type", recordLen, 0x01<<8 | 0x01, true},
		{"its frame is longer", recordLen + 1, 0x7fffffff, true},
		{"its frame is shorter than its head", recordLen + 1, 0x01000000, true},
	}
	f := rounds(t, len(spoils), 1, 1)
	s := start(t, conf{workers: 2, zone: "16m"})
	s.allow(`\[alert\].* derp_relay "main" has found no packets where worker \d+ has written some, they are dropped`)
	all := oneOnEach(t, s, nil)
	a, b := all[0], all[1]
	wanted := 0
	for f.more() {
		sp := spoils[(f.rounds-1)%len(spoils)]
		fence(t, a, b)
		pid := s.workers[1]
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) })
		eventually(t, "the worker to stand still", func() bool { return standsStill(pid) })
		data := payload(uint64(f.rounds), size)
		a.send(t, b.key, data)
		fence(t, a, a) // so it is in the channel
		spoil(t, pid, data, head+recordLen, sp.at, sp.value)
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if sp.dropped {
			wanted++
		}
		eventually(t, "a drop to be counted when "+sp.what, func() bool {
			d := s.usage(t).Dropped.Other
			return d.Channel == wanted && d.GoneDisconnected == f.rounds-wanted
		})
		data = payload(uint64(f.rounds)<<32, size)
		a.send(t, b.key, data)
		b.want(t, derp.ReceivedPacket{Source: a.key, Data: data})
	}
	if n := s.count("has found no packets"); n == 0 {
		t.Error("the log says nothing of it")
	}
	f.note("%d records", f.rounds)
}

// spoil looks for a packet in the memory that a worker shares with others, and
// writes a number to its record, which begins so many bytes before the packet.
func spoil(t *testing.T, pid int, packet []byte, before, at int, value uint32) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || mode != "rw-s" {
			continue
		}
		shared := make([]byte, to-from)
		if _, err := mem.ReadAt(shared, from); err != nil {
			continue
		}
		i := bytes.Index(shared, packet)
		if i < before || binary.NativeEndian.Uint32(shared[i-before:]) != uint32(before-24+len(packet)) {
			continue
		}
		b := binary.NativeEndian.AppendUint32(nil, value)
		if _, err := mem.WriteAt(b, from+int64(i-before+at)); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("the packet is in no channel")
}
