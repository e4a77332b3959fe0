package interop

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go4.org/mem"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// A login is all that a client sends until it is logged in, in one piece and
// made before: as often as it is sent it costs no cryptography here.
type login struct {
	key  key.NodePublic
	text []byte
}

func newLogin(server key.NodePublic, mesh bool) login {
	priv, info := key.NewNode(), `{"version":2}`
	if mesh {
		info = fmt.Sprintf(`{"version":2,"meshKey":"%s"}`, meshSecret())
	}
	body := append(priv.Public().AppendTo(nil), priv.SealTo(server, []byte(info))...)
	text := []byte("GET /derp HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n")
	text = appendFrame(text, derp.FrameClientInfo, body)
	if mesh {
		text = appendFrame(text, derp.FrameWatchConns, nil)
	}
	return login{priv.Public(), text}
}

func appendFrame(b []byte, typ derp.FrameType, body []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, byte(typ)), uint32(len(body)))
	return append(b, body...)
}

// enter logs in, with a receive buffer of so many bytes if that is not 0.
func (l login) enter(addr string, rcvbuf int) (net.Conn, *bufio.Reader, error) {
	return l.enterBy(addr, rcvbuf, nil)
}

// enterBy is enter by TLS, if there is a configuration of it.
func (l login) enterBy(addr string, rcvbuf int, secure *tls.Config) (net.Conn, *bufio.Reader, error) {
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, c syscall.RawConn) (err error) {
		if rcvbuf > 0 {
			c.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, rcvbuf)
			})
		}
		return err
	}}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	if secure != nil {
		conn = tls.Client(conn, secure)
	}
	conn.SetDeadline(time.Now().Add(patience))
	br := bufio.NewReaderSize(conn, 2048)
	if err := l.logIn(conn, br); err != nil {
		conn.Close()
		return nil, nil, err
	}
	conn.SetDeadline(time.Time{})
	return conn, br, nil
}

func (l login) logIn(conn net.Conn, br *bufio.Reader) error {
	if _, err := conn.Write(l.text); err != nil {
		return err
	}
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
	}
	for _, want := range []derp.FrameType{derp.FrameServerKey, derp.FrameServerInfo} {
		n, err := derp.ReadFrameTypeHeader(br, want)
		if err != nil {
			return err
		}
		if _, err := br.Discard(int(n)); err != nil {
			return err
		}
	}
	return nil
}

// A crowded relay is one with many clients, more of which come and go, and a
// second address with sockets that take little at once.
type crowded struct {
	t      *testing.T
	addr   string
	secure string // by TLS
	narrow string
	base   []net.Conn
	keys   map[key.NodePublic]bool // that are there in the end

	mu     sync.Mutex
	logins atomic.Int64
	floods atomic.Int64
	last   login
	done   chan struct{} // closed when nobody comes or goes any more
}

// settleDown logs the clients in that stay.
func (c *crowded) settleDown(server key.NodePublic, n int) {
	var busy sync.WaitGroup
	for range 4 {
		busy.Go(func() {
			for range n / 4 {
				l := newLogin(server, false)
				conn, _, err := l.enter(c.addr, 0)
				if err != nil {
					c.t.Errorf("logging in: %v", err)
					return
				}
				c.mu.Lock()
				c.keys[l.key] = true
				c.base = append(c.base, conn)
				c.mu.Unlock()
			}
		})
	}
	busy.Wait()
}

// comeAndGo logs n clients in and out again, of a few keys in turn; one in two
// is cut off instead of leaving.
func (c *crowded) comeAndGo(server key.NodePublic, n int) {
	const keys, open = 40, 20
	var logins []login
	for range keys {
		logins = append(logins, newLogin(server, false))
	}
	var conns []net.Conn
	leave := func() {
		if rand.IntN(2) == 0 {
			conns[0].(*net.TCPConn).SetLinger(0)
		}
		conns[0].Close()
		conns = conns[1:]
	}
	for i := range n {
		if len(conns) == open {
			leave()
		}
		conn, _, err := logins[i%keys].enter(c.addr, 0)
		if err != nil {
			c.t.Errorf("logging in while others come and go: %v", err)
			break
		}
		conns = append(conns, conn)
		c.logins.Add(1)
	}
	for len(conns) > 0 {
		leave()
	}
}

// A view is what a watcher was told, by frames that it reads itself.
type view struct {
	conn  net.Conn
	key   key.NodePublic
	there map[key.NodePublic]bool
	slow  bool
}

func (c *crowded) watch(l login, slow bool) (*view, *bufio.Reader, error) {
	addr, rcvbuf := c.addr, 0
	var secure *tls.Config
	switch {
	case slow:
		addr, rcvbuf = c.narrow, 4096
	case c.floods.Load()%2 == 0:
		addr, secure = c.secure, &tls.Config{RootCAs: sharedCert().pool, ServerName: tls4.host()}
	}
	conn, br, err := l.enterBy(addr, rcvbuf, secure)
	if err != nil {
		return nil, nil, err
	}
	c.floods.Add(1)
	return &view{conn: conn, key: l.key, there: map[key.NodePublic]bool{}, slow: slow}, br, nil
}

