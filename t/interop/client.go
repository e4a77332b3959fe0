package interop

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// A derpConn is what derphttp.Client and a derp.Client on a connection of its
// own have in common.
type derpConn interface {
	Recv() (derp.ReceivedMessage, error)
	Send(dst key.NodePublic, packet []byte) error
	ForwardPacket(src, dst key.NodePublic, packet []byte) error
	ClosePeer(target key.NodePublic) error
	SendPing(data [8]byte) error
	Close() error
}

// A client is one connection to a relay, read at once and all the time (unless
// it is held), so that what has arrived can be looked at in order.
type client struct {
	name string
	key  key.NodePublic
	conn derpConn

	http  *derphttp.Client // or nil, for a client made by hand
	local netip.AddrPort

	handle func(derp.ReceivedMessage) // in place of the inbox

	mu    sync.Mutex
	inbox []derp.ReceivedMessage
	err   error         // the end of the connection
	more  chan struct{} // closed, and made anew, at each change
	ended chan struct{} // closed when the reader has ended

	closing  chan struct{} // closed when the test closes the connection
	closeOne sync.Once
}

type settings struct {
	via      transport
	worker   int
	priv     key.NodePrivate
	mesh     bool
	watch    bool
	prober   bool
	byHand   bool
	notIdeal bool
	app      string
	held     chan struct{}
	handle   func(derp.ReceivedMessage)
}

// A setting is one thing that is special about a client.
type setting func(*settings)

func via(tr transport) setting        { return func(s *settings) { s.via = tr } }
func on(worker int) setting           { return func(s *settings) { s.worker = worker } }
func as(priv key.NodePrivate) setting { return func(s *settings) { s.priv = priv } }
func inMesh(s *settings)              { s.mesh = true }
func watching(s *settings)            { s.mesh, s.watch = true, true }
func prober(s *settings)              { s.prober = true }

// byHand does the HTTP upgrade here, and so gets at the connection below.
func byHand(s *settings) { s.byHand = true }

// notIdeal names another node as the one that the client would rather be on.
func notIdeal(s *settings) { s.byHand, s.notIdeal = true, true }

// app has the client say what program it is.
func app(name string) setting {
	return func(s *settings) { s.byHand, s.app = true, name }
}

// held reads nothing after login until the channel is closed.
func held(until chan struct{}) setting {
	return func(s *settings) { s.byHand, s.held = true, until }
}

// handled gives what is received to f, in the reader's goroutine.
func handled(f func(derp.ReceivedMessage)) setting {
	return func(s *settings) { s.handle = f }
}

// connect logs a client in; it returns once the relay has answered, from when
// on everyone can reach it.
func connect(t testing.TB, r *relay, name string, opts ...setting) *client {
	t.Helper()
	c, err := tryConnect(r, name, opts...)
	if err != nil {
		t.Fatalf("connecting %s: %v", name, err)
	}
	t.Cleanup(c.close)
	return c
}

