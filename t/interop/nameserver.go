package interop

import (
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// A nameServer gives the same answer for every name.
type nameServer struct {
	addr  string
	asked chan struct{} // closed at the first question

	mu     sync.Mutex
	answer answer
}

// An answer is addresses of either family, or an error, or none at all.
type answer struct {
	addrs  []string
	rcode  dnsmessage.RCode
	silent bool
}

func newNameServer(t testing.TB, a answer) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{addr: conn.LocalAddr().String(), asked: make(chan struct{})}
	s.set(a)
	var serving sync.WaitGroup
	serving.Go(func() { s.serve(conn) })
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
	})
	return s
}

func (s *nameServer) set(a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = a
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
		if s.reply(&m) {
			if out, err := m.Pack(); err == nil {
				conn.WriteTo(out, from)
			}
		}
		once.Do(func() { close(s.asked) })
	}
}

// reply makes a question its answer, if it is to have one.
func (s *nameServer) reply(m *dnsmessage.Message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Response, m.RecursionAvailable, m.RCode = true, true, s.answer.rcode
	m.Additionals = nil
	q := m.Questions[0]
	for _, text := range s.answer.addrs {
		a := netip.MustParseAddr(text)
		header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: a.As4()}})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return !s.answer.silent
}
