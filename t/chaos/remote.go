package interop

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/types/key"
)

func meshWithPeer(p *fakePeer) string {
	return fmt.Sprintf("mesh_with https://%s/derp; mesh_ssl_verify off;", p.addr)
}

// A remote is a client of another relay of the mesh.
type remote struct {
	t    *testing.T
	peer *fakePeer
	key  key.NodePublic

	mu    sync.Mutex
	links int
	last  *link
	other key.NodePublic // of another client there, or zero
	got   atomic.Uint64  // the last number that reached it
	over  *crossing      // what takes the longer packets, or nil
	more  chan struct{}
}

func newRemote(t *testing.T, p *fakePeer) *remote {
	r := &remote{t: t, peer: p, key: key.NewNode().Public(), more: make(chan struct{}, 1)}
	nameKey(r.key, "the remote client")
	p.taken = func(f forward) bool {
		if len(f.data) == 8 {
			r.got.Store(binary.BigEndian.Uint64(f.data))
			select {
			case r.more <- struct{}{}:
			default:
			}
			return true
		}
		r.mu.Lock()
		over := r.over
		r.mu.Unlock()
		if over != nil && f.dst == r.key && len(f.data) == 16 {
			over.arrived(&over.there, f.data)
		}
		return true
	}
	p.greet = r.greet // before it answers any ping
	go func() {
		for {
			select {
			case l := <-p.links:
				r.greet(l) // the first may have been there before this
				r.mu.Lock()
				r.links++
				r.last = l
				r.mu.Unlock()
			case <-p.stop:
				return
			}
		}
	}()
	return r
}

func (r *remote) greet(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.tell(r.key)
	if !r.other.IsZero() {
		l.tell(r.other)
	}
}

// another announces another client there, and all the time from now on.
func (r *remote) another() key.NodePublic {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.other = key.NewNode().Public()
	nameKey(r.other, "another remote client")
	if r.last != nil {
		r.last.tell(r.other)
	}
	return r.other
}

// cut ends the link, which the relay is to make anew.
func (r *remote) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last != nil {
		r.last.conn.Close()
		r.last = nil
	}
}

var numbers atomic.Uint64

// awaitReachable sends to the remote client from one of the traffic's until
// something arrives there.
func (r *remote) awaitReachable(tr *traffic) {
	r.t.Helper()
	r.awaitReachableAs(tr, r.key)
}

func (r *remote) awaitReachableAs(tr *traffic, k key.NodePublic) {
	r.t.Helper()
	deadline := time.After(patience)
	from := tr.living()[0]
	for {
		num := numbers.Add(1)
		if err := from.conn.Send(k, binary.BigEndian.AppendUint64(nil, num)); err != nil {
			r.t.Errorf("%s sends to the remote client: %v", from.name, err)
			return
		}
		retry := time.After(10 * poll)
		for r.got.Load() < num {
			select {
			case <-r.more:
				continue
			case <-retry:
			case <-deadline:
				r.t.Errorf("waited %v in vain for a packet to reach the remote client", patience)
				return
			}
			break
		}
		if r.got.Load() >= num {
			return
		}
	}
}
