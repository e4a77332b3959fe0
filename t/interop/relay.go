package interop

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tailscale.com/types/key"
)

// meshSecret is the pre-shared key of every mesh of this run.
var meshSecret = sync.OnceValue(func() string {
	b := make([]byte, 32)
	rand.Read(b)
	return hex.EncodeToString(b)
})

func meshKey() key.DERPMesh {
	k, err := key.ParseDERPMesh(meshSecret())
	if err != nil {
		panic(err) // it was made just above
	}
	return k
}

// options say how a relay is to be started.
type options struct {
	name     string
	workers  int       // nginx only
	via      transport // derper only, which serves one; nginx serves all four
	mesh     bool      // has the mesh key
	meshWith []string  // host:port of relays to link to, or "self"; implies mesh
	at       string    // the address for tls4, reserved before
	keyFile  string    // of the server's key, else one of its own
	shared   bool      // one listening socket for all workers, whose number changes

	// Lines for nginx.conf, at each level.
	inMain, inHTTP, inRelay, inServer, inLocation string
}

// A relay is what clients connect to: nginx with the module, or derper.
type relay struct {
	name  string
	dir   string
	opts  options
	addrs map[transport]string
	proc  *process

	// nginx only.
	isNginx bool
	workers []int // pids of the present generation
	retired []int // and of all before it
	kills   int   // workers that the test killed itself

	quitting bool
}

// startTarget starts the relay under test.
func startTarget(t testing.TB, o options) *relay {
	t.Helper()
	if targetIsDerper {
		return startDerper(t, o)
	}
	return startNginx(t, o)
}

func newRelay(t testing.TB, o options) *relay {
	t.Helper()
	if len(o.meshWith) > 0 {
		o.mesh = true
	}
	if o.name == "" {
		o.name = "relay"
	}
	r := &relay{name: o.name, dir: workDir(t, o.name), opts: o, addrs: map[transport]string{}}
	cert := sharedCert()
	writeFile(t, r.path("cert.pem"), cert.certPEM, 0o644)
	writeFile(t, r.path("cert.key"), cert.keyPEM, 0o600)
	if o.mesh {
		writeFile(t, r.path("mesh.key"), meshSecret()+"\n", 0o600)
	}
	return r
}

func (r *relay) reserve(t testing.TB, tr transport) {
	t.Helper()
	if tr == tls4 && r.opts.at != "" {
		r.addrs[tr] = r.opts.at
		return
	}
	r.addrs[tr] = reserveAddr(t, tr)
}

func (r *relay) path(name string) string { return filepath.Join(r.dir, name) }

func (r *relay) keyFile() string {
	if r.opts.keyFile != "" {
		return r.opts.keyFile
	}
	return r.path("derp.key")
}

func (r *relay) url(tr transport) string {
	return tr.scheme() + "://" + r.addr(tr) + "/derp"
}

func (r *relay) addr(tr transport) string {
	addr, ok := r.addrs[tr]
	if !ok {
		panic(fmt.Sprintf("%s does not serve %v", r.name, tr))
	}
	return addr
}

// serves are the transports that there are, of those asked for.
func (r *relay) serves(want ...transport) []transport {
	return slices.DeleteFunc(slices.Clone(want), func(tr transport) bool {
		return r.addrs[tr] == ""
	})
}

// anyTransport is one to use where it does not matter.
func (r *relay) anyTransport() transport {
	return r.serves(plain4, tls4, plain6, tls6)[0]
}

// meshAddr is what other relays link to.
func (r *relay) meshAddr() string { return r.addr(tls4) }

func (r *relay) meshTargets() []string {
	targets := slices.Clone(r.opts.meshWith)
	for i, addr := range targets {
		if addr == "self" {
			targets[i] = r.meshAddr()
		}
	}
	return targets
}

// onFailure shows what the relay had to say, once the test has failed.
func (r *relay) onFailure(t testing.TB) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of %s:\n%s", r.path("log"), r.proc.log.tail(30))
		}
	})
}

// connectTCP connects to the relay, and to the wanted one of its workers
// (none: -1) as long as those are told apart.
func (r *relay) connectTCP(ctx context.Context, tr transport, worker int) (net.Conn, error) {
	const tries = 500 // a worker that takes one in four misses all: 1 in 10^62
	for range tries {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", r.addr(tr))
		if err != nil || worker < 0 || !r.isNginx {
			return conn, err
		}
		pid, err := r.acceptedBy(ctx, conn)
		if err != nil {
			conn.Close()
			return nil, err
		}
		if pid == r.workerPid(worker) {
			return conn, nil
		}
		conn.Close()
	}
	return nil, fmt.Errorf("%d connections, none taken by worker %d", tries, worker)
}

func (r *relay) workerPid(i int) int { return r.workers[i%len(r.workers)] }

// acceptedBy asks the kernel which process has the other end of a connection.
func (r *relay) acceptedBy(ctx context.Context, conn net.Conn) (int, error) {
	server, client := addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr())
	deadline := time.Now().Add(patience)
	for {
		inode, err := socketInode(server, client)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return 0, err
		}
		if inode != "" {
			if pid := socketOwner(inode, r.allWorkers()); pid != 0 {
				return pid, nil
			}
		}
		if time.Now().After(deadline) {
			return 0, errors.New("no worker accepted the connection")
		}
		time.Sleep(poll)
	}
}

func (r *relay) allWorkers() []int { return slices.Concat(r.workers, r.retired) }

// startDerper starts the official server, on one transport.
func startDerper(t testing.TB, o options) *relay {
	t.Helper()
	r := newRelay(t, o)
	tr := o.via
	if len(o.meshWith) > 0 {
		tr = tls4 // derper meshes over HTTPS alone
	}
	r.reserve(t, tr)
	// derper looks for the certificate under its own host name.
	host := strings.ReplaceAll(tr.host(), ":", "")
	writeFile(t, r.path(host+".crt"), sharedCert().certPEM, 0o644)
	writeFile(t, r.path(host+".key"), sharedCert().keyPEM, 0o600)
	r.launchDerper(t)
	r.onFailure(t)
	t.Cleanup(func() { r.killDerper(t) })
	return r
}

func (r *relay) launchDerper(t testing.TB) {
	t.Helper()
	bin, err := derperBinary()
	if err != nil {
		t.Fatal(err)
	}
	// Its mesh links trust the system's certificates, which are ours here.
	env := []string{"SSL_CERT_FILE=" + r.path("cert.pem"), "HOME=" + r.dir}
	r.proc, err = startProcess(r.path("log"), env, bin, r.derperArgs()...)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range r.addrs {
		eventually(t, "derper to listen", func() bool {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
}

func (r *relay) derperArgs() []string {
	args := []string{"-c", r.keyFile(), "-stun=false", "-http-port=-1"}
	for tr, addr := range r.addrs {
		args = append(args, "-a", addr)
		if tr.tls {
			args = append(args, "-certmode=manual", "-certdir", r.dir, "-hostname", tr.host())
		}
	}
	if r.opts.mesh {
		args = append(args, "-mesh-psk-file", r.path("mesh.key"))
	}
	if len(r.opts.meshWith) > 0 {
		args = append(args, "-mesh-with", strings.Join(r.meshTargets(), ","))
	}
	return args
}

func (r *relay) killDerper(t testing.TB) {
	t.Helper()
	if r.proc == nil {
		return
	}
	// It keeps nothing, and says no farewell: a kill is as good as a stop.
	if err := r.proc.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("killing derper: %v", err)
	}
	if err := r.proc.awaitExit(); err != nil {
		t.Errorf("derper: %v", err)
	}
}
