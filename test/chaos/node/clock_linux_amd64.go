//go:build clock

package main

import (
	"sync/atomic"
	"time"
	_ "unsafe" // for go:linkname
)

// The runtime reads both clocks by calling clock_gettime in the vDSO, through
// this variable. Another function in its place lies about the wall clock while
// the monotonic clock, and all timers with it, goes on. To reach the variable
// the linker must be told not to mind (-checklinkname=0), hence the build tag.
//
//go:linkname vdsoClockgettimeSym runtime.vdsoClockgettimeSym
var vdsoClockgettimeSym uintptr

// clockOffset is added to the seconds of the wall clock by clockGettime.
var clockOffset atomic.Int64

// clockGettimePC is the address of clockGettime, see clock_linux_amd64.s.
func clockGettimePC() uintptr

func init() { vdsoClockgettimeSym = clockGettimePC() }

// setClock moves the wall clock; what is less than a second counts as nothing.
func setClock(offset time.Duration) error {
	clockOffset.Store(int64(offset / time.Second))
	return nil
}
