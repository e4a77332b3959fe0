package interop

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(insideEnv) == "" {
		os.Exit(runInside(os.Args[1:]...))
	}
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, "no namespaces to run in:", err)
		os.Exit(1)
	}
	go func() {
		<-interrupts()
		fmt.Println("interrupted")
		tally.print(os.Stdout)
		os.Exit(1)
	}()
	code := m.Run()
	tally.print(os.Stdout)
	os.Exit(code)
}
