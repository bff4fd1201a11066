package main

import (
	"errors"
	"fmt"
	"os/exec"
	"testing"
)

// A cluster that does not come up must say why, also when what failed on the way
// is a program that ended with an error.
func TestOnlyExecEndsSilently(t *testing.T) {
	three := exec.Command("sh", "-c", "exit 3").Run()
	for _, c := range []struct {
		err     error
		status  int
		message string
	}{
		{nil, 0, ""},
		{three, 3, ""},
		{fmt.Errorf("muster kubectl apply: %w: no such file", three), 1, "muster kubectl apply: exit status 3: no such file"},
		{errors.New("no root"), 1, "no root"},
	} {
		if status, message := ending(c.err); status != c.status || message != c.message {
			t.Errorf("%v: got %d %q, want %d %q", c.err, status, message, c.status, c.message)
		}
	}
}
