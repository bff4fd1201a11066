package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// residentFile is how much of the files mapped by this process is in memory, in KiB.
func residentFile(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(status), "RssFile:")
	if !ok {
		t.Fatal("no RssFile in /proc/self/status")
	}
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

func TestProgramsPagesAreGivenBack(t *testing.T) {
	before := residentFile(t)
	if err := releaseProgram(); err != nil {
		t.Fatal(err)
	}
	if after := residentFile(t); after > before/2 {
		t.Errorf("%d KiB of files are in memory, %d before", after, before)
	}
	// What was let go of works as before.
	if got := strings.ToUpper(strconv.Quote("muster")); got != `"MUSTER"` {
		t.Errorf("got %s", got)
	}
}