func tryConnect(r *relay, name string, opts ...setting) (*client, error) {
	s := settings{via: r.anyTransport(), worker: -1}
	for _, o := range opts {
		o(&s)
	}
	if s.priv.IsZero() {
		s.priv = key.NewNode()
	}
	c := &client{
		name: name, key: s.priv.Public(), handle: s.handle,
		more: make(chan struct{}), ended: make(chan struct{}), closing: make(chan struct{}),
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	open := c.openHTTP
	if s.byHand {
		open = c.openByHand
	}
	if err := open(ctx, r, s); err != nil {
		return nil, err
	}
	nameKey(c.key, name)
	return c, c.login(s)
}

// openHTTP connects as users do, but on a chosen worker and only once: a lost
// connection is for the test to see, not for the client to hide.
func (c *client) openHTTP(ctx context.Context, r *relay, s settings) error {
	dc, err := derphttp.NewClient(s.priv, r.url(s.via), logger.Discard, netmon.NewStatic())
	if err != nil {
		return err
	}
	dc.TLSConfig = &tls.Config{RootCAs: sharedCert().pool}
	dc.IsProber = s.prober
	dc.WatchConnectionChanges = s.watch
	if s.mesh {
		dc.MeshKey = meshKey()
	}
	dialled := false
	dc.SetURLDialer(func(ctx context.Context, _, _ string) (net.Conn, error) {
		if dialled {
			return nil, errors.New("the connection was lost")
		}
		dialled = true
		conn, err := r.connectTCP(ctx, s.via, s.worker)
		if err == nil {
			c.local = addrPort(conn.LocalAddr())
		}
		return conn, err
	})
	if err := dc.Connect(ctx); err != nil {
		dc.Close()
		return err
	}
	c.conn, c.http = dc, dc
	return nil
}

// A handConn is a derp.Client and the connection that it is on.
type handConn struct {
	*derp.Client
	nc net.Conn
	bw *bufio.Writer
}

func (h *handConn) Close() error { return h.nc.Close() }

// frame sends any frame, right or wrong.
func (c *client) frame(t testing.TB, typ derp.FrameType, body []byte) {
	t.Helper()
	h := c.conn.(*handConn)
	if err := derp.WriteFrame(h.bw, typ, body); err != nil {
		t.Fatalf("%s writes a frame of type %#x: %v", c.name, typ, err)
	}
}

func (c *client) openByHand(ctx context.Context, r *relay, s settings) error {
	tcp, err := r.connectTCP(ctx, s.via, s.worker)
	if err != nil {
		return err
	}
	c.local = addrPort(tcp.LocalAddr())
	tcp.SetDeadline(time.Now().Add(patience))
	nc := tcp
	if s.via.tls {
		nc = tls.Client(tcp, &tls.Config{RootCAs: sharedCert().pool, ServerName: s.via.host()})
	}
	h := &handConn{nc: nc, bw: bufio.NewWriter(nc)}
	brw := bufio.NewReadWriter(bufio.NewReader(nc), h.bw)
	if err := upgrade(brw, r.url(s.via), s.notIdeal); err != nil {
		nc.Close()
		return err
	}
	// Two clients on one writer would mix their frames; here, the test's
	// own goroutine does all writing.
	opts := []derp.ClientOpt{derp.IsProber(s.prober)}
	if s.mesh {
		opts = append(opts, derp.MeshKey(meshKey()))
	}
	if s.app != "" {
		opts = append(opts, derp.AppName(s.app))
	}
	h.Client, err = derp.NewClient(s.priv, nc, brw, logger.Discard, opts...)
	if err != nil {
		nc.Close()
		return err
	}
	tcp.SetDeadline(time.Time{})
	c.conn = h
	if s.watch {
		return h.WatchConnectionChanges()
	}
	return nil
}

func upgrade(brw *bufio.ReadWriter, url string, notIdeal bool) error {
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Upgrade", "DERP")
	req.Header.Set("Connection", "Upgrade")
	if notIdeal {
		req.Header.Set(derp.IdealNodeHeader, "another")
	}
	if err := req.Write(brw); err != nil {
		return err
	}
	if err := brw.Flush(); err != nil {
		return err
	}
	resp, err := http.ReadResponse(brw.Reader, req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("the upgrade is answered %s", resp.Status)
	}
	return nil
}

// login reads ServerInfo, the first message, and leaves the rest to read.
func (c *client) login(s settings) error {
	first := make(chan error, 1)
	go func() {
		m, err := c.conn.Recv()
		if _, ok := m.(derp.ServerInfoMessage); err == nil && !ok {
			err = fmt.Errorf("the first message is %s", describe(m))
		}
		first <- err
		if err != nil {
			c.finish(err)
			return
		}
		if s.held != nil {
			select {
			case <-s.held:
			case <-c.closing:
			}
		}
		c.read()
	}()
	select {
	case err := <-first:
		if err != nil {
			c.conn.Close()
		}
		return err
	case <-time.After(patience):
		c.conn.Close()
		return fmt.Errorf("waited %v for ServerInfo", patience)
	}
}

func (c *client) read() {
	for {
		m, err := c.conn.Recv()
		if err != nil {
			c.finish(err)
			return
		}
		switch p := m.(type) {
		case derp.KeepAliveMessage:
			continue // of no interest to any test, and at any time
		case derp.ReceivedPacket:
			if c.handle == nil {
				p.Data = bytes.Clone(p.Data)
				m = p
			}
		}
		if c.handle != nil {
			c.handle(m)
			continue
		}
		c.mu.Lock()
		c.inbox = append(c.inbox, m)
		c.changed()
		c.mu.Unlock()
	}
}

func (c *client) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	close(c.ended)
	c.changed()
}

