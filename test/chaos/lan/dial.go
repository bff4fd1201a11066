package lan

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Dial makes a TCP connection from this host to an address, IPv4:port. Only
// the socket is made on the host's thread: it stays the host's wherever it is
// used, so that connecting holds nobody up.
func (h *Host) Dial(ctx context.Context, address string) (net.Conn, error) {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	var fd int
	err = h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("socket of %s: %w", h.Name, err)
	}
	file := os.NewFile(uintptr(fd), address)
	defer file.Close() // FileConn has its own descriptor
	if err := connect(ctx, file, target); err != nil {
		return nil, fmt.Errorf("connect from %s to %s: %w", h.Name, address, err)
	}
	return net.FileConn(file)
}

func connect(ctx context.Context, file *os.File, target netip.AddrPort) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.Connect(int(fd), &unix.SockaddrInet4{Port: int(target.Port()), Addr: target.Addr().As4()})
	})
	if err != nil {
		return err
	}
	if failed != unix.EINPROGRESS {
		return failed
	}
	// Closing wakes who waits below.
	stop := context.AfterFunc(ctx, func() { _ = file.Close() })
	defer stop()
	err = raw.Write(func(fd uintptr) bool {
		var code int
		if code, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); failed == nil && code != 0 {
			failed = unix.Errno(code)
		}
		if failed != nil {
			return true
		}
		_, err := unix.Getpeername(int(fd))
		return err == nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	return failed
}
