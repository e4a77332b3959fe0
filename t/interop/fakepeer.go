package interop

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go4.org/mem"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// A fakePeer is another relay of the mesh, as far as a link can tell: it takes
// links, announces what the test wants, and shows what is forwarded to it.
type fakePeer struct {
	name string
	priv key.NodePrivate
	addr string
	cert tls.Certificate

	links chan *link
	stop  chan struct{}
	taken func(forward) bool // if it takes a packet, the link does not keep it
	greet func(*link)        // tells each new link what is to be told first
	deaf  atomic.Bool        // answers no pings
	ln    net.Listener
	busy  sync.WaitGroup
}

// A forward is a packet that the relay handed to a mesh peer.
type forward struct {
	src, dst key.NodePublic
	data     []byte
}

// A link is one connection that the relay under test made to a fakePeer.
type link struct {
	peer *fakePeer
	conn net.Conn
	key  key.NodePublic // of the relay that dialled
	info derp.ClientInfo

	mu sync.Mutex
	bw *bufio.Writer

	reading  sync.Mutex // a test that holds it has nothing read
	forwards chan forward
	pings    atomic.Int32
	ended    chan struct{}
}

func newFakePeer(t testing.TB, name string, cert *certificate) *fakePeer {
	t.Helper()
	return newFakePeerAt(t, name, cert, reserveAddr(t, plain4))
}

func newFakePeerAt(t testing.TB, name string, cert *certificate, addr string) *fakePeer {
	t.Helper()
	p := &fakePeer{
		name: name, priv: key.NewNode(), addr: addr, cert: cert.pair,
		links: make(chan *link, 16), stop: make(chan struct{}),
	}
	p.listen(t)
	t.Cleanup(func() {
		close(p.stop)
		p.ln.Close()
		p.busy.Wait()
	})
	return p
}

func (p *fakePeer) listen(t testing.TB) {
	t.Helper()
	tcp, err := net.Listen("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	p.ln = tls.NewListener(tcp, &tls.Config{Certificates: []tls.Certificate{p.cert}})
	p.busy.Go(func() {
		for {
			conn, err := p.ln.Accept()
			if err != nil {
				return
			}
			p.busy.Go(func() { p.serve(conn) })
		}
	})
}

// serve takes one connection; who fails to log in as a mesh peer is dropped,
// and the test that waits for the link says so.
func (p *fakePeer) serve(conn net.Conn) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	l := &link{
		peer: p, conn: conn, bw: bufio.NewWriter(conn),
		forwards: make(chan forward, 1<<16), ended: make(chan struct{}),
	}
	defer close(l.ended)
	conn.SetDeadline(time.Now().Add(patience))
	if err := l.accept(br); err != nil {
		return
	}
	conn.SetDeadline(time.Time{})
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-p.stop:
			conn.Close()
		case <-over:
		}
	}()
	l.read(br)
}

func (l *link) accept(br *bufio.Reader) error {
	req, err := http.ReadRequest(br)
	if err != nil {
		return err
	}
	if req.URL.Path != "/derp" || req.Header.Get("Upgrade") == "" {
		return fmt.Errorf("asked for %v", req.URL)
	}
	if req.Header.Get(derp.FastStartHeader) == "" {
		io.WriteString(l.bw, "HTTP/1.1 101 Switching Protocols\r\n"+
			"Upgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n"+
			"Derp-Public-Key: "+l.peer.priv.Public().UntypedHexString()+"\r\n\r\n")
	}
	greeting := l.peer.priv.Public().AppendTo([]byte(derp.Magic))
	if err := derp.WriteFrame(l.bw, derp.FrameServerKey, greeting); err != nil {
		return err
	}
	if err := l.readInfo(br); err != nil {
		return err
	}
	box := l.peer.priv.SealTo(l.key, []byte(`{"version":2}`))
	return derp.WriteFrame(l.bw, derp.FrameServerInfo, box)
}

