package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/musterhq/muster/proto/agent/beat"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// datagrams carry a conversation's heartbeats.
type datagrams struct {
	conn *net.UDPConn
	// Two goroutines make and check them: one each.
	ours, theirs *beat.Seal
	buffer       []byte
}

// open opens the way to the port that stream is connected to.
func open(stream grpc.ClientStream, m *agentv1.Beats) (*datagrams, error) {
	if len(m.Key) != beat.KeySize {
		return nil, fmt.Errorf("the key has %d bytes, want %d", len(m.Key), beat.KeySize)
	}
	other, ok := peer.FromContext(stream.Context())
	if !ok {
		return nil, errors.New("the stream is not connected")
	}
	tcp, ok := other.Addr.(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("%s is no TCP address", other.Addr)
	}
	conn, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: tcp.IP, Port: tcp.Port, Zone: tcp.Zone})
	if err != nil {
		return nil, err
	}
	return &datagrams{conn: conn, ours: beat.NewSeal(m.Session, m.Key), theirs: beat.NewSeal(m.Session, m.Key)}, nil
}

// send sends one. That it did not arrive shows in its answer.
func (d *datagrams) send(b beat.Beat) {
	d.buffer = d.ours.Beat(d.buffer[:0], b)
	_, _ = d.conn.Write(d.buffer)
}

// run calls heard with each answer until ctx ends, and closes the socket.
func (d *datagrams) run(ctx context.Context, heard func(beat.Answer)) error {
	defer context.AfterFunc(ctx, func() { _ = d.conn.Close() })()
	buffer := make([]byte, beat.DatagramMax+1)
	for {
		n, err := d.conn.Read(buffer)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("hear answers: %w", err)
		case err != nil:
			continue // nobody is at the port, for instance: once for each that is sent
		}
		if answer, err := d.theirs.OpenAnswer(buffer[:n]); err == nil {
			heard(answer)
		}
	}
}

// begin has heartbeats sent as datagrams. Without, they go through the stream.
func (c *conversation) begin(ctx context.Context, stream grpc.ClientStream, m *agentv1.Beats) {
	if c.datagrams.Load() != nil {
		return
	}
	d, err := open(stream, m)
	if err != nil {
		c.log.Info("heartbeats go through the session's stream", "reason", err)
		return
	}
	c.datagrams.Store(d)
	c.pulse.begin(time.Duration(m.IntervalMs)*time.Millisecond, time.Now())
	select {
	case c.beating <- struct{}{}:
	default:
	}
	c.group.Go(func() error {
		return d.run(ctx, func(answer beat.Answer) {
			if c.pulse.answer(answer) {
				c.hears()
				c.told(answer.Clock, answer.Quorum)
			}
		})
	})
}
