package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/derp"
)

// A site is what nginx serves beside the relay: a static file, and a proxied
// server with kept-alive connections, some of it within limit_conn.
type site struct {
	t        *testing.T
	addr     string
	file     []byte
	backend  *httptest.Server
	accepted atomic.Int64  // connections of nginx to the backend
	slow     chan struct{} // each value lets one slow answer end
	waiting  atomic.Int64  // slow requests that the backend has

	requests atomic.Int64
}

const limit = 3 // of limit_conn

func newSite(t *testing.T) *site {
	w := &site{t: t, addr: reserveAddr(t, plain4), file: payload(99, 300<<10), slow: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintf(rw, "answer to %s", r.URL.Path) })
	mux.HandleFunc("/slow/", func(rw http.ResponseWriter, r *http.Request) {
		io.WriteString(rw, "the beginning, ")
		rw.(http.Flusher).Flush()
		w.waiting.Add(1)
		defer w.waiting.Add(-1)
		select {
		case <-w.slow:
			io.WriteString(rw, "and the end")
		case <-r.Context().Done():
		}
	})
	w.backend = httptest.NewUnstartedServer(mux)
	w.backend.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			w.accepted.Add(1)
		}
	}
	w.backend.Start()
	t.Cleanup(w.backend.Close)
	return w
}

// inHTTP is the site's part of the configuration.
func (w *site) inHTTP(root string) string {
	return fmt.Sprintf(`
    limit_conn_zone $binary_remote_addr zone=site:1m;
    upstream backend { server %s; keepalive 16; }
    server {
        listen %s;
        location / { proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; }
        location /slow/ {
            limit_conn site %d;
            proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
        }
        location /static/ { root %s; }
    }
`, w.backend.Listener.Addr(), w.addr, limit, root)
}

func startSite(t *testing.T, workers int, inMain string) (*site, *server) {
	t.Helper()
	w := newSite(t)
	root := t.TempDir()
	os.Chmod(root, 0o755)
	os.Chmod(root+"/..", 0o755)
	if err := os.Mkdir(root+"/static", 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, root+"/static/file", string(w.file), 0o644)
	s := start(t, conf{workers: workers, shared: true, inHTTP: w.inHTTP(root), inMain: inMain})
	return w, s
}

// client is an HTTP client that keeps its connections alive.
func (w *site) client() *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 4}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