func (l *link) readInfo(br *bufio.Reader) error {
	n, err := derp.ReadFrameTypeHeader(br, derp.FrameClientInfo)
	if err != nil {
		return err
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(br, body); err != nil || n < derp.KeyLen {
		return errors.New("no ClientInfo")
	}
	l.key = key.NodePublicFromRaw32(mem.B(body[:derp.KeyLen]))
	msg, ok := l.peer.priv.OpenFrom(l.key, body[derp.KeyLen:])
	if !ok {
		return errors.New("ClientInfo does not open")
	}
	return json.Unmarshal(msg, &l.info)
}

func (l *link) read(br *bufio.Reader) {
	for {
		l.reading.Lock()
		l.reading.Unlock()
		typ, n, err := derp.ReadFrameHeader(br)
		if err != nil {
			return
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(br, body); err != nil {
			return
		}
		switch typ {
		case derp.FrameWatchConns:
			if l.peer.greet != nil {
				l.peer.greet(l)
			}
			l.peer.links <- l
		case derp.FramePing:
			l.pings.Add(1)
			if !l.peer.deaf.Load() {
				l.write(derp.FramePong, body[:8])
			}
		case derp.FrameForwardPacket:
			l.forwarded(body)
		}
	}
}

func (l *link) forwarded(body []byte) {
	f := forward{
		src:  key.NodePublicFromRaw32(mem.B(body[:32])),
		dst:  key.NodePublicFromRaw32(mem.B(body[32:64])),
		data: body[64:],
	}
	if take := l.peer.taken; take == nil || !take(f) {
		l.forwards <- f
	}
}

func (l *link) write(typ derp.FrameType, body []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return derp.WriteFrame(l.bw, typ, body)
}

// awaitLink waits for the relay to link up: for its WatchConns.
func (p *fakePeer) awaitLink(t testing.TB) *link {
	t.Helper()
	select {
	case l := <-p.links:
		if !l.info.MeshKey.Equal(meshKey()) || l.info.Version != derp.ProtocolVersion {
			t.Fatalf("%s got a link without the mesh key, or of version %d", p.name, l.info.Version)
		}
		return l
	case <-time.After(patience):
		t.Fatalf("%s waited %v in vain for a link", p.name, patience)
		return nil
	}
}

// present announces a key as a client of this peer.
func (l *link) present(t testing.TB, k key.NodePublic) {
	t.Helper()
	if err := l.tell(k); err != nil {
		t.Fatalf("%s announces %s: %v", l.peer.name, keyName(k), err)
	}
}

func (l *link) tell(k key.NodePublic) error {
	ip := netip.MustParseAddr("192.0.2.1").As16()
	body := append(k.AppendTo(nil), ip[:]...)
	body = binary.BigEndian.AppendUint16(body, 4242)
	return l.write(derp.FramePeerPresent, append(body, derp.PeerPresentIsRegular))
}

func (l *link) gone(t testing.TB, k key.NodePublic, reason derp.PeerGoneReasonType) {
	t.Helper()
	if err := l.write(derp.FramePeerGone, append(k.AppendTo(nil), byte(reason))); err != nil {
		t.Fatalf("%s takes %s back: %v", l.peer.name, keyName(k), err)
	}
}

// want takes the next packet that is forwarded here.
func (l *link) want(t testing.TB, src *client, dst key.NodePublic, data []byte) {
	t.Helper()
	select {
	case f := <-l.forwards:
		if f.src != src.key || f.dst != dst || !bytes.Equal(f.data, data) {
			t.Fatalf("%s was forwarded %d bytes from %s to %s, want %d from %s to %s",
				l.peer.name, len(f.data), keyName(f.src), keyName(f.dst), len(data), src.name, keyName(dst))
		}
	case <-l.ended:
		t.Fatalf("%s lost its link", l.peer.name)
	case <-time.After(patience):
		t.Fatalf("%s waited %v in vain for a packet from %s", l.peer.name, patience, src.name)
	}
}

// reaches sends until a packet comes by the link, and takes all of them.
func (l *link) reaches(t testing.TB, from *client, dst key.NodePublic) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		from.send(t, dst, fencePacket())
		select {
		case <-l.forwards:
			l.settle(t, from, dst)
			return
		case <-l.ended:
			t.Fatalf("%s lost its link", l.peer.name)
		case <-time.After(2 * poll):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s sent to %s for %v, and nothing reached %s", from.name, keyName(dst), patience, l.peer.name)
		}
	}
}

func (l *link) settle(t testing.TB, from *client, dst key.NodePublic) {
	t.Helper()
	last := fencePacket()
	from.send(t, dst, last)
	for {
		select {
		case f := <-l.forwards:
			if bytes.Equal(f.data, last) {
				return
			}
		case <-time.After(patience):
			t.Fatalf("%s waited %v in vain for the last packet", l.peer.name, patience)
		}
	}
}

// sync returns when the relay has taken in all that was written before: a key
// announced last is the last to be known.
func (l *link) sync(t testing.TB, from *client) {
	t.Helper()
	marker := key.NewNode().Public()
	nameKey(marker, "marker")
	l.present(t, marker)
	l.reaches(t, from, marker)
}
