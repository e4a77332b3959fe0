package interop

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

func netipAddrPort(s string) (netip.AddrPort, error) { return netip.ParseAddrPort(s) }

// An observer is a mesh peer that watches who is connected.
type observer struct {
	*client
	pid int

	mu      sync.Mutex
	present map[key.NodePublic]bool
	left    map[key.NodePublic]time.Time
	wrong   []string
	again   []string // what it was told once more than there was to tell
}

// observe connects a watcher to one of the present workers.
func observe(t testing.TB, s *server, worker int) *observer {
	t.Helper()
	o := &observer{present: map[key.NodePublic]bool{}, left: map[key.NodePublic]time.Time{}}
	c, err := tryConnect(s.relay, fmt.Sprintf("observer of worker %d", worker), watching, via(tls4), on(worker),
		handled(o.receive))
	if err != nil {
		t.Fatalf("connecting an observer: %v", err)
	}
	t.Cleanup(c.close)
	o.client = c
	o.pid = s.ownerOf(t, c, tls4)
	return o
}

func (o *observer) receive(m derp.ReceivedMessage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch m := m.(type) {
	case derp.PeerPresentMessage:
		if o.present[m.Key] {
			o.again = append(o.again, "was told twice that "+keyName(m.Key)+" is there")
		}
		o.present[m.Key] = true
	case derp.PeerGoneMessage:
		if !o.present[m.Peer] {
			o.again = append(o.again, "was told that "+keyName(m.Peer)+" left, who was not there")
		}
		delete(o.present, m.Peer)
		o.left[m.Peer] = time.Now()
	default:
		o.wrong = append(o.wrong, "received "+describe(m))
	}
}

// awaitLeft waits until the observer has been told that a client left.
func (o *observer) awaitLeft(t testing.TB, k key.NodePublic) time.Time {
	t.Helper()
	var at time.Time
	eventually(t, fmt.Sprintf("%s to see %s leave", o.name, keyName(k)), func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		var ok bool
		at, ok = o.left[k]
		return ok
	})
	return at
}

// awaitPicture waits until the observer sees just these.
func (o *observer) awaitPicture(t testing.TB, want map[key.NodePublic]bool) {
	t.Helper()
	o.awaitPictureAfter(t, want, 0)
}

// awaitPictureAfter is for after so many deaths in the midst of a change: what
// had been told of it is unknown then, so the repair tells it again.
func (o *observer) awaitPictureAfter(t testing.TB, want map[key.NodePublic]bool, deaths int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		missing, excess := o.differs(want)
		if missing == "" && excess == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("%s (of worker %d) does not see %q, and sees %q", o.name, o.pid, missing, excess)
			break
		}
		time.Sleep(poll)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.again) > deaths {
		o.wrong = append(o.wrong, o.again...)
	}
	for _, w := range o.wrong {
		t.Errorf("%s %s", o.name, w)
	}
	o.wrong, o.again = nil, nil
}

func (o *observer) differs(want map[key.NodePublic]bool) (missing, excess string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for k := range want {
		if !o.present[k] {
			missing = keyName(k)
		}
	}
	for k := range o.present {
		if !want[k] {
			excess = keyName(k)
		}
	}
	return missing, excess
}
