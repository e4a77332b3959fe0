package interop

import (
	"fmt"
	"testing"
	"time"

	"tailscale.com/types/key"
)

// Reloads that change what relays there are, and what they are.
func TestChanges(t *testing.T) {
	f := rounds(t, 3, 1, 10)
	s := start(t, conf{workers: 2, shared: true})
	tr := newTraffic(t, s, 40, 50*time.Millisecond)
	for f.more() {
		addAndRemove(t, s)
		removeAndAdd(t, s)
		changeZone(t, s)
		changeKey(t, s, f.rounds)
		rejoin(t, tr, f.rounds, 3)
		tr.settle()
	}
	f.note("%d times a relay added, removed, and added again, a zone's size refused, a key changed; %d packets of others' meanwhile",
		f.rounds, tr.delivered.Load())
}

// addAndRemove adds a relay, which knows nothing of the other one, and removes
// it: who is there stays, and nobody else gets in.
func addAndRemove(t *testing.T, s *server) {
	t.Helper()
	first := connect(t, s.relay, "on the first relay")
	others := s.conf.inHTTP
	second, addr := *s.relay, reserveAddr(t, plain4)
	second.addrs = map[transport]string{plain4: addr}
	s.conf.inHTTP = others + fmt.Sprintf(`
    derp_relay second { zone 8m; key_file %s; }
    server { listen %s; location /derp { derp second; } }
`, s.path("second.key"), addr)
	s.reload(t)
	a, b := connect(t, &second, "a on the second"), connect(t, &second, "b on the second")
	everyPairOf(t, a, b)
	a.send(t, first.key, discoPacket())
	a.want(t, notHere(first.key))

	s.conf.inHTTP = others + fmt.Sprintf("server { listen %s; return 404; }", addr)
	s.reload(t)
	everyPairOf(t, a, b)
	if _, err := tryConnect(&second, "a late one"); err == nil {
		t.Error("a relay that was removed takes clients")
	}
	b.close()
	a.want(t, gone(b))
	a.close()
	first.close()
	s.conf.inHTTP = others
	s.reload(t)
}

// removeAndAdd takes a relay out of the configuration and puts it back while
// old workers still have its clients: these stay with each other, and the new
// ones have a registry of their own.
func removeAndAdd(t *testing.T, s *server) {
	t.Helper()
	others := s.conf.inHTTP
	second, addr := *s.relay, reserveAddr(t, plain4)
	second.addrs = map[transport]string{plain4: addr}
	with := others + fmt.Sprintf(`
    derp_relay again { zone 8m; key_file %s; }
    server { listen %s; location /derp { derp again; } }
`, s.path("again.key"), addr)
	without := others + fmt.Sprintf("server { listen %s; return 404; }", addr)

	s.conf.inHTTP = with
	s.reload(t)
	a, b := connect(t, &second, "a from before"), connect(t, &second, "b from before")
	s.conf.inHTTP = without
	s.reload(t)
	s.conf.inHTTP = with
	s.reload(t)
	c, d := connect(t, &second, "c from after"), connect(t, &second, "d from after")
	everyPairOf(t, a, b)
	everyPairOf(t, c, d)
	a.send(t, c.key, discoPacket())
	a.want(t, notHere(c.key))
	c.send(t, a.key, discoPacket())
	c.want(t, notHere(a.key))
	if serverKey(t, a) != serverKey(t, c) {
		t.Error("a relay that was added again has another key")
	}
	a.close()
	b.want(t, gone(a))
	c.close()
	d.want(t, gone(c))
	b.close()
	d.close()
	s.conf.inHTTP = others
	s.reload(t)
}

func everyPairOf(t *testing.T, all ...*client) {
	t.Helper()
	for _, a := range all {
		for _, b := range all {
			fence(t, a, b)
		}
	}
}

func changeZone(t *testing.T, s *server) {
	t.Helper()
	s.allow(`\[emerg\].* the zone of derp_relay "main" cannot be changed`)
	size := s.conf.zone
	s.conf.zone = "65m"
	s.reloadRefused(t, "restart nginx")
	s.conf.zone = size
	a, b := connect(t, s.relay, "a", on(0)), connect(t, s.relay, "b", on(1))
	everyPairOf(t, a, b)
	s.reload(t)
	c := connect(t, s.relay, "c")
	everyPairOf(t, a, b, c)
}

// changeKey gives the relay another key: those who come see it, those who are
// there stay, and they reach each other.
func changeKey(t *testing.T, s *server, round int) {
	t.Helper()
	a := connect(t, s.relay, "of the old key")
	before := serverKey(t, a)
	s.conf.keyFile = s.path(fmt.Sprintf("derp-%d.key", round))
	s.reload(t)
	b := connect(t, s.relay, "of the new key")
	if after := serverKey(t, b); after == before {
		t.Error("after a change of the key a new client sees the old one")
	}
	everyPairOf(t, a, b)
	a.close()
	b.want(t, gone(a))
	b.close()
}

func serverKey(t *testing.T, c *client) key.NodePublic {
	t.Helper()
	return c.http.ServerPublicKey()
}
