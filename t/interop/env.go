package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait.  It is no expectation: what is awaited comes in
// milliseconds, save where derper retries a mesh link after its fixed 5 s.
const patience = 30 * time.Second

// poll is the pause between two looks at what gives no event, such as /proc.
const poll = 2 * time.Millisecond

var targetIsDerper = os.Getenv("TEST_DERP_TARGET") == "derper"

var buildDir = sync.OnceValues(func() (string, error) {
	// go test runs in the package's directory, two below the top.
	dir, err := filepath.Abs("../../build/interop")
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
})

// runDir is this run's own: there may be others at the same time.
var runDir = sync.OnceValues(func() (string, error) {
	top, err := buildDir()
	if err != nil {
		return "", err
	}
	removeOldRuns(top)
	dir := filepath.Join(top, fmt.Sprint("run-", os.Getpid()))
	return dir, os.MkdirAll(dir, 0o755)
})

// removeOldRuns removes what failed runs have left to be looked at.
func removeOldRuns(top string) {
	dirs, _ := filepath.Glob(filepath.Join(top, "run-*"))
	for _, dir := range dirs {
		pid := strings.TrimPrefix(filepath.Base(dir), "run-")
		if _, err := os.Stat("/proc/" + pid); os.IsNotExist(err) {
			os.RemoveAll(dir)
		}
	}
}

// derperBinary builds derper, once, from the module cache.
var derperBinary = sync.OnceValues(func() (string, error) {
	dir, err := buildDir()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "derper")
	cmd := exec.Command("go", "build", "-o", bin, "tailscale.com/cmd/derper")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building derper: %w\n%s", err, out)
	}
	return bin, nil
})

func nginxBinary() (string, error) {
	if bin := os.Getenv("TEST_NGINX_BINARY"); bin != "" {
		return bin, nil
	}
	if bin, err := exec.LookPath("nginx"); err == nil {
		return bin, nil
	}
	// Debian's is not in the PATH of everyone.
	return exec.LookPath("/usr/sbin/nginx")
}

// workDir makes the folder in which the named process of a test lives.
func workDir(t testing.TB, name string) string {
	t.Helper()
	top, err := runDir()
	if err != nil {
		t.Fatal(err)
	}
	test := strings.NewReplacer("/", "-", " ", "_").Replace(t.Name())
	dir := filepath.Join(top, test, name)
	if err := os.RemoveAll(dir); err != nil { // of the same test, run before
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writeFile(t testing.TB, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// oursOnly ends the test where derper is known to do otherwise.
func oursOnly(t testing.TB, why string) {
	t.Helper()
	if targetIsDerper {
		t.Skip("not asked of derper: " + why)
	}
}

// forWorkers runs a test with each number of workers; derper has but one.
func forWorkers(t *testing.T, counts []int, f func(t *testing.T, workers int)) {
	if targetIsDerper {
		counts = []int{1}
	}
	for _, n := range counts {
		t.Run(fmt.Sprintf("workers=%d", n), func(t *testing.T) { f(t, n) })
	}
}

// eventually waits for a condition that announces itself by no event.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
		time.Sleep(poll)
	}
}
