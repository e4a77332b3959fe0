package interop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A transport is one of the ways in which a client reaches the relay.
type transport struct {
	tls bool
	ip6 bool
}

var (
	plain4 = transport{}
	plain6 = transport{ip6: true}
	tls4   = transport{tls: true}
	tls6   = transport{tls: true, ip6: true}

	transports = []transport{plain4, plain6, tls4, tls6}
)

func (tr transport) String() string {
	name := "plain"
	if tr.tls {
		name = "tls"
	}
	if tr.ip6 {
		return name + "6"
	}
	return name + "4"
}

func (tr transport) scheme() string {
	if tr.tls {
		return "https"
	}
	return "http"
}

func (tr transport) host() string {
	if tr.ip6 {
		return "::1"
	}
	return "127.0.0.1"
}

// reserveAddr finds a free port and keeps it for the whole test, so that a
// server may be restarted on it, or named to another before it runs.  A socket
// bound but not listening keeps everyone else away, except who binds to that
// very port with SO_REUSEADDR, as nginx and Go do.
func reserveAddr(t testing.TB, tr transport) string {
	t.Helper()
	family, any := syscall.AF_INET, syscall.Sockaddr(&syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if tr.ip6 {
		family, any = syscall.AF_INET6, &syscall.SockaddrInet6{Addr: [16]byte{15: 1}}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, any); err != nil {
		t.Fatalf("no port on %s: %v", tr.host(), err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	var port int
	switch sa := name.(type) {
	case *syscall.SockaddrInet4:
		port = sa.Port
	case *syscall.SockaddrInet6:
		port = sa.Port
	}
	return net.JoinHostPort(tr.host(), fmt.Sprint(port))
}

// peerName is a name that only a test's own name server knows.
const peerName = "peer.test"

// A certificate is self-signed, as that of many a relay without a name is.
type certificate struct {
	certPEM, keyPEM string
	pool            *x509.CertPool
	pair            tls.Certificate
	rawHash         string // as in a DERPNode's CertName
}

// sharedCert is the certificate of every server of this run.
var sharedCert = sync.OnceValue(newCertificate)

func newCertificate() *certificate {
	c, err := makeCertificate()
	if err != nil {
		panic(err) // the machine has no randomness: nothing can be tested
	}
	return c
}

func makeCertificate() (*certificate, error) { return issueCertificate(nil) }

// newChain is a certificate with so many others between it and its root.
func newChain(between int) (root, leaf *certificate) {
	root = newCertificate()
	issuer := root
	for range between + 1 {
		c, err := issueCertificate(issuer)
		if err != nil {
			panic(err)
		}
		if issuer != root {
			c.pair.Certificate = append(c.pair.Certificate, issuer.pair.Certificate...)
		}
		issuer = c
	}
	return root, issuer
}

// issueCertificate makes one that the issuer has signed, or else it itself.
func issueCertificate(issuer *certificate) (*certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: fmt.Sprint("ngx_derp interop ", rand.Text())},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:                  true,
		BasicConstraintsValid: true,
		DNSNames:              []string{"localhost", peerName},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	parent, signer := tmpl, crypto.PrivateKey(key)
	if issuer != nil {
		parent, signer = issuer.pair.Leaf, issuer.pair.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return packCertificate(der, keyDER)
}

func packCertificate(der, keyDER []byte) (*certificate, error) {
	c := &certificate{
		certPEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		keyPEM:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
		pool:    x509.NewCertPool(),
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	c.pool.AddCert(leaf)
	sum := sha256.Sum256(der)
	c.rawHash = "sha256-raw:" + hex.EncodeToString(sum[:])
	c.pair, err = tls.X509KeyPair([]byte(c.certPEM), []byte(c.keyPEM))
	return c, err
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// A cable is a TCP proxy that a test can cut and mend.
type cable struct {
	addr, target string

	mu    sync.Mutex
	ln    net.Listener // nil while cut
	conns map[net.Conn]bool
}

func newCable(t testing.TB, target string) *cable {
	t.Helper()
	c := &cable{addr: reserveAddr(t, plain4), target: target, conns: map[net.Conn]bool{}}
	c.mend(t)
	t.Cleanup(c.cut)
	return c
}

func (c *cable) mend(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("tcp", c.addr)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.ln = ln
	c.mu.Unlock()
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			go c.carry(ln, in)
		}
	}()
}

// cut ends all connections, and refuses others until mended.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ln == nil {
		return
	}
	c.ln.Close()
	c.ln = nil
	for conn := range c.conns {
		conn.Close()
	}
	clear(c.conns)
}

func (c *cable) carry(ln net.Listener, in net.Conn) {
	out, err := net.Dial("tcp", c.target)
	if err != nil {
		in.Close()
		return
	}
	c.mu.Lock()
	if c.ln != ln { // cut since it was accepted
		c.mu.Unlock()
		in.Close()
		out.Close()
		return
	}
	c.conns[in], c.conns[out] = true, true
	c.mu.Unlock()

	var other sync.WaitGroup
	other.Go(func() { splice(in, out) })
	splice(out, in)
	other.Wait()
	in.Close()
	out.Close()
	c.mu.Lock()
	delete(c.conns, in)
	delete(c.conns, out)
	c.mu.Unlock()
}

// splice copies one way; its end is passed on, its failure ends the other too.
func splice(dst, src net.Conn) {
	if _, err := io.Copy(dst, src); err == nil {
		dst.(*net.TCPConn).CloseWrite()
		return
	}
	dst.Close()
	src.Close()
}
