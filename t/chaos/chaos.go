// This folder is for what an operator fears: reloads under load, workers that
// die or stop, a machine that runs out of something, clients that do not read.
//
// The files that are links are t/interop's: what starts nginx, and the official
// client.  A scenario runs some rounds, or with -soak as many as there is time
// for; at the end there is a line for each, of what was tried and what was lost.
//
// All runs in a network, a mount and a process namespace of its own, so nothing
// that is cut, filled or killed is anyone else's, and nothing stays behind.
package interop

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var soak = flag.Duration("soak", 0, "the time for all scenarios together; 0: some rounds of each")

// insideEnv names this run's folder, inside.
const insideEnv = "CHAOS_INSIDE"

func init() {
	buildDir = sync.OnceValues(func() (string, error) {
		dir, err := filepath.Abs("../../build/chaos")
		if err != nil {
			return "", err
		}
		return dir, os.MkdirAll(dir, 0o755)
	})
	outside := runDir
	runDir = func() (string, error) {
		if dir := os.Getenv(insideEnv); dir != "" {
			return dir, nil
		}
		return outside()
	}
}

// runInside runs this program again, in namespaces of its own; whatever it
// starts ends with it.
func runInside(args ...string) int {
	dir, err := runDir()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), insideEnv+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	interrupted := interrupts() // is for the one inside to heed
	if err = cmd.Start(); err == nil {
		go func() {
			for sig := range interrupted {
				cmd.Process.Signal(sig)
			}
		}()
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(1, exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "no namespaces to run in (it takes root):", err)
		return 1
	}
	return 0
}

func interrupts() chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	return c
}

func furnish() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	return run("ip", "link", "set", "lo", "up")
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// A form says for how long a scenario goes on.
type form struct {
	t       *testing.T
	short   int // rounds
	least   int // rounds of the long form, however long they take
	until   time.Time
	started time.Time
	rounds  int
}

// soakParts is what all scenarios' parts add up to.
const soakParts = 75

// rounds gives a scenario its form: short rounds, or its part of the soak's
// time, and at least so many.
func rounds(t *testing.T, short, part, least int) *form {
	now := time.Now()
	return &form{
		t: t, short: short, least: least,
		started: now, until: now.Add(*soak * time.Duration(part) / soakParts),
	}
}

func (f *form) more() bool {
	if f.t.Failed() {
		return false
	}
	more := f.rounds < f.short
	if *soak > 0 {
		more = f.rounds < f.least || time.Now().Before(f.until)
	}
	if more {
		f.rounds++
	}
	return more
}

func long() bool { return *soak > 0 }
