//go:build !nextformat

package main

import (
	"log/slog"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/control/store"
)

// newDuties are what this version does not do yet.
func newDuties(*store.Store, *slog.Logger) []consensus.Duty { return nil }
