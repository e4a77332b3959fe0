package interop

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

var (
	workerStarted = regexp.MustCompile(`start worker process (\d+)$`)
	severe        = regexp.MustCompile(`\[(alert|crit|emerg)\]`)
	atError       = regexp.MustCompile(`\[error\]`)
	sanitizer     = regexp.MustCompile(`Sanitizer|runtime error:`)
	killedWorker  = regexp.MustCompile(`\[alert\].* exited on signal 9$`)
)

// startNginx starts nginx with the module, and the checks for its end.
func startNginx(t testing.TB, o options) *relay {
	t.Helper()
	if o.workers == 0 {
		o.workers = 1
	}
	r := newRelay(t, o)
	r.isNginx = true
	for _, tr := range transports {
		r.reserve(t, tr)
	}
	r.configure(t)
	r.launchNginx(t, nil)
	r.onFailure(t)
	t.Cleanup(func() { r.stopNginx(t) })
	return r
}

func (r *relay) launchNginx(t testing.TB, env []string) {
	t.Helper()
	bin, err := nginxBinary()
	if err != nil {
		t.Fatal(err)
	}
	r.proc, err = startProcess(r.path("log"), env, bin, "-p", r.dir, "-c", r.path("nginx.conf"), "-e", "stderr")
	if err != nil {
		t.Fatal(err)
	}
	r.workers = r.awaitWorkers(t, 0, r.opts.workers)
}

// configure writes nginx.conf, from the options as they are now.
func (r *relay) configure(t testing.TB) {
	t.Helper()
	writeFile(t, r.path("nginx.conf"), r.config(), 0o644)
}

func (r *relay) config() string {
	var b strings.Builder
	if so := os.Getenv("TEST_DERP_MODULE"); so != "" {
		fmt.Fprintf(&b, "load_module %q;\n", so)
	}
	// The log goes to stderr, which is a pipe to the test: each line an event.
	fmt.Fprintf(&b, `
worker_processes %d;
daemon off;
pid nginx.pid;
error_log stderr info;
%s
events {
    worker_connections 4096;
    accept_mutex off;
}
http {
    access_log off;
%s
    ssl_certificate %s;
    ssl_certificate_key %s;
    ssl_protocols TLSv1.2 TLSv1.3;
%s
    derp_relay main {
        zone 32m;
        key_file %s;
%s
    }
    server {
%s
        location /derp {
            derp main;
%s
        }
%s
    }
}
`, r.opts.workers, r.opts.inMain, r.tempPaths(), r.path("cert.pem"), r.path("cert.key"),
		r.opts.inHTTP, r.keyFile(), r.meshDirectives(), r.listens(), r.opts.inLocation, r.opts.inServer)
	return b.String()
}

func (r *relay) tempPaths() string {
	var b strings.Builder
	for _, name := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&b, "    %s_temp_path %s;\n", name, r.path("temp_"+name))
	}
	return b.String()
}

// listens gives each worker a socket of its own: the kernel deals connections
// out among those, where workers on one socket would leave most to the same.
// But with a worker's socket go the connections that it has not taken yet.
func (r *relay) listens() string {
	var b strings.Builder
	for _, tr := range transports {
		params := ""
		if tr.tls {
			params += " ssl"
		}
		if !r.opts.shared {
			params += " reuseport"
		}
		fmt.Fprintf(&b, "        listen %s%s;\n", r.addr(tr), params)
	}
	return b.String()
}

func (r *relay) meshDirectives() string {
	var b strings.Builder
	if r.opts.mesh {
		fmt.Fprintf(&b, "        mesh_key_file %s;\n", r.path("mesh.key"))
	}
	for _, addr := range r.meshTargets() {
		fmt.Fprintf(&b, "        mesh_with https://%s/derp;\n", addr)
	}
	if len(r.opts.meshWith) > 0 && !strings.Contains(r.opts.inRelay, "mesh_ssl_trusted_certificate") {
		fmt.Fprintf(&b, "        mesh_ssl_trusted_certificate %s;\n", r.path("cert.pem"))
	}
	return b.String() + r.opts.inRelay
}

