package process

import (
	"testing"
	"time"
)

func TestCPUTimeOfAProcessWithAStrangeName(t *testing.T) {
	got, err := cpuOf("42 (a) b) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 1000 1 1")
	if want := 3 * time.Second; err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := cpuOf("42 (a) S 1"); err == nil {
		t.Error("a line that is cut off was taken")
	}
}
