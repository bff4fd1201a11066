package transport

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// lossTimeout is how long the other host may leave sent bytes, or probes on an
// idle connection, unacknowledged. It is the kernel that answers, so a busy
// process does not lose its connections.
const lossTimeout = 3 * time.Second

// noticeLoss makes a connection fail about lossTimeout after the other host
// has vanished, instead of after many minutes. Idle connections are probed each
// second: one small packet both ways.
func noticeLoss(conn *net.TCPConn) error {
	err := conn.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: time.Second, Interval: time.Second, Count: int(lossTimeout / time.Second),
	})
	if err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(lossTimeout.Milliseconds()))
	})
	if controlErr != nil {
		return controlErr
	}
	return err
}
