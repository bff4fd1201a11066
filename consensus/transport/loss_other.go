//go:build !linux

package transport

import (
	"net"
	"time"
)

const lossTimeout = 3 * time.Second

// noticeLoss does what it can without Linux's TCP_USER_TIMEOUT: idle
// connections are probed, unacknowledged bytes wait for the kernel's own limit.
func noticeLoss(conn *net.TCPConn) error {
	return conn.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: time.Second, Interval: time.Second, Count: int(lossTimeout / time.Second),
	})
}
