package gossip

import (
	"context"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// transport is memberlist's own, but what it dials ends with the context: an
// exchange with a node that does not answer would hold up the end of Run.
type transport struct {
	*memberlist.NetTransport
	ctx         context.Context
	cancelDials context.CancelFunc
}

// A free TCP port may be taken for UDP; with port 0 others are tried.
const bindTries = 10

func listen(bind string, logger *log.Logger) (*transport, error) {
	host, port, err := splitHostPort(bind)
	if err != nil {
		return nil, fmt.Errorf("bind address: %w", err)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	ip, err := net.ResolveIPAddr("ip", host)
	if err != nil {
		return nil, fmt.Errorf("bind address: %w", err)
	}
	tries := 1
	if port == 0 {
		tries = bindTries
	}
	for try := 1; ; try++ {
		t, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{ip.IP.String()}, BindPort: port, Logger: logger,
		})
		if err == nil {
			ctx, cancel := context.WithCancel(context.Background())
			return &transport{NetTransport: t, ctx: ctx, cancelDials: cancel}, nil
		}
		if try >= tries {
			return nil, err
		}
	}
}

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(t.ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	return &dialed{Conn: conn, forget: context.AfterFunc(t.ctx, func() { conn.Close() })}, nil
}

// dialed is closed with the transport's context if not before.
type dialed struct {
	net.Conn
	forget func() bool
}

func (d *dialed) Close() error {
	d.forget()
	return d.Conn.Close()
}
