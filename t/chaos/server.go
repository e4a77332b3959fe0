package interop

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A conf is a configuration of nginx that can be changed and reloaded.
type conf struct {
	workers     int
	connections int    // worker_connections
	zone        string // of the relay "main"
	keyFile     string
	accessLog   string
	errorLog    string
	shared      bool   // one listening socket for all workers, not one each
	module      string // in place of TEST_DERP_MODULE
	env         []string

	inMain, inHTTP, inRelay, inServer string
}

// A server is an nginx whose configuration changes, and whose workers come and
// go in generations.
type server struct {
	*relay
	conf    conf
	allowed []*regexp.Regexp // lines that its log may hold

	read        int   // lines of the log that census has read
	generations int   // so many reloads are in them
	dead        []int // workers that were killed, since awaitDead
}

func start(t *testing.T, c conf) *server {
	t.Helper()
	s := &server{conf: c, relay: newRelay(t, options{mesh: true, workers: c.workers})}
	s.isNginx = true
	if s.conf.zone == "" {
		s.conf.zone = "64m"
	}
	if s.conf.connections == 0 {
		s.conf.connections = 4096
	}
	for _, tr := range transports {
		s.reserve(t, tr)
	}
	s.configure(t)
	s.launchNginx(t, c.env)
	s.onFailure(t)
	t.Cleanup(func() { s.stop(t) })
	return s
}

func (s *server) configure(t testing.TB) {
	t.Helper()
	writeFile(t, s.path("nginx.conf"), s.config(), 0o644)
}

func (s *server) config() string {
	c := &s.conf
	var b strings.Builder
	if so := or(c.module, os.Getenv("TEST_DERP_MODULE")); so != "" {
		fmt.Fprintf(&b, "load_module %q;\n", so)
	}
	fmt.Fprintf(&b, `
worker_processes %d;
daemon off;
pid nginx.pid;
error_log %s info;
worker_rlimit_core 0;
%s
events {
    worker_connections %d;
    accept_mutex off;
}
http {
    access_log %s;
%s
    ssl_certificate %s;
    ssl_certificate_key %s;
    ssl_protocols TLSv1.2 TLSv1.3;
%s
    derp_relay main {
        zone %s;
        key_file %s;
        mesh_key_file %s;
%s
    }
    server {
`, c.workers, or(c.errorLog, "stderr"), c.inMain, c.connections, or(c.accessLog, "off"), s.tempPaths(),
		s.path("cert.pem"), s.path("cert.key"), c.inHTTP, c.zone,
		or(c.keyFile, s.path("derp.key")), s.path("mesh.key"), c.inRelay)
	for _, tr := range transports {
		fmt.Fprintf(&b, "        listen %s", s.addr(tr))
		if tr.tls {
			b.WriteString(" ssl")
		}
		if !c.shared {
			b.WriteString(" reuseport")
		}
		b.WriteString(";\n")
	}
	fmt.Fprintf(&b, "        location /derp { derp main; }\n"+
		"        location /status { derp_status main; }\n%s\n    }\n}\n", c.inServer)
	return b.String()
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// reload has nginx read its configuration, and returns when the new workers
// are there and the old ones take no more connections.
func (s *server) reload(t testing.TB) {
	t.Helper()
	s.configure(t)
	old, mark := slices.Clone(s.workers), s.proc.log.mark()
	s.proc.signal(t, syscall.SIGHUP)
	s.workers = s.awaitWorkers(t, mark, s.conf.workers)
	s.retired = append(slices.DeleteFunc(s.retired, gonePid), old...)
	err := s.proc.log.await(mark, func(lines []string) bool {
		return countLines(lines, "gracefully shutting down") >= len(old)
	})
	if err != nil {
		t.Fatalf("the old workers do not shut down: %v", err)
	}
}

// reloadRefused asks for a reload, and returns the line that refuses it.
func (s *server) reloadRefused(t testing.TB, text string) {
	t.Helper()
	s.configure(t)
	mark := s.proc.log.mark()
	s.proc.signal(t, syscall.SIGHUP)
	s.proc.log.awaitLine(t, mark, text)
}

func countLines(lines []string, text string) (n int) {
	for _, l := range lines {
		if strings.Contains(l, text) {
			n++
		}
	}
	return n
}

func (s *server) count(text string) int {
	lines, _, _ := s.proc.log.since(0)
	return countLines(lines, text)
}

func gonePid(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err != nil
}

// kill kills workers, all at once, and waits for the replacements of those
// that are of the present generation.
func (s *server) kill(t testing.TB, pids ...int) {
	t.Helper()
	mark, born := s.proc.log.mark(), 0
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatalf("killing worker %d: %v", pid, err)
		}
		s.kills++
		if i := slices.Index(s.workers, pid); i >= 0 {
			s.workers = slices.Delete(s.workers, i, i+1)
			born++
		}
	}
	if born > 0 {
		s.workers = append(s.workers, s.awaitWorkers(t, mark, born)...)
	}
	s.retired = slices.DeleteFunc(s.retired, func(pid int) bool { return slices.Contains(pids, pid) })
}

