package lan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Link is what happens to packets from one host to another. Its zero value is
// a link without faults.
type Link struct {
	// Cut loses everything.
	Cut bool
	// Delay of each packet; Jitter is added, evenly between 0 and it. Packets
	// stay in order.
	Delay, Jitter time.Duration
	// Loss, Duplicate and Reorder are chances, 0 to 1, of each packet: to be
	// lost, to arrive twice, to be overtaken by those of the next 20 ms.
	Loss, Duplicate, Reorder float64
}

// String tells a fault in a few words.
func (l Link) String() string {
	if l.Cut {
		return "cut"
	}
	return fmt.Sprintf("delay %v+%v, loss %.0f%%, duplicates %.0f%%, reordered %.0f%%", l.Delay, l.Jitter, 100*l.Loss, 100*l.Duplicate, 100*l.Reorder)
}

const (
	// overtake is how long a reordered packet stays behind.
	overtake = 20 * time.Millisecond
	// queueMax is how many packets a link holds up before it loses further
	// ones, as a router does.
	queueMax = 4096
)

// LAN is hosts and the switch between them.
type LAN struct {
	hosts  []*Host
	byAddr map[netip.Addr]int
	links  [][]*line // from, to
	done   sync.WaitGroup
}

// line carries the packets of one directed link.
type line struct {
	rule  atomic.Pointer[Link]
	held  atomic.Int64
	to    *Host
	queue chan packet // those that are held up in order
	stop  chan struct{}
	sent  atomic.Uint64
	lost  atomic.Uint64
}

type packet struct {
	bytes []byte
	due   time.Time
}

// New makes a network of hosts with these names, at 10.99.0.1 and on. It needs root.
func New(names ...string) (_ *LAN, err error) {
	l := &LAN{byAddr: map[netip.Addr]int{}}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	addr := netip.AddrFrom4([4]byte{10, 99, 0, 0})
	for i, name := range names {
		addr = addr.Next()
		h, err := newHost(name, addr, 24)
		if err != nil {
			return nil, err
		}
		l.hosts = append(l.hosts, h)
		l.byAddr[addr] = i
	}
	for range l.hosts {
		var lines []*line
		for _, to := range l.hosts {
			at := &line{to: to, queue: make(chan packet, queueMax), stop: make(chan struct{})}
			at.rule.Store(&Link{})
			lines = append(lines, at)
			l.done.Go(at.deliver)
		}
		l.links = append(l.links, lines)
	}
	for i := range l.hosts {
		l.done.Go(func() { l.forward(i) })
	}
	return l, nil
}

// Host is the i-th, in the order of New's names.
func (l *LAN) Host(i int) *Host { return l.hosts[i] }

// Set puts a rule on the link from one host to another, one way.
func (l *LAN) Set(from, to int, rule Link) { l.links[from][to].rule.Store(&rule) }

// Both puts the same rule on both ways.
func (l *LAN) Both(a, b int, rule Link) {
	l.Set(a, b, rule)
	l.Set(b, a, rule)
}

// Packets is how many were delivered from one host to another, and how many lost.
func (l *LAN) Packets(from, to int) (delivered, lost uint64) {
	at := l.links[from][to]
	return at.sent.Load(), at.lost.Load()
}

// Close takes the network away. Processes in it should have ended.
func (l *LAN) Close() {
	for _, h := range l.hosts {
		h.close()
	}
	for _, lines := range l.links {
		for _, at := range lines {
			close(at.stop)
		}
	}
	l.done.Wait()
}

// forward reads what a host sends until its device is closed.
func (l *LAN) forward(from int) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := l.hosts[from].tun.Read(buffer)
		if err != nil {
			return
		}
		to, ok := l.destination(buffer[:n])
		if !ok {
			continue
		}
		l.links[from][to].send(buffer[:n])
	}
}

// destination looks into the IPv4 header (RFC 791, 3.1). Other packets, such
// as IPv6's solicitations, lead nowhere.
func (l *LAN) destination(packet []byte) (int, bool) {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return 0, false
	}
	to, ok := l.byAddr[netip.AddrFrom4([4]byte(packet[16:20]))]
	return to, ok
}

// send decides what becomes of a packet, whose bytes it does not keep.
func (a *line) send(bytes []byte) {
	rule := *a.rule.Load()
	if rule.Cut || rule.Loss > 0 && rand.Float64() < rule.Loss {
		a.lost.Add(1)
		return
	}
	copies := 1
	if rule.Duplicate > 0 && rand.Float64() < rule.Duplicate {
		copies = 2
	}
	for range copies {
		a.one(bytes, rule)
	}
}

func (a *line) one(bytes []byte, rule Link) {
	wait := rule.Delay
	if rule.Jitter > 0 {
		wait += rand.N(rule.Jitter)
	}
	reorder := rule.Reorder > 0 && rand.Float64() < rule.Reorder
	switch {
	case reorder:
		if a.held.Load() >= queueMax {
			a.lost.Add(1)
			return
		}
		a.held.Add(1)
		kept := append([]byte(nil), bytes...)
		time.AfterFunc(wait+rand.N(overtake), func() {
			a.held.Add(-1)
			a.write(kept)
		})
	case wait == 0 && len(a.queue) == 0:
		a.write(bytes)
	default:
		select {
		case a.queue <- packet{append([]byte(nil), bytes...), time.Now().Add(wait)}:
		default:
			a.lost.Add(1)
		}
	}
}

// deliver hands on what is held up, each when it is due and in order.
func (a *line) deliver() {
	for {
		select {
		case <-a.stop:
			return
		case p := <-a.queue:
			if wait := time.Until(p.due); wait > 0 {
				select {
				case <-time.After(wait):
				case <-a.stop:
					return
				}
			}
			a.write(p.bytes)
		}
	}
}

// write gives a packet to the host's device. One that is full, or gone, loses it.
func (a *line) write(bytes []byte) {
	if _, err := a.to.tun.Write(bytes); err != nil {
		a.lost.Add(1)
		return
	}
	a.sent.Add(1)
}
