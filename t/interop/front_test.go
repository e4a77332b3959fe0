package interop

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// A reverse proxy in front of the relay lets a client through only if the 101
// names a protocol that the client offered.
func TestReverseProxy(t *testing.T) {
	oursOnly(t, "it names DERP, whatever was offered")
	forWorkers(t, []int{1, 2}, func(t *testing.T, workers int) {
		r := startNginx(t, options{workers: workers})
		relay := &url.URL{Scheme: "http", Host: r.addr(plain4)}
		front := httptest.NewServer(httputil.NewSingleHostReverseProxy(relay))
		t.Cleanup(front.Close)
		addr := front.Listener.Addr().String()

		modern := connectOffering(t, addr, "DERP")
		lower := connectOffering(t, addr, "derp")
		old := connectOffering(t, addr, "websocket") // and means DERP
		capital := connectOffering(t, addr, "WebSocket")
		everyPair(t, modern, lower, old, capital)
	})
}

// connectOffering logs a client in whose request has that in Upgrade.
func connectOffering(t *testing.T, addr, protocol string) *client {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(patience))
	brw := bufio.NewReadWriter(bufio.NewReader(nc), bufio.NewWriter(nc))
	req, err := http.NewRequest("GET", "http://"+addr+"/derp", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Upgrade", protocol)
	req.Header.Set("Connection", "Upgrade")
	req.Write(brw)
	brw.Flush()
	resp, err := http.ReadResponse(brw.Reader, req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("an offer of %q is answered %s", protocol, resp.Status)
	}
	priv := key.NewNode()
	h := &handConn{nc: nc, bw: brw.Writer}
	if h.Client, err = derp.NewClient(priv, nc, brw, logger.Discard); err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Time{})
	c := &client{
		name: protocol, key: priv.Public(), conn: h,
		more: make(chan struct{}), ended: make(chan struct{}), closing: make(chan struct{}),
	}
	nameKey(c.key, protocol)
	if err := c.login(settings{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}
