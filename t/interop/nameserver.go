package interop

import (
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// A nameServer gives one IPv4 address to every name.
type nameServer struct {
	addr  string
	asked chan struct{} // closed at the first question

	mu     sync.Mutex
	answer netip.Addr
}

func newNameServer(t testing.TB, answer string) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{addr: conn.LocalAddr().String(), asked: make(chan struct{})}
	s.set(answer)
	var serving sync.WaitGroup
	serving.Go(func() { s.serve(conn) })
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
	})
	return s
}

func (s *nameServer) set(answer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = netip.MustParseAddr(answer)
}

func (s *nameServer) serve(conn net.PacketConn) {
	var once sync.Once
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		s.reply(&m)
		if out, err := m.Pack(); err == nil {
			conn.WriteTo(out, from)
		}
		once.Do(func() { close(s.asked) })
	}
}

func (s *nameServer) reply(m *dnsmessage.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Response, m.RecursionAvailable = true, true
	m.Additionals = nil
	q := m.Questions[0]
	if q.Type != dnsmessage.TypeA {
		return
	}
	m.Answers = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
		Body:   &dnsmessage.AResource{A: s.answer.As4()},
	}}
}
