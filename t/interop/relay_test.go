package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

var workerCounts = []int{1, 2, 4}

// forTransports runs a test over each transport, each with a relay of its own
// where that is derper, which serves but one.
func forTransports(t *testing.T, o options, f func(t *testing.T, r *relay, tr transport)) {
	var shared *relay
	if !targetIsDerper {
		shared = startTarget(t, o)
	}
	for _, tr := range transports {
		t.Run(tr.String(), func(t *testing.T) {
			r := shared
			if r == nil {
				o.via = tr
				r = startTarget(t, o)
			}
			f(t, r, tr)
		})
	}
}

// Every size there is crosses in both directions, between any two workers.
func TestSizes(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		forTransports(t, options{workers: workers}, func(t *testing.T, r *relay, tr transport) {
			a := connect(t, r, "a", via(tr), on(0))
			for i := range workers {
				b := connect(t, r, fmt.Sprintf("b%d", i), via(tr), on(i))
				for _, size := range []int{0, 1, 1400, derp.MaxPacketSize} {
					delivers(t, a, b, payload(uint64(size), size))
					delivers(t, b, a, payload(uint64(size)+1, size))
				}
			}
			delivers(t, a, a, []byte("to itself"))
		})
	})
}

// One byte more than a packet may have ends that connection alone.
func TestOversize(t *testing.T) {
	r := startTarget(t, options{workers: 2})
	a, b := connect(t, r, "a", on(0)), connect(t, r, "b", on(1))

	raw := connect(t, r, "raw", byHand, on(0))
	if err := raw.conn.Send(a.key, make([]byte, derp.MaxPacketSize+1)); err == nil {
		t.Error("the official client sends 65,537 bytes: this test knows it otherwise")
	}
	raw.sync(t)
	body := a.key.AppendTo(nil)
	body = append(body, make([]byte, derp.MaxPacketSize+1)...)
	// The relay may close before it has read all, and that is its right.
	derp.WriteFrame(raw.conn.(*handConn).bw, derp.FrameSendPacket, body)
	raw.wantEnd(t)

	fence(t, a, b)
	fence(t, b, a)
}

func TestPing(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		forTransports(t, options{workers: workers}, func(t *testing.T, r *relay, tr transport) {
			c := connect(t, r, "c", via(tr))
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := c.http.Ping(ctx); err != nil {
				t.Fatalf("derphttp's Ping: %v", err)
			}
			for range 10 {
				c.sync(t)
			}
		})
	})
}

// Later clients may say more in a ping; the answer is its first 8 bytes.
func TestLongPing(t *testing.T) {
	r := startTarget(t, options{})
	c := connect(t, r, "c", byHand)
	body := payload(1, 1000)
	c.frame(t, derp.FramePing, body)
	c.want(t, derp.PongMessage(body[:8]))
	c.frame(t, derp.FramePing, payload(2, 1001))
	c.wantEnd(t)
}

func TestNotePreferred(t *testing.T) {
	forTransports(t, options{workers: 2}, func(t *testing.T, r *relay, tr transport) {
		c := connect(t, r, "c", via(tr))
		for _, home := range []bool{true, false, true} {
			c.http.NotePreferred(home)
			c.sync(t)
		}
		delivers(t, c, c, []byte("still in"))
	})
}

// What a later version may send is read past.
func TestUnknownFrame(t *testing.T) {
	r := startTarget(t, options{})
	c := connect(t, r, "c", byHand)
	for _, size := range []int{0, 1, 100_000} {
		c.frame(t, derp.FrameType(0x7f), payload(uint64(size), size))
		c.sync(t)
	}
}

// A region's client finds the way by a DERPMap, as tailscaled does, and trusts
// the certificate by its hash.
func TestRegionClient(t *testing.T) {
	forWorkers(t, []int{2}, func(t *testing.T, workers int) {
		for _, tr := range []transport{tls4, tls6} {
			t.Run(tr.String(), func(t *testing.T) {
				r := startTarget(t, options{workers: workers, via: tr})
				a, b := regionClient(t, r, tr), regionClient(t, r, tr)
				want := payload(7, 1400)
				if err := a.Send(b.SelfPublicKey(), want); err != nil {
					t.Fatal(err)
				}
				got := receivePacket(t, b)
				if !bytes.Equal(got.Data, want) || got.Source != a.SelfPublicKey() {
					t.Errorf("received %s", describe(got))
				}
			})
		}
	})
}

func regionClient(t *testing.T, r *relay, tr transport) *derphttp.Client {
	t.Helper()
	_, port, _ := net.SplitHostPort(r.addr(tr))
	node := &tailcfg.DERPNode{
		Name: "1a", RegionID: 1, HostName: tr.host(), IPv4: "none", IPv6: "none",
		CertName: sharedCert().rawHash,
	}
	node.DERPPort, _ = strconv.Atoi(port)
	if tr.ip6 {
		node.IPv6 = tr.host()
	} else {
		node.IPv4 = tr.host()
	}
	region := &tailcfg.DERPRegion{RegionID: 1, RegionCode: "here", Nodes: []*tailcfg.DERPNode{node}}
	c := derphttp.NewRegionClient(key.NewNode(), logger.Discard, netmon.NewStatic(),
		func() *tailcfg.DERPRegion { return region })
	t.Cleanup(func() { c.Close() })
	m, err := c.Recv() // connects, too
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := m.(derp.ServerInfoMessage); !ok {
		t.Fatalf("the first message is %s", describe(m))
	}
	return c
}

func receivePacket(t *testing.T, c *derphttp.Client) derp.ReceivedPacket {
	t.Helper()
	for {
		m, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := m.(derp.ReceivedPacket); ok {
			return p
		}
	}
}

// serverKey is the key by which the relay introduces itself.
func serverKey(t *testing.T, r *relay) key.NodePublic {
	t.Helper()
	c := connect(t, r, "asker", byHand, via(r.anyTransport()))
	defer c.close()
	return c.conn.(*handConn).ServerPublicKey()
}

// All workers have one key, and a restart has the same.
func TestServerKey(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startTarget(t, options{name: "first", workers: workers})
		first := serverKey(t, r)
		for i := range workers {
			c := connect(t, r, "c", on(i))
			if k := c.http.ServerPublicKey(); k != first {
				t.Errorf("worker %d has another key", i)
			}
		}
		again := startTarget(t, options{name: "again", workers: workers, keyFile: r.keyFile()})
		if k := serverKey(t, again); k != first {
			t.Error("another key after a restart")
		}
	})
}

// Who comes from derper keeps the key, in the file that derper made.
func TestDerperKeyFile(t *testing.T) {
	oursOnly(t, "it is derper's own file")
	d := startDerper(t, options{name: "derper"})
	r := startNginx(t, options{keyFile: d.keyFile()})
	if got, want := serverKey(t, r), serverKey(t, d); got != want {
		t.Errorf("the server's key is %v, derper's was %v", got, want)
	}
	var file struct{ PrivateKey key.NodePrivate }
	text, err := os.ReadFile(d.keyFile())
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err != nil || file.PrivateKey.IsZero() {
		t.Errorf("derper's key file is no longer what it was: %v", err)
	}
}

// Many connect at once, on whichever worker.
func TestConnectStorm(t *testing.T) {
	r := startTarget(t, options{workers: 2})
	const n = 100
	all := make([]*client, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { all[i], errs[i] = tryConnect(r, fmt.Sprint(i)) })
	}
	wg.Wait()
	for i := range n {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		t.Cleanup(all[i].close)
	}
	for i := range n {
		fence(t, all[i], all[(i+1)%n])
	}
}
