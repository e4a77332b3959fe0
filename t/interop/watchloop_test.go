package interop

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// A picture is what a watcher believes, by the official client's watch loop.
type picture struct {
	name  string
	fails atomic.Bool // its connection is to be lost

	mu    sync.Mutex
	there map[key.NodePublic]bool
	odd   []string      // what should not have been told
	more  chan struct{} // closed, and made anew, at each change
}

// watchLoop watches in the way that derper and other tools do.
func watchLoop(t *testing.T, r *relay, name string, opts ...setting) (*picture, key.NodePublic) {
	t.Helper()
	p := &picture{name: name, there: map[key.NodePublic]bool{}, more: make(chan struct{})}
	s := settings{via: r.anyTransport(), worker: -1}
	for _, o := range opts {
		o(&s)
	}
	priv := key.NewNode()
	c, err := derphttp.NewClient(priv, r.url(s.via), logger.Discard, netmon.NewStatic())
	if err != nil {
		t.Fatal(err)
	}
	c.TLSConfig = &tls.Config{RootCAs: sharedCert().pool}
	c.MeshKey = meshKey()
	c.SetURLDialer(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return r.connectTCP(ctx, s.via, s.worker)
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		failed := func(err error) {
			if !p.fails.Load() {
				p.complain(ctx, "the watch fails: %v", err)
			}
		}
		c.RunWatchConnectionLoop(ctx, key.NodePublic{}, nil, p.add, p.remove, failed)
	})
	t.Cleanup(func() {
		cancel()
		c.Close()
		running.Wait()
	})
	nameKey(priv.Public(), name)
	return p, priv.Public()
}

func (p *picture) add(m derp.PeerPresentMessage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.there[m.Key] {
		p.odd = append(p.odd, "twice "+describe(m))
	}
	p.there[m.Key] = true
	p.changed()
}

func (p *picture) remove(m derp.PeerGoneMessage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// The loop takes all back by itself when it has lost its connection.
	broke := m.Reason == derp.PeerGoneReasonMeshConnBroke && p.fails.Load()
	if !p.there[m.Peer] || m.Reason != derp.PeerGoneReasonDisconnected && !broke {
		p.odd = append(p.odd, "unfounded "+describe(m))
	}
	delete(p.there, m.Peer)
	p.changed()
}

func (p *picture) complain(ctx context.Context, format string, args ...any) {
	if ctx.Err() != nil {
		return // the test is over
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.odd = append(p.odd, fmt.Sprintf(format, args...))
	p.changed()
}

func (p *picture) changed() {
	close(p.more)
	p.more = make(chan struct{})
}

// wantExactly waits until the picture is just this.
func (p *picture) wantExactly(t *testing.T, keys ...key.NodePublic) {
	t.Helper()
	want := map[key.NodePublic]bool{}
	for _, k := range keys {
		want[k] = true
	}
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		done, more := maps.Equal(p.there, want), p.more
		odd, have := p.odd, len(p.there)
		p.mu.Unlock()
		if len(odd) > 0 {
			t.Fatalf("%s was told %d odd things, the first: %s", p.name, len(odd), odd[0])
		}
		if done {
			return
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("%s sees %d clients after %v, not the %d there are", p.name, have, patience, len(want))
		}
	}
}

// Two thousand clients come and go, a few at a time; watchers that were there
// before, came meanwhile and come after all see the same few that stay.
func TestWatchLoopChurn(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		const total, stay = 2000, 20
		r := startTarget(t, options{workers: workers, mesh: true})
		before, k1 := watchLoop(t, r, "before", on(0))
		before.wantExactly(t, k1)

		stayed := churn(t, r, total/2, stay/2)
		during, k2 := watchLoop(t, r, "during", on(1), via(r.serves(tls6, plain4)[0]))
		stayed = append(stayed, churn(t, r, total/2, stay/2)...)
		after, k3 := watchLoop(t, r, "after", on(2), via(r.serves(tls4, plain4)[0]))

		want := []key.NodePublic{k1, k2, k3}
		for _, c := range stayed {
			want = append(want, c.key)
		}
		last := connect(t, r, "last", on(1))
		want = append(want, last.key)
		for _, p := range []*picture{before, during, after} {
			p.wantExactly(t, want...)
		}
		for _, c := range stayed {
			c.close()
		}
		for _, p := range []*picture{before, during, after} {
			p.wantExactly(t, k1, k2, k3, last.key)
		}
	})
}

// The worker of a watcher dies, and nginx reloads: the loop comes back by itself
// and sees just who is there.
func TestWatchLoopAgain(t *testing.T) {
	oursOnly(t, "it is but one process")
	t.Parallel() // the loop waits for 5 s before it tries again
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		t.Parallel()
		r := startNginx(t, options{workers: workers, mesh: true})
		p, k := watchLoop(t, r, "w", on(0), via(tls4))
		leaves, c := connect(t, r, "leaves", on(0)), connect(t, r, "c", on(1))
		p.wantExactly(t, k, leaves.key, c.key)
		r.reload(t)
		p.fails.Store(true)
		r.killRetired(t, 0)
		leaves.wantEnd(t)
		want := []key.NodePublic{k}
		if workers > 1 {
			want = append(want, c.key)
		}
		for i := range 2 {
			want = append(want, connect(t, r, fmt.Sprint("after ", i), on(i)).key)
		}
		p.wantExactly(t, want...)
	})
}

// churn connects and disconnects this many clients, and leaves some of them.
func churn(t *testing.T, r *relay, total, stay int) []*client {
	t.Helper()
	ways := r.serves(plain4, plain6, tls4)
	turns := make(chan int, total)
	for i := range total {
		turns <- i
	}
	close(turns)
	var mu sync.Mutex
	var stayed []*client
	var coming sync.WaitGroup
	for range 8 {
		coming.Go(func() {
			for i := range turns {
				c, err := tryConnect(r, fmt.Sprintf("churn%d", i), via(ways[i%len(ways)]))
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				if i%(total/stay) != 0 {
					c.close()
					continue
				}
				mu.Lock()
				stayed = append(stayed, c)
				mu.Unlock()
			}
		})
	}
	coming.Wait()
	for _, c := range stayed {
		t.Cleanup(c.close)
	}
	return stayed
}
