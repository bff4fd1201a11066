package dispatch

import (
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unpolled is a UDP socket that Go's poller doesn't know. Every datagram to a socket
// that it knows wakes a thread, also when no goroutine waits for it: with a thousand
// agents some hundred times a second, more than all else that an idle control node does.
// It is for one goroutine, that never waits (MSG_DONTWAIT).
type unpolled struct {
	*net.UDPConn // closed; it says the address
	fd           socket
}

// unpoll takes conn over.
func unpoll(conn *net.UDPConn) (*unpolled, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("socket for heartbeats: %w", err)
	}
	u := &unpolled{UDPConn: conn}
	var refused error
	err = raw.Control(func(fd uintptr) {
		var copied int
		copied, refused = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		u.fd = socket(copied)
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return nil, fmt.Errorf("socket for heartbeats: %w", err)
	}
	if err := conn.Close(); err != nil { // which takes it out of the poller
		_ = u.Close()
		return nil, fmt.Errorf("socket for heartbeats: %w", err)
	}
	return u, nil
}

// SyscallConn is how golang.org/x/net gets at it.
func (u *unpolled) SyscallConn() (syscall.RawConn, error) { return u.fd, nil }

func (u *unpolled) Close() error { return unix.Close(int(u.fd)) }

// enlarge makes room for so many bytes of datagrams: beyond the host's limit if this
// process may, otherwise up to it.
func (u *unpolled) enlarge(bytes int) {
	if unix.SetsockoptInt(int(u.fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) != nil {
		_ = unix.SetsockoptInt(int(u.fd), unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
	}
}

// socket is a file descriptor whose calls are never waited for.
type socket int

func (s socket) Control(f func(uintptr)) error { f(uintptr(s)); return nil }

func (s socket) Read(f func(uintptr) bool) error {
	if !f(uintptr(s)) {
		return unix.EAGAIN
	}
	return nil
}

func (s socket) Write(f func(uintptr) bool) error { return s.Read(f) }
