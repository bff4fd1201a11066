package wal

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	// ErrNoSpace: the disk has no room for it. Nothing was written, and the
	// same call succeeds once there is room.
	ErrNoSpace = errors.New("no space left for the log")
	// ErrBroken: an earlier write failed, and nothing is known of what it left.
	ErrBroken = errors.New("an earlier write to the log failed")
)

// DamageError is what was found instead of what was once written. Going on would
// lose what was acknowledged.
type DamageError struct {
	Path  string
	Cause error
}

func (e *DamageError) Error() string { return fmt.Sprintf("%s is damaged: %v", e.Path, e.Cause) }
func (e *DamageError) Unwrap() error { return e.Cause }

func damaged(path string, cause error) error {
	if known := new(DamageError); errors.As(cause, &known) {
		return cause
	}
	return &DamageError{path, cause}
}

// full says whether a disk refused for want of space.
func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func noSpace(err error) error { return fmt.Errorf("%w: %w", ErrNoSpace, err) }