// awaitWorkers waits until the master has started n workers.
func (r *relay) awaitWorkers(t testing.TB, mark, n int) []int {
	t.Helper()
	var pids []int
	err := r.proc.log.await(mark, func(lines []string) bool {
		pids = pids[:0]
		for _, l := range lines {
			if m := workerStarted.FindStringSubmatch(l); m != nil {
				pid, _ := strconv.Atoi(m[1])
				pids = append(pids, pid)
			}
		}
		return len(pids) >= n
	})
	if err != nil {
		t.Fatalf("nginx did not start %d workers: %v\n%s", n, err, r.proc.log.tail(10))
	}
	return pids
}

// reload has nginx read its configuration again, and waits for the new
// workers.  The old ones stay for as long as they have clients.
func (r *relay) reload(t testing.TB) {
	t.Helper()
	mark, old := r.proc.log.mark(), len(r.workers)
	r.proc.signal(t, syscall.SIGHUP)
	fresh := r.awaitWorkers(t, mark, r.opts.workers)
	r.retired = append(r.retired, r.workers...)
	r.workers = fresh
	// Until the last of the old has closed its listening sockets, clients
	// may still land there.
	err := r.proc.log.await(mark, func(lines []string) bool {
		return strings.Count(strings.Join(lines, "\n"), "gracefully shutting down") >= old
	})
	if err != nil {
		t.Fatalf("the old workers do not shut down: %v", err)
	}
}

// killWorker kills a worker as a crash would, and waits for the next.
func (r *relay) killWorker(t testing.TB, i int) {
	t.Helper()
	i %= len(r.workers)
	dead, mark := r.workers[i], r.proc.log.mark()
	if err := syscall.Kill(dead, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.kills++
	born := r.awaitWorkers(t, mark, 1)
	r.workers[i] = born[0]
	r.retired = append(r.retired, dead)
}

// killRetired kills a worker of those that have been replaced.
func (r *relay) killRetired(t testing.TB, i int) {
	t.Helper()
	if err := syscall.Kill(r.retired[i], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.kills++
}

// stopAndStart ends nginx by a signal, with the clients that it has, and starts
// it anew as it was.
func (r *relay) stopAndStart(t testing.TB, sig syscall.Signal) {
	t.Helper()
	r.end(t, sig)
	r.checkLog(t)
	r.quitting, r.kills, r.retired = false, 0, nil
	r.launchNginx(t, nil)
}

// end has nginx go, at once or when its clients have gone.
func (r *relay) end(t testing.TB, sig syscall.Signal) {
	t.Helper()
	r.quitting = true
	r.proc.signal(t, sig)
	if err := r.proc.awaitExit(); err != nil {
		t.Fatalf("nginx after %v: %v", sig, err)
	}
}

// bySecond counts the log's lines with a text, by nginx's own clock.
func (r *relay) bySecond(text string) map[string]int {
	seconds := map[string]int{}
	lines, _, _ := r.proc.log.since(0)
	for _, l := range lines {
		if strings.Contains(l, text) {
			seconds[l[:len("2006/01/02 15:04:05")]]++
		}
	}
	return seconds
}

// quit asks nginx to stop gracefully: it goes when its clients have gone.
func (r *relay) quit(t testing.TB) {
	t.Helper()
	r.quitting = true
	r.proc.signal(t, syscall.SIGQUIT)
}

func (r *relay) stopNginx(t testing.TB) {
	if r.proc == nil {
		return
	}
	select {
	case <-r.proc.done:
		if !r.quitting {
			t.Error("nginx had ended before it was asked to")
		}
	default:
		if !r.quitting {
			r.quit(t)
		}
	}
	if err := r.proc.awaitExit(); err != nil {
		t.Errorf("nginx after quit, when its clients are gone: %v", err)
		r.killNginx()
	}
	r.checkLog(t)
}

// killNginx is the last resort: the master may be beyond killing its workers.
func (r *relay) killNginx() {
	r.proc.cmd.Process.Kill()
	for _, pid := range r.allWorkers() {
		if parentOf(pid) == r.proc.pid() || parentOf(pid) == 1 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	r.proc.awaitExit()
}

func (r *relay) checkLog(t testing.TB) {
	lines, _, _ := r.proc.log.since(0)
	kills := 0
	for _, l := range lines {
		switch {
		case killedWorker.MatchString(l) && kills < r.kills:
			kills++
		case severe.MatchString(l), sanitizer.MatchString(l):
			t.Errorf("in nginx's log: %s", l)
		case atError.MatchString(l) && len(r.opts.meshWith) == 0:
			// Clients alone, whatever they do, must not fill a disk.
			t.Errorf("in nginx's log: %s", l)
		}
	}
}
