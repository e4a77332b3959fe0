package interop

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A journal holds the lines that a process wrote, in a file for people and in
// memory for tests, which wait for a line instead of for a while.
type journal struct {
	file *os.File

	mu    sync.Mutex
	lines []string
	ended bool
	more  chan struct{} // closed, and made anew, at each change
}

func newJournal(path string) (*journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &journal{file: f, more: make(chan struct{})}, nil
}

func (j *journal) follow(r io.Reader) {
	defer j.file.Close()
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			j.add(line)
		}
		if err != nil {
			j.end()
			return
		}
	}
}

func (j *journal) add(line string) {
	io.WriteString(j.file, line)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, strings.TrimRight(line, "\n"))
	close(j.more)
	j.more = make(chan struct{})
}

func (j *journal) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ended = true
	close(j.more)
	j.more = make(chan struct{})
}

// mark is the place to await from: only what comes after it counts.
func (j *journal) mark() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.lines)
}

func (j *journal) since(mark int) (lines []string, ended bool, more chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines[mark:], j.ended, j.more
}

// await returns as soon as done is content with the lines since the mark.
func (j *journal) await(mark int, done func(lines []string) bool) error {
	timeout := time.After(patience)
	for {
		lines, ended, more := j.since(mark)
		if done(lines) {
			return nil
		}
		if ended {
			return fmt.Errorf("the process ended first")
		}
		select {
		case <-more:
		case <-timeout:
			return fmt.Errorf("waited %v", patience)
		}
	}
}

// awaitLine waits for one line that contains text.
func (j *journal) awaitLine(t testing.TB, mark int, text string) {
	t.Helper()
	err := j.await(mark, func(lines []string) bool {
		for _, l := range lines {
			if strings.Contains(l, text) {
				return true
			}
		}
		return false
	})
	if err != nil {
		t.Fatalf("no line %q in the log: %v", text, err)
	}
}

func (j *journal) tail(n int) string {
	lines, _, _ := j.since(0)
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// A process is a child of the test whose standard error is a journal.
type process struct {
	cmd  *exec.Cmd
	log  *journal
	done chan struct{} // closed when the process has been waited for
}

func startProcess(logPath string, env []string, bin string, args ...string) (*process, error) {
	log, err := newJournal(logPath)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = w, w
	// A test binary that dies must not leave servers behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	w.Close()

	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		// The log ends when the last of the process's children is gone,
		// so that nothing is missed.
		log.follow(r)
		r.Close()
		cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Errorf("signal %v: %v", sig, err)
	}
}

func (p *process) awaitExit() error {
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("still running %v later", patience)
	}
}
