package gossip

import (
	"context"
	"math/rand/v2"
	"net"
	"time"
)

const (
	// While nobody else is known, or this node's name is disputed.
	rejoinAlone = time.Second
	// While some seed is not a living member: after a partition, or because that
	// machine is down. Each attempt costs the seed one exchange of the whole
	// state, so a thousand nodes must not come often, nor all at once.
	rejoinMissing = 15 * time.Second
)

// keepJoined returns when ctx ends.
func (g *Gossip) keepJoined(ctx context.Context) {
	for ctx.Err() == nil {
		disputed := g.members.takeDispute()
		if missing := g.missing(ctx, disputed); len(missing) > 0 {
			if n, err := g.list.Join(missing); err == nil {
				g.log.Debug("joined", "through", n)
			} else if ctx.Err() == nil {
				g.log.Debug("could not reach seeds", "error", err)
			}
		}
		wait := rejoinMissing + rand.N(rejoinMissing/2)
		if g.members.disputed() || g.alone() {
			wait = rejoinAlone
			if g.config.Fast {
				wait /= 5
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// missing are the seeds that are not living members. While this node's name is
// disputed, all others are: until its former self is seen dead they refuse
// this node, though it sees them.
func (g *Gossip) missing(ctx context.Context, disputed bool) []string {
	living := map[string]bool{}
	for _, m := range g.Members() {
		living[m.Address] = m.State == Alive && (!disputed || m.Name == g.config.Name)
	}
	living[g.Addr()] = true
	var missing []string
	for _, seed := range g.config.Seeds() {
		if !living[resolve(ctx, seed)] {
			missing = append(missing, seed)
		}
	}
	return missing
}

func (g *Gossip) alone() bool {
	for _, m := range g.Members() {
		if m.State == Alive && m.Name != g.config.Name {
			return false
		}
	}
	return true
}

// resolve turns the host of an address into the form that members have. What
// cannot be resolved is left as it is.
func resolve(ctx context.Context, addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
	if err != nil || len(ips) == 0 {
		return addr
	}
	return net.JoinHostPort(ips[0].String(), port)
}
