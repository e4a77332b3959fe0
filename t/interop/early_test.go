package interop

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// TLS early data can be replayed by anybody who recorded it, without any key.  So
// nobody is upgraded before the handshake is complete, and anybody is after that,
// on the same connection.  Go's TLS sends no early data, openssl does.
func TestEarlyData(t *testing.T) {
	oursOnly(t, "it takes no early data")
	r := startNginx(t, options{
		workers: 2, mesh: true,
		inHTTP:     "ssl_early_data on;",
		inLocation: "access_log access.log;",
	})
	w := connect(t, r, "w", watching, byHand)
	w.want(t, present(w, meshPeer))
	keepSession(t, r)

	slow, fast := key.NewNode(), key.NewNode()
	first := newFirstFlight(t, r.addr(tls4))
	early := startEarly(t, r, first.addr, []byte(upgradeTo("/derp?slow", "")))
	early.awaitOutput(t, "HTTP/1.1 425 ")
	close(first.release)
	early.write(t, fastStart(t, w, "/derp?late", slow))
	m, ok := w.next(t, "the presence of a client").(derp.PeerPresentMessage)
	if !ok || m.Key != slow.Public() {
		t.Fatalf("after the handshake w received %s", describe(m))
	}
	early.stop()
	w.want(t, derp.PeerGoneMessage{Peer: slow.Public()})

	first = newFirstFlight(t, r.addr(tls4))
	startEarly(t, r, first.addr, fastStart(t, w, "/derp?fast", fast)).awaitEnd(t)
	replay(t, r.addr(tls4), <-first.recorded)
	fence(t, w, w)
	if log := readFile(t, r.path("access.log")); strings.Count(log, `"GET /derp?slow HTTP/1.1" 425 `) != 1 ||
		strings.Count(log, `"GET /derp?late HTTP/1.1" 101 `) != 1 ||
		strings.Count(log, `"GET /derp?fast HTTP/1.1" 425 0 `) != 2 {
		t.Errorf("the access log is\n%s", log)
	}
}

func upgradeTo(path, header string) string {
	return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n%s\r\n", path, header)
}

// fastStart is the first flight of a client: the request, and ClientInfo.
func fastStart(t *testing.T, w *client, path string, priv key.NodePrivate) []byte {
	t.Helper()
	server := w.conn.(*handConn).ServerPublicKey()
	info := priv.Public().AppendTo(nil)
	info = append(info, priv.SealTo(server, []byte(`{"version":2}`))...)
	flight := bytes.NewBufferString(upgradeTo(path, "Derp-Fast-Start: 1\r\n"))
	bw := bufio.NewWriter(flight)
	if err := derp.WriteFrame(bw, derp.FrameClientInfo, info); err != nil {
		t.Fatal(err)
	}
	bw.Flush()
	return flight.Bytes()
}

// keepSession makes one TLS connection, and keeps its session for others.
func keepSession(t *testing.T, r *relay) {
	t.Helper()
	c := startOpenSSL(t, r, r.addr(tls4), "-sess_out", r.path("session.pem"))
	c.write(t, []byte("GET /derp/probe HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n"))
	c.awaitEnd(t)
}

// An opensslClient is a process of "openssl s_client".
type opensslClient struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *journal
	done chan struct{}
}

// startEarly resumes the session, with data that goes before the handshake.
func startEarly(t *testing.T, r *relay, addr string, data []byte) *opensslClient {
	t.Helper()
	writeFile(t, r.path("early"), string(data), 0o644)
	return startOpenSSL(t, r, addr, "-sess_in", r.path("session.pem"), "-early_data", r.path("early"))
}

func startOpenSSL(t *testing.T, r *relay, addr string, args ...string) *opensslClient {
	t.Helper()
	c := &opensslClient{done: make(chan struct{})}
	c.cmd = exec.Command("openssl", append([]string{"s_client", "-connect", addr, "-tls1_3", "-quiet"}, args...)...)
	var err error
	if c.out, err = newJournal(r.path("openssl.log")); err != nil {
		t.Fatal(err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.out.follow(out)
		c.cmd.Wait()
		close(c.done)
	}()
	t.Cleanup(c.stop)
	return c
}

func (c *opensslClient) write(t *testing.T, data []byte) {
	t.Helper()
	if _, err := c.in.Write(data); err != nil {
		t.Fatalf("openssl takes no input: %v", err)
	}
}

func (c *opensslClient) awaitOutput(t *testing.T, text string) {
	t.Helper()
	c.out.awaitLine(t, 0, text)
}

func (c *opensslClient) awaitEnd(t *testing.T) {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		t.Fatalf("openssl is still connected after %v, and has got\n%s", patience, c.out.tail(10))
	}
}

func (c *opensslClient) stop() {
	c.cmd.Process.Kill()
	<-c.done
}

// A firstFlight passes one connection on to the relay: what the client sends
// before it has any answer at once, and all else only when it is released, since
// the handshake must not be complete by chance.
type firstFlight struct {
	addr     string
	recorded chan []byte   // what was sent at once
	release  chan struct{} // to be closed
}

func newFirstFlight(t *testing.T, target string) *firstFlight {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	f := &firstFlight{ln.Addr().String(), make(chan []byte, 1), make(chan struct{})}
	go func() {
		defer close(f.recorded)
		in, err := ln.Accept()
		if err != nil {
			return
		}
		defer in.Close()
		out, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		defer out.Close()
		data, err := readFirstFlight(in)
		if err != nil {
			return
		}
		f.recorded <- data
		out.Write(data)
		go func() {
			<-f.release
			splice(out, in)
		}()
		splice(in, out)
	}()
	return f
}

// readFirstFlight reads TLS records up to the first of application data.
func readFirstFlight(in io.Reader) (flight []byte, err error) {
	const applicationData = 23
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(in, head); err != nil {
			return nil, err
		}
		body := make([]byte, int(head[3])<<8|int(head[4]))
		if _, err := io.ReadFull(in, body); err != nil {
			return nil, err
		}
		flight = append(append(flight, head...), body...)
		if head[0] == applicationData {
			return flight, nil
		}
	}
}

// replay sends what was recorded again, as somebody who knows no key can, and
// waits for the relay to close the connection.
func replay(t *testing.T, addr string, flight []byte) {
	t.Helper()
	if len(flight) == 0 {
		t.Fatal("nothing was recorded")
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(flight); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, conn); err != nil && os.IsTimeout(err) {
		t.Fatalf("what is replayed is not refused")
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
