package lab

import (
	"context"
	"fmt"
	"net"
	"time"
)

// exclusive waits until no other process on this machine holds the name. The
// lock is an abstract socket: it leaves no file, and ends with its process.
func exclusive(ctx context.Context, name string) (unlock func(), err error) {
	for {
		held, err := net.Listen("unix", "@"+name)
		if err == nil {
			return func() { held.Close() }, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another lab command is at work (%s): %w", name, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
