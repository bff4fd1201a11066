//go:build !(clock && linux && amd64)

package main

import (
	"errors"
	"time"
)

// setClock says that this build cannot.
func setClock(time.Duration) error {
	return errors.New("clock: the node is built without it (-tags clock -ldflags=-checklinkname=0, linux on amd64)")
}
