package transport

import (
	"crypto/tls"
	"net"
	"os"
	"runtime"
	"slices"
)

// handshakesEach is how many handshakes are worked on for each processor.
const handshakesEach = 2

// turns are taken for the work in a handshake, about a millisecond of a
// processor, and given back while the other side is waited for. Whoever came
// first is served first: if thousands of agents come at once, because they lost
// another control node, working on all of them together would finish none in the
// time that they wait, and they would come again. Raft does not wait for a turn.
type turns chan struct{}

// take waits until it is c's turn, or the handshake has no time left.
func (t turns) take(c *connection) error {
	c.in.waitsForUs(c, true)
	select {
	case t <- struct{}{}:
		c.atWork = true
		return nil
	case <-c.late:
		return net.ErrClosed
	}
}

func (t turns) giveBack(c *connection) {
	if c.atWork {
		c.atWork = false
		<-t
	}
	c.in.waitsForUs(c, false)
}

// withTurns has every handshake that config is for take turns, from when it is
// known what is wanted.
func withTurns(config *tls.Config, t turns) {
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, ALPNRaft) {
			return nil, nil
		}
		c := hello.Conn.(*connection)
		c.turns = t
		return nil, t.take(c)
	}
}

// Write gives the turn back: what follows a write in a handshake is a read, or
// nothing, and the other side may leave no room to write.
func (c *connection) Write(b []byte) (int, error) {
	if c.turns != nil {
		c.turns.giveBack(c)
		c.in.answered(c)
	}
	return c.TCPConn.Write(b)
}

// Read gives the turn back while there is nothing to read.
func (c *connection) Read(b []byte) (int, error) {
	t := c.turns
	if t == nil {
		return c.TCPConn.Read(b)
	}
	t.giveBack(c)
	n, err := c.TCPConn.Read(b)
	if err != nil {
		return n, err
	}
	return n, t.take(c)
}

// dialing are the turns of those who dial: a process may be thousands of agents.
var dialing = make(turns, handshakesEach*runtime.GOMAXPROCS(0))

// dialed is a connection whose handshake this side began. As on the other side no
// turn is kept while that is waited for.
type dialed struct {
	net.Conn
	late     <-chan struct{} // closed when the handshake has no time left
	atWork   bool
	finished bool
}

func (d *dialed) take() error {
	select {
	case dialing <- struct{}{}:
		d.atWork = true
		return nil
	case <-d.late:
		return os.ErrDeadlineExceeded
	}
}

func (d *dialed) giveBack() {
	if d.atWork {
		d.atWork = false
		<-dialing
	}
}

// finish is called after the handshake, before anybody else has the connection.
func (d *dialed) finish() {
	d.giveBack()
	d.finished = true
}

func (d *dialed) Write(b []byte) (int, error) {
	if !d.finished {
		d.giveBack()
	}
	return d.Conn.Write(b)
}

func (d *dialed) Read(b []byte) (int, error) {
	if d.finished {
		return d.Conn.Read(b)
	}
	d.giveBack()
	n, err := d.Conn.Read(b)
	if err != nil {
		return n, err
	}
	return n, d.take()
}