// changed wakes who waits; c.mu is held.
func (c *client) changed() {
	close(c.more)
	c.more = make(chan struct{})
}

func (c *client) close() {
	c.closeOne.Do(func() { close(c.closing) })
	c.conn.Close()
	<-c.ended
}

// leave says that it will send no more, and waits for the relay to close the
// connection: by then the relay has forgotten it.  For a client made by hand.
func (c *client) leave() error {
	half := c.conn.(*handConn).nc.(interface{ CloseWrite() error })
	if err := half.CloseWrite(); err != nil {
		return err
	}
	select {
	case <-c.ended:
		c.conn.Close()
		return nil
	case <-time.After(patience):
		return fmt.Errorf("%s is still connected after %v", c.name, patience)
	}
}

// next is the next message, for which it waits.
func (c *client) next(t testing.TB, want string) derp.ReceivedMessage {
	t.Helper()
	timeout := time.After(patience)
	for {
		c.mu.Lock()
		if len(c.inbox) > 0 {
			m := c.inbox[0]
			c.inbox = c.inbox[1:]
			c.mu.Unlock()
			return m
		}
		err, more := c.err, c.more
		c.mu.Unlock()
		if err != nil {
			t.Fatalf("%s, waiting for %s, lost its connection: %v", c.name, want, err)
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("%s waited %v in vain for %s", c.name, patience, want)
		}
	}
}

// want takes the next message, which is to be just this.
func (c *client) want(t testing.TB, want derp.ReceivedMessage) {
	t.Helper()
	if got := c.next(t, describe(want)); !same(got, want) {
		t.Fatalf("%s received %s, want %s", c.name, describe(got), describe(want))
	}
}

// await takes messages until one is what is wanted, whatever the others are.
func (c *client) await(t testing.TB, want string, match func(derp.ReceivedMessage) bool) derp.ReceivedMessage {
	t.Helper()
	for {
		if m := c.next(t, want); match(m) {
			return m
		}
	}
}

// pending is what has arrived and not been taken.
func (c *client) pending() []derp.ReceivedMessage {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.inbox
	c.inbox = nil
	return all
}

// wantEnd waits for the relay to close the connection.
func (c *client) wantEnd(t testing.TB) {
	t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		t.Fatalf("%s is still connected after %v", c.name, patience)
	}
}

func (c *client) wantAlive(t testing.TB) {
	t.Helper()
	select {
	case <-c.ended:
		t.Fatalf("%s lost its connection: %v", c.name, c.err)
	default:
	}
}

func (c *client) send(t testing.TB, to key.NodePublic, packet []byte) {
	t.Helper()
	if err := c.conn.Send(to, packet); err != nil {
		t.Fatalf("%s sends to %s: %v", c.name, keyName(to), err)
	}
}

// sync returns when the relay has done all that the client has asked so far:
// it takes what a client sends in order, and answers a ping.
func (c *client) sync(t testing.TB) {
	t.Helper()
	data := pingData()
	if err := c.conn.SendPing(data); err != nil {
		t.Fatalf("%s pings: %v", c.name, err)
	}
	c.want(t, derp.PongMessage(data))
}

func pingData() (data [8]byte) {
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	return data
}

// delivers sends a packet, which is to be the very next message there.
func delivers(t testing.TB, from, to *client, packet []byte) {
	t.Helper()
	from.send(t, to.key, packet)
	to.want(t, derp.ReceivedPacket{Source: from.key, Data: packet})
}

// fence is delivers with a packet unlike any other, which shows that nothing
// that the one sent before it is still on its way to the other.
func fence(t testing.TB, from, to *client) {
	t.Helper()
	delivers(t, from, to, fencePacket())
}

