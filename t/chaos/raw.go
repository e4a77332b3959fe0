package interop

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"tailscale.com/derp"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// A raw client is one of which a test sends and reads each byte itself.
type raw struct {
	net.Conn
	br   *bufio.Reader
	derp *derp.Client // once it is logged in
	priv key.NodePrivate
	key  key.NodePublic
}

// dialRaw connects without TLS, with a receive buffer of so many bytes if that
// is not 0, from the network of process ns if that is not 0.
func dialRaw(addr string, rcvbuf, ns int) (net.Conn, error) {
	return dialRawFor(patience, addr, rcvbuf, ns)
}

func dialRawFor(wait time.Duration, addr string, rcvbuf, ns int) (net.Conn, error) {
	d := net.Dialer{Timeout: wait, Control: func(_, _ string, c syscall.RawConn) (err error) {
		c.Control(func(fd uintptr) {
			if rcvbuf > 0 {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, rcvbuf)
			}
		})
		return err
	}}
	if ns == 0 {
		return d.DialContext(context.Background(), "tcp4", addr)
	}
	// The socket is of the network that the thread is in.
	runtime.LockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer here.Close()
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", ns))
	if err != nil {
		return nil, err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), syscall.CLONE_NEWNET); err != nil {
		return nil, err
	}
	conn, err := d.DialContext(context.Background(), "tcp4", addr)
	if err := unix.Setns(int(here.Fd()), syscall.CLONE_NEWNET); err != nil {
		return nil, err // and the thread ends with the goroutine
	}
	runtime.UnlockOSThread()
	return conn, err
}

// switchProtocols asks for DERP, and returns what follows the answer.
func switchProtocols(conn net.Conn) (*bufio.Reader, error) {
	io.WriteString(conn, "GET /derp HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n")
	br := bufio.NewReaderSize(conn, 512)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("the answer is %s", resp.Status)
	}
	return br, nil
}

// loginRaw logs a client in, if it gets an answer before long.
func loginRaw(addr string, rcvbuf, ns int, wait time.Duration) (*raw, error) {
	conn, err := dialRawFor(wait, addr, rcvbuf, ns)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(wait))
	priv := key.NewNode()
	r := &raw{Conn: conn, priv: priv, key: priv.Public()}
	if err := r.login(); err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	nameKey(r.key, "raw client")
	return r, nil
}

func (r *raw) login() (err error) {
	if r.br, err = switchProtocols(r.Conn); err != nil {
		return err
	}
	r.derp, err = derp.NewClient(r.priv, r.Conn, bufio.NewReadWriter(r.br, bufio.NewWriterSize(r.Conn, 512)), logger.Discard)
	if err != nil {
		return err
	}
	_, err = r.derp.Recv()
	return err
}

// connectRaw is loginRaw for a test that needs the client.
func connectRaw(t testing.TB, s *server, addr string, rcvbuf, ns int) *raw {
	t.Helper()
	r, err := loginRaw(addr, rcvbuf, ns, patience)
	if err != nil {
		t.Fatalf("a raw client logs in: %v", err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// wantClosed reads until the relay has closed the connection.
func (r *raw) wantClosed(t testing.TB) {
	t.Helper()
	r.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, r.br); isTimeout(err) {
		t.Errorf("a connection is still open after %v", patience)
	}
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

func newReader(conn net.Conn) *bufio.Reader { return bufio.NewReaderSize(conn, 512) }
