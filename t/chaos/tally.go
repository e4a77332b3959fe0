package interop

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// A tally is what was tried, and what became of it.
type tallies struct {
	mu    sync.Mutex
	lines []string
}

var tally tallies

// note adds a line about a scenario, which is printed at the end of all.
func (f *form) note(format string, args ...any) {
	tally.mu.Lock()
	defer tally.mu.Unlock()
	result := "ok"
	if f.t.Failed() {
		result = "FAILED"
	}
	tally.lines = append(tally.lines, fmt.Sprintf("%-6s %-22s %4.0fs  %s", result,
		f.t.Name()[len("Test"):], time.Since(f.started).Seconds(), fmt.Sprintf(format, args...)))
}

func (ts *tallies) print(w io.Writer) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if len(ts.lines) == 0 {
		return
	}
	fmt.Fprintln(w, "\nwhat was tried:")
	for _, l := range ts.lines {
		fmt.Fprintln(w, l)
	}
}

// A longest is the longest of the times that something took.
type longest struct {
	mu  sync.Mutex
	max time.Duration
	n   int
}

func (l *longest) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	l.max = max(l.max, d)
}

func (l *longest) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d, the latest after %.3fs", l.n, l.max.Seconds())
}
