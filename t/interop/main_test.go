package interop

import (
	"flag"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	// Those that run in parallel wait, most of the time, for derper to try a
	// link again: more of them at once is no more work for the machine.
	parallel := flag.Lookup("test.parallel")
	flag.Parse()
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == parallel.Name })
	if !set {
		flag.Set(parallel.Name, "12")
	}
	code := m.Run()
	if dir, err := runDir(); err == nil && code == 0 {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}
