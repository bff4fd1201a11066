//go:build !linux

package main

import (
	"context"
	"log/slog"
)

// giveBack is for Linux.
func giveBack(context.Context, <-chan struct{}, *slog.Logger) {}
