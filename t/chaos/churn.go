package interop

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"tailscale.com/derp"
)

// A churn is clients that log in, send each other a packet, and leave, over and
// over, whatever becomes of their connections: they keep the registry busy.
type churn struct {
	s      *server
	gate   sync.RWMutex // held to keep everyone out
	stop   chan struct{}
	busy   sync.WaitGroup
	logins atomic.Int64
}

func newChurn(t *testing.T, s *server, n int) *churn {
	c := &churn{s: s, stop: make(chan struct{})}
	for i := range n {
		c.busy.Go(func() { c.run(i) })
	}
	t.Cleanup(c.end)
	return c
}

func (c *churn) end() {
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	c.busy.Wait()
}

func (c *churn) run(i int) {
	ignore := handled(func(derp.ReceivedMessage) {})
	for {
		select {
		case <-c.stop:
			return
		default:
		}
		c.gate.RLock()
		// A worker that dies takes its connections along: that is none
		// of our business here.
		if m, err := tryConnect(c.s.relay, fmt.Sprint("churn ", i), via(transports[i%2]), ignore); err == nil {
			m.conn.Send(m.key, []byte("to myself"))
			m.close()
			c.logins.Add(1)
		}
		c.gate.RUnlock()
	}
}

// pause returns when all have left.
func (c *churn) pause()  { c.gate.Lock() }
func (c *churn) resume() { c.gate.Unlock() }