func fencePacket() []byte { return payload(rand.Uint64(), 24) }

// reaches sends until a packet arrives: for a path that comes about, or is
// found out about, without the sender being told.
func reaches(t testing.TB, from, to *client) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		from.send(t, to.key, fencePacket())
		if to.takeFrom(from.key, 10*poll) {
			settle(t, from, to)
			return
		}
		to.wantAlive(t)
		if time.Now().After(deadline) {
			t.Fatalf("%s sent to %s for %v in vain", from.name, to.name, patience)
		}
	}
}

// takeFrom waits a little for a packet from the key, and takes all up to it.
func (c *client) takeFrom(src key.NodePublic, wait time.Duration) bool {
	timeout := time.After(wait)
	for {
		c.mu.Lock()
		for i, m := range c.inbox {
			if p, ok := m.(derp.ReceivedPacket); ok && p.Source == src {
				c.inbox = c.inbox[i+1:]
				c.mu.Unlock()
				return true
			}
		}
		more := c.more
		c.mu.Unlock()
		select {
		case <-more:
		case <-c.ended:
			return false
		case <-timeout:
			return false
		}
	}
}

// settle takes what reaches sent before it knew that a packet had arrived; the
// fence is the last of it.
func settle(t testing.TB, from, to *client) {
	t.Helper()
	last := fencePacket()
	from.send(t, to.key, last)
	to.await(t, "the last packet of "+from.name, func(m derp.ReceivedMessage) bool {
		return same(m, derp.ReceivedPacket{Source: from.key, Data: last})
	})
}

func gone(c *client) derp.PeerGoneMessage {
	return derp.PeerGoneMessage{Peer: c.key, Reason: derp.PeerGoneReasonDisconnected}
}

func notHere(k key.NodePublic) derp.PeerGoneMessage {
	return derp.PeerGoneMessage{Peer: k, Reason: derp.PeerGoneReasonNotHere}
}

// present is what a watcher is told of a client.
func present(c *client, flags derp.PeerPresentFlags) derp.PeerPresentMessage {
	return derp.PeerPresentMessage{Key: c.key, IPPort: c.local, Flags: flags}
}

func same(a, b derp.ReceivedMessage) bool {
	p, isPacket := a.(derp.ReceivedPacket)
	q, ok := b.(derp.ReceivedPacket)
	if isPacket && ok {
		return p.Source == q.Source && bytes.Equal(p.Data, q.Data)
	}
	return !isPacket && !ok && a == b
}

// payload makes a packet whose every byte follows from the seed.
func payload(seed uint64, size int) []byte {
	b := make([]byte, size)
	fill(b, seed)
	return b
}

func fill(b []byte, seed uint64) {
	var s [32]byte
	for i := range 8 {
		s[i] = byte(seed >> (8 * i))
	}
	rand.NewChaCha8(s).Read(b)
}

// discoPacket is one that looks like the clients' discovery messages, on which
// the relay answers if the destination is unknown.
func discoPacket() []byte {
	const discoMagic = "TS💬"
	return append([]byte(discoMagic), payload(rand.Uint64(), 64)...)
}

var keyNames sync.Map // of every key's owner, for messages

func nameKey(k key.NodePublic, name string) { keyNames.Store(k, name) }

func keyName(k key.NodePublic) string {
	if name, ok := keyNames.Load(k); ok {
		return name.(string)
	}
	return k.ShortString()
}

func describe(m derp.ReceivedMessage) string {
	switch m := m.(type) {
	case derp.ReceivedPacket:
		return fmt.Sprintf("a packet of %d bytes from %s: %.16x", len(m.Data), keyName(m.Source), m.Data)
	case derp.PeerGoneMessage:
		return fmt.Sprintf("PeerGone(%s, %d)", keyName(m.Peer), m.Reason)
	case derp.PeerPresentMessage:
		return fmt.Sprintf("PeerPresent(%s, %v, flags %d)", keyName(m.Key), m.IPPort, m.Flags)
	}
	return fmt.Sprintf("%T %v", m, m)
}