func (w *site) get(c *http.Client, path string) (int, []byte, error) {
	resp, err := c.Get("http://" + w.addr + path)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// visit has n visitors ask for pages, one after the other, until stopped.
func (w *site) visit(n int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var busy sync.WaitGroup
	for i := range n {
		busy.Go(func() {
			c := w.client()
			for k := 0; ctx.Err() == nil; k++ {
				path := fmt.Sprintf("/page/%d/%d", i, k)
				want := []byte("answer to " + path)
				if k%3 == 0 {
					path, want = "/static/file", w.file
				}
				code, body, err := w.get(c, path)
				if err != nil || code != http.StatusOK || !bytes.Equal(body, want) {
					w.t.Errorf("%s: status %d, %d bytes, %v", path, code, len(body), err)
					return
				}
				w.requests.Add(1)
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); busy.Wait() })
	w.t.Cleanup(stop)
	return stop
}

// A slowAnswer is one that the backend keeps waiting.
type slowAnswer struct {
	code int
	body []byte
	err  error
}

func (w *site) askSlowly() <-chan slowAnswer {
	done := make(chan slowAnswer, 1)
	go func() {
		var a slowAnswer
		a.code, a.body, a.err = w.get(w.client(), "/slow/page")
		done <- a
	}()
	return done
}

func (w *site) awaitSlow(n int64) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d slow requests to have got through", n), func() bool { return w.waiting.Load() == n })
}

// holdSlowly asks until it is let in, as the nth: limit_conn still counts a
// request when its answer has just arrived.
func (w *site) holdSlowly(n int64) <-chan slowAnswer {
	w.t.Helper()
	done := w.askSlowly()
	eventually(w.t, fmt.Sprintf("slow request %d to have got through", n), func() bool {
		select {
		case a := <-done:
			if a.code != http.StatusServiceUnavailable {
				w.t.Fatalf("a slow request was answered: status %d, %v", a.code, a.err)
			}
			done = w.askSlowly()
		default:
		}
		return w.waiting.Load() == n
	})
	return done
}

func (a slowAnswer) whole() bool {
	return a.err == nil && a.code == http.StatusOK && string(a.body) == "the beginning, and the end"
}

// An ordinary site beside the relay, in the same workers: it is as ever, while
// the relay is under load and nginx reloads.
func TestSite(t *testing.T) {
	f := rounds(t, 3, 1, 10)
	w, s := startSite(t, 2, "")
	tr := newTraffic(t, s, 60, 25*time.Millisecond)
	stop := w.visit(4)
	refused := 0
	for f.more() {
		// limit_conn counts the site's connections, and not the relay's, all
		// of which come from the same address.
		var slow []<-chan slowAnswer
		for i := range limit {
			slow = append(slow, w.holdSlowly(int64(i)+1))
		}
		for range 5 {
			if a := <-w.askSlowly(); a.code != http.StatusServiceUnavailable {
				t.Errorf("beyond limit_conn the answer is %d, %v", a.code, a.err)
			}
			refused++
		}
		// What has begun before a reload ends in the old worker.
		s.reload(t)
		rejoin(t, tr, f.rounds, 3)
		for range limit {
			w.slow <- struct{}{}
		}
		for _, done := range slow {
			if a := <-done; !a.whole() {
				t.Errorf("a request that had begun before a reload: status %d, %q, %v", a.code, a.body, a.err)
			}
		}
		tr.settle()
	}
	stop()
	s.allow(`limiting connections by zone "site"`)
	// Each worker keeps 16 connections at most, and the visitors need fewer.
	if n, most := w.accepted.Load(), int64(f.rounds+1)*2*(16+limit); n > most {
		t.Errorf("%d connections to the backend for %d requests", n, w.requests.Load())
	}
	f.note("%d reloads; %d requests over %d connections to the backend, %d refused by limit_conn; %d packets",
		f.rounds, w.requests.Load(), w.accepted.Load(), refused, tr.delivered.Load())
}

// A graceful quit lets an answer that has begun come to its end, and nginx goes
// when both that and the relay's clients are done with.
func TestSiteQuit(t *testing.T) {
	f := rounds(t, 1, 1, 3)
	for f.more() {
		w, s := startSite(t, 2, "")
		var restarting atomic.Int64
		var clients []*client
		for i := range 8 {
			clients = append(clients, connect(t, s.relay, fmt.Sprint("client ", i), via(plain4),
				handled(func(m derp.ReceivedMessage) {
					if _, ok := m.(derp.ServerRestartingMessage); ok {
						restarting.Add(1)
					}
				})))
		}
		slow := w.askSlowly()
		w.awaitSlow(1)
		s.quit(t)
		for _, c := range clients {
			c.wantEnd(t)
		}
		if n := restarting.Load(); n != int64(len(clients)) {
			t.Errorf("%d of %d clients were told of the quit", n, len(clients))
		}
		if conn, err := net.Dial("tcp", w.addr); err == nil {
			conn.Close()
			t.Error("nginx takes connections while it quits")
		}
		select {
		case <-s.proc.done:
			t.Error("nginx has gone before an answer was whole")
		case <-time.After(500 * time.Millisecond):
		}
		w.slow <- struct{}{}
		if a := <-slow; !a.whole() {
			t.Errorf("a request that had begun before the quit: status %d, %q, %v", a.code, a.body, a.err)
		}
		if err := s.proc.awaitExit(); err != nil {
			t.Errorf("nginx: %v", err)
		}
	}
	f.note("%d times: the answer under way came whole, all clients were told", f.rounds)
}

// worker_shutdown_timeout ends old workers, with the site's requests and the
// relay's clients alike.
func TestSiteShutdownTimeout(t *testing.T) {
	f := rounds(t, 1, 1, 3)
	const timeout = 2 * time.Second
	w, s := startSite(t, 2, "worker_shutdown_timeout 2s;")
	var longest longest
	for f.more() {
		c := connect(t, s.relay, "of an old worker", via(plain4))
		slow := w.askSlowly()
		w.awaitSlow(1)
		old := s.workers
		at := time.Now()
		s.reload(t)
		after := connect(t, s.relay, "of a new worker", via(plain4))
		fence(t, c, after)
		s.awaitGone(t, old)
		took := time.Since(at)
		longest.add(took)
		if took < timeout-100*time.Millisecond {
			t.Errorf("the old workers went after %v", took)
		}
		within(t, "the old workers' end", took, timeout+time.Second)
		c.wantEnd(t)
		if a := <-slow; a.whole() || a.err == nil && !errors.Is(a.err, io.ErrUnexpectedEOF) {
			t.Errorf("a request beyond worker_shutdown_timeout: status %d, %q, %v", a.code, a.body, a.err)
		}
		after.want(t, gone(c))
		after.close()
	}
	f.note("%d times; old workers were gone: %v", f.rounds, &longest)
}
