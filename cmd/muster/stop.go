package main

import (
	"context"
	"fmt"
	"os"
	"runtime/pprof"
	"time"
)

// stopMax is many times what a control node takes to stop, each step of which
// has a bound of its own.
const stopMax = 20 * time.Second

// endInTime ends the process if it has not stopped long after ctx has ended: a
// node that hangs keeps its directory from the one that is to replace it. What
// it hangs at goes to standard error.
func endInTime(ctx context.Context, most time.Duration) {
	<-ctx.Done()
	time.Sleep(most)
	fmt.Fprintf(os.Stderr, "muster: not stopped after %s, ending; all that was acknowledged is on the disk\n", most)
	_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
	os.Exit(1)
}