var errOdd = errors.New("odd")

// look takes one frame, in which nothing odd is to be told.
func (v *view) look(br *bufio.Reader) error {
	typ, n, err := derp.ReadFrameHeader(br)
	if err != nil {
		return err
	}
	body, err := br.Peek(int(min(n, 1024)))
	if err != nil {
		return err
	}
	defer br.Discard(int(n))
	if v.slow && br.Buffered() < 100 {
		time.Sleep(poll / 2)
	}
	if typ == derp.FrameKeepAlive {
		return nil
	}
	if n < 33 {
		return fmt.Errorf("%w: a frame of type %#x and %d bytes", errOdd, typ, n)
	}
	k := key.NodePublicFromRaw32(mem.B(body[:32]))
	switch {
	case typ == derp.FramePeerPresent && !v.there[k]:
		v.there[k] = true
	case typ == derp.FramePeerGone && v.there[k] && body[32] == 0:
		delete(v.there, k)
	default:
		return fmt.Errorf("%w: %s in a frame of type %#x, of %d clients", errOdd, k.ShortString(), typ, len(v.there))
	}
	return nil
}

// glance watches again and again, each time for a while after the flood.
func (c *crowded) glance(server key.NodePublic, slow bool) {
	l := newLogin(server, true)
	for {
		select {
		case <-c.done:
			return
		default:
		}
		v, br, err := c.watch(l, slow)
		if err != nil {
			c.t.Errorf("a watcher logs in: %v", err)
			return
		}
		stay := 3 * time.Millisecond
		if slow {
			stay = 50 * time.Millisecond
		}
		v.conn.SetReadDeadline(time.Now().Add(rand.N(stay)))
		for err == nil {
			err = v.look(br)
		}
		v.conn.Close()
		if errors.Is(err, errOdd) {
			c.t.Errorf("a watcher that has just come was told %v", err)
			return
		}
	}
}

// stare watches from some moment until it sees just those who are there in the
// end, the last of whom comes when all others have come or gone.
func (c *crowded) stare(l login, slow bool) {
	time.Sleep(rand.N(2 * time.Second))
	v, br, err := c.watch(l, slow)
	if err != nil {
		c.t.Errorf("a watcher logs in: %v", err)
		return
	}
	c.t.Cleanup(func() { v.conn.Close() }) // the others are not to hear of it before
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-c.done:
			v.conn.SetReadDeadline(time.Now().Add(patience))
		case <-over:
		}
	}()
	for !v.there[c.last.key] || !maps.Equal(v.there, c.keys) {
		if err := v.look(br); err != nil {
			c.t.Errorf("a watcher that sees %d clients, of %d that there are: %v", len(v.there), len(c.keys), err)
			return
		}
	}
	if n := br.Buffered(); n > 0 {
		c.t.Errorf("a watcher that sees just who is there is told more: %d bytes", n)
	}
}

// Twenty thousand clients log in and out while watchers come at any time, some
// by TLS, and some of which read so slowly that it goes on all through their
// flood; and nginx reloads meanwhile.  None is ever told what it was told before,
// or is left with a wrong picture.
func TestWatchFlood(t *testing.T) {
	oursOnly(t, "it tells some things twice")
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		const stay, groups, starers, glancers = 500, 8, 8, 4
		total := 20000
		if workers != 2 {
			total = 4000
		}
		c := &crowded{t: t, narrow: reserveAddr(t, plain4), keys: map[key.NodePublic]bool{}, done: make(chan struct{})}
		reuse := ""
		if workers > 1 {
			reuse = " reuseport"
		}
		r := startNginx(t, options{workers: workers, mesh: true, inHTTP: fmt.Sprintf(
			"server { listen %s sndbuf=8k%s; location /derp { derp main; } }", c.narrow, reuse)})
		c.addr, c.secure = r.addr(plain4), r.addr(tls4)
		server := serverKey(t, r)
		c.settleDown(server, stay)
		t.Cleanup(func() {
			for _, conn := range c.base {
				conn.Close()
			}
		})
		c.last = newLogin(server, false)
		c.keys[c.last.key] = true
		var watchers []login
		for range starers {
			l := newLogin(server, true)
			c.keys[l.key] = true
			watchers = append(watchers, l)
		}

		var churning, glancing, staring sync.WaitGroup
		for i, l := range watchers {
			staring.Go(func() { c.stare(l, i%2 == 0) })
		}
		for i := range glancers {
			glancing.Go(func() { c.glance(server, i%2 == 0) })
		}
		for range groups {
			churning.Go(func() { c.comeAndGo(server, total/groups) })
		}
		for i := range 2 {
			eventually(t, "some to have come", func() bool { return c.logins.Load() > int64((i+1)*total/3) })
			r.reload(t)
		}
		churning.Wait()
		close(c.done)
		glancing.Wait()
		conn, _, err := c.last.enter(c.addr, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		staring.Wait()
		t.Logf("%d logins, %d floods", c.logins.Load(), c.floods.Load())
	})
}