// census reads from the log which workers there are; it is for scenarios in
// which they die by themselves.
func (s *server) census(t testing.TB) {
	t.Helper()
	lines, _, _ := s.proc.log.since(s.read)
	s.read += len(lines)
	for _, l := range lines {
		if m := workerStarted.FindStringSubmatch(l); m != nil {
			pid, _ := strconv.Atoi(m[1])
			if !slices.Contains(s.workers, pid) && !slices.Contains(s.retired, pid) {
				s.workers = append(s.workers, pid)
			}
		} else if m := killedPid.FindStringSubmatch(l); m != nil {
			pid, _ := strconv.Atoi(m[1])
			s.dead = append(s.dead, pid)
			s.kills++
		} else if strings.HasSuffix(l, ": reconfiguring") {
			s.generations++
			s.retired = append(s.retired, s.workers...)
			s.workers = nil
		} else if m := exitedPid.FindStringSubmatch(l); m != nil {
			pid, _ := strconv.Atoi(m[1])
			s.retired = slices.DeleteFunc(s.retired, func(p int) bool { return p == pid })
		}
	}
	isDead := func(pid int) bool { return slices.Contains(s.dead, pid) }
	s.workers = slices.DeleteFunc(s.workers, isDead)
	s.retired = slices.DeleteFunc(s.retired, isDead)
}

var exitedPid = regexp.MustCompile(`worker process (\d+) exited with code 0$`)

// awaitDead waits until nginx has noticed so many deaths, and has replaced the
// workers; it returns all that have died since it was last asked.
func (s *server) awaitDead(t testing.TB, n int) (dead []int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d workers to die and to be replaced", n), func() bool {
		s.census(t)
		return len(s.dead) >= n && len(s.workers) == s.conf.workers
	})
	dead, s.dead = s.dead, nil
	return dead
}

var killedPid = regexp.MustCompile(`worker process (\d+) exited on signal 9$`)

// awaitGone waits until the processes have ended.
func (s *server) awaitGone(t testing.TB, pids []int) {
	t.Helper()
	eventually(t, fmt.Sprintf("workers %v to go", pids), func() bool {
		return !slices.ContainsFunc(pids, func(pid int) bool { return !gonePid(pid) })
	})
}

// ownerOf says which worker has the other end of a client's connection.
func (s *server) ownerOf(t testing.TB, c *client, tr transport) int {
	t.Helper()
	serverEnd, err := netipAddrPort(s.addr(tr))
	if err != nil {
		t.Fatal(err)
	}
	inode, err := socketInode(serverEnd, c.local)
	if err != nil {
		t.Fatal(err)
	}
	pid := socketOwner(inode, s.allWorkers())
	if pid == 0 {
		t.Fatalf("no worker has the connection of %s", c.name)
	}
	return pid
}

// allow lets the log hold what a scenario provokes.
func (s *server) allow(patterns ...string) {
	for _, p := range patterns {
		s.allowed = append(s.allowed, regexp.MustCompile(p))
	}
}

func (s *server) stop(t testing.TB) {
	select {
	case <-s.proc.done:
		if !s.quitting {
			t.Error("nginx had ended before it was asked to")
		}
	default:
		if !s.quitting {
			s.quit(t)
		}
	}
	if err := s.proc.awaitExit(); err != nil {
		t.Errorf("nginx after quit, when its clients are gone: %v", err)
		s.killNginx()
	}
	s.checkLog(t)
}

func (s *server) checkLog(t testing.TB) {
	lines, _, _ := s.proc.log.since(0)
	kills, bad := 0, 0
	for _, l := range lines {
		switch {
		case killedWorker.MatchString(l) && kills < s.kills:
			kills++
		case !severe.MatchString(l) && !sanitizer.MatchString(l) && !atError.MatchString(l):
		case slices.ContainsFunc(s.allowed, func(re *regexp.Regexp) bool { return re.MatchString(l) }):
		default:
			if bad++; bad <= 10 {
				t.Errorf("in nginx's log: %s", l)
			}
		}
	}
	if bad > 10 {
		t.Errorf("in nginx's log: %d more such lines", bad-10)
	}
}

// A usage is what of a zone is in use, as derp_status says.
type usage struct {
	Slots, Channels, Inboxes struct{ Used, Free int }
	Clients, Keys            int
	Dropped                  struct {
		Other struct {
			Channel          int
			GoneDisconnected int `json:"gone_disconnected"`
		}
	}
}

func (s *server) usage(t testing.TB) (u usage) {
	t.Helper()
	resp, err := http.Get("http://" + s.addr(plain4) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&u); err != nil {
		t.Fatal(err)
	}
	return u
}

// A footprint is what a process holds.
type footprint struct {
	fds  int
	maps int
	rss  int // KiB
}

func footprintOf(t testing.TB, pid int) (f footprint) {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	f.fds, f.maps, f.rss = len(fds), strings.Count(string(maps), "\n"), rssOf(t, pid)
	return f
}

// rssOf is the memory that a process has of its own, in KiB.
func rssOf(t testing.TB, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); f[0] == "RssAnon:" {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	t.Fatalf("process %d has no RssAnon", pid)
	return 0
}

// within fails the test if something took longer than it may.
func within(t testing.TB, what string, took, bound time.Duration) {
	if took > bound {
		t.Errorf("%s took %v, the bound is %v", what, took, bound)
	}
}
