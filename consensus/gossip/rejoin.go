package gossip

import (
	"context"
	"math/rand/v2"
	"net"
	"time"
)

const (
	// While nobody else is known, and first of the settling intervals.
	rejoinSoon = time.Second
	// While some seed is not a living member: after a partition, or because that
	// machine is down. Each attempt costs the seed one exchange of the whole
	// state, so a thousand nodes must not come often, nor all at once.
	rejoinMissing = 15 * time.Second
)

// keepJoined returns when ctx ends.
//
// A node that comes back at another address is refused until others see its
// former self dead, some seconds later, and nobody tells it then: it has to
// ask again. It cannot always know that it was refused. So each node, after
// its start and after each sign of a dispute, joins again at growing intervals
// until that time has surely passed.
func (g *Gossip) keepJoined(ctx context.Context) {
	soon, missing := rejoinSoon, rejoinMissing
	if g.config.Fast {
		soon, missing = soon/5, missing/5
	}
	settle := soon
	for ctx.Err() == nil {
		if g.members.takeDispute() {
			settle = soon
		}
		if through := g.through(ctx, settle < missing); len(through) > 0 {
			if n, err := g.list.Join(through); err == nil {
				g.log.Debug("joined", "through", n)
			} else if ctx.Err() == nil {
				g.log.Debug("could not reach seeds", "error", err)
			}
		}
		wait := missing + rand.N(missing/2)
		switch {
		case g.alone():
			wait = soon
		case settle < missing:
			wait, settle = settle, 2*settle
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// through gives the seeds that are not living members; while settling, if all
// are, one of them.
func (g *Gossip) through(ctx context.Context, settling bool) []string {
	living := map[string]bool{}
	for _, m := range g.Members() {
		living[m.Address] = m.State == Alive
	}
	var missing, others []string
	for _, seed := range g.config.Seeds() {
		address := resolve(ctx, seed)
		switch {
		case address == g.Addr():
		case living[address]:
			others = append(others, seed)
		default:
			missing = append(missing, seed)
		}
	}
	if settling && len(missing) == 0 && len(others) > 0 {
		return []string{others[rand.N(len(others))]}
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
