package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	"github.com/musterhq/muster/test/chaos/check"
)

// processKey is the trailer of every answer, see package node.
const processKey = "chaos-process"

// client does one operation after the other, and writes down what it knows of
// each. It stays with its node, or goes to another one now and then.
type client struct {
	id    int
	run   *run
	rng   *rand.Rand
	hops  bool
	at    int
	conns []*grpc.ClientConn // by node
	known map[string]check.Item
	count int
	ops   []*check.Op
}

func (r *run) newClient(id int) (*client, error) {
	c := &client{
		id: id, run: r, rng: rand.New(rand.NewPCG(r.Seed, uint64(1000+id))),
		hops: id%2 == 1, at: id % len(r.cluster.nodes), known: map[string]check.Item{},
	}
	for _, n := range r.cluster.nodes {
		conn, err := r.cluster.dial(n)
		if err != nil {
			return nil, err
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

func (c *client) close() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

// Run works until ctx ends; an operation under way is finished.
func (c *client) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if c.hops && c.rng.IntN(20) == 0 {
			c.at = c.rng.IntN(len(c.conns))
		}
		if !c.connected(ctx) {
			if c.hops {
				c.at = (c.at + 1) % len(c.conns)
			}
			continue
		}
		op := c.next()
		c.do(op)
		c.ops = append(c.ops, op)
		c.run.count(op)
		wait := time.Duration(1+c.rng.IntN(15)) * time.Millisecond
		if op.Outcome == check.Unknown || op.Outcome == check.Refused {
			wait = time.Duration(50+c.rng.IntN(200)) * time.Millisecond
		}
		_ = pause(ctx, wait)
	}
}

// connected waits a moment for a connection, so that what is not sent at all
// does not count as possibly done.
func (c *client) connected(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	conn := c.conns[c.at]
	for {
		state := conn.GetState()
		if state == connectivity.Ready {
			return true
		}
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			return false
		}
	}
}

// unique makes a value that no other write has.
func (c *client) unique() string {
	c.count++
	return fmt.Sprintf("c%d-%d", c.id, c.count)
}

// next chooses what to do.
func (c *client) next() *check.Op {
	choice := c.rng.IntN(100)
	if choice < 18 {
		return c.nextOfBank(choice)
	}
	key := c.run.keys.key(c.rng)
	known, read := c.known[key]
	guard := check.Guard{Key: key, Revision: known.Revision, Value: known.Value}
	put := check.Write{Key: key, Value: c.unique()}
	commit := func(guards []check.Guard, write check.Write) *check.Op {
		return &check.Op{Commit: &check.Commit{Guards: guards, Writes: []check.Write{write}}}
	}
	switch {
	case choice < 33:
		return commit(nil, put)
	case choice < 50 && read:
		return commit([]check.Guard{guard}, put)
	case choice < 57:
		return commit([]check.Guard{{Key: key}}, put)
	case choice < 61:
		return commit(nil, check.Write{Key: key})
	case choice < 66 && read && known.Value != "":
		return commit([]check.Guard{guard}, check.Write{Key: key})
	case choice < 70:
		return &check.Op{List: key[:strings.LastIndexByte(key, '/')+1], Local: choice < 68}
	case choice < 76:
		return &check.Op{Get: key, Local: true}
	default:
		return &check.Op{Get: key}
	}
}

// nextOfBank lists accounts, opens them all at once, or moves money.
func (c *client) nextOfBank(choice int) *check.Op {
	bank := c.run.banks.bank()
	accounts := make([]check.Item, bankAccounts)
	var missing bool
	for i := range accounts {
		item, ok := c.known[fmt.Sprintf("%sa%d", bank, i)]
		missing = missing || !ok || item.Value == ""
		accounts[i] = item
	}
	if _, listed := c.known[bank]; !listed || choice < 8 {
		c.known[bank] = check.Item{}
		return &check.Op{List: bank, Local: listed && choice == 7}
	}
	op := &check.Op{Commit: &check.Commit{}}
	if missing {
		delete(c.known, bank) // look again afterwards
		for i := range bankAccounts {
			key := fmt.Sprintf("%sa%d", bank, i)
			op.Commit.Guards = append(op.Commit.Guards, check.Guard{Key: key})
			op.Commit.Writes = append(op.Commit.Writes, check.Write{Key: key, Value: check.Balance(bankEach, c.unique())})
		}
		return op
	}
	from := c.rng.IntN(bankAccounts)
	to := (from + 1 + c.rng.IntN(bankAccounts-1)) % bankAccounts
	amount := 1 + c.rng.IntN(10)
	for _, move := range []struct{ account, change int }{{from, -amount}, {to, amount}} {
		account := accounts[move.account]
		balance, err := check.ParseBalance(account.Value)
		if err != nil {
			c.run.found(check.Once, "%v", err)
			continue
		}
		op.Commit.Guards = append(op.Commit.Guards, check.Guard{Key: account.Key, Revision: account.Revision, Value: account.Value})
		op.Commit.Writes = append(op.Commit.Writes, check.Write{Key: account.Key, Value: check.Balance(balance+move.change, c.unique())})
	}
	return op
}

// do carries an operation out and fills in what came of it.
func (c *client) do(op *check.Op) {
	kv := clusterv1.NewKVClient(c.conns[c.at])
	var trailer metadata.MD
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1000+c.rng.IntN(3000))*time.Millisecond)
	defer cancel()
	op.Client, op.Node, op.Call = c.id, c.run.cluster.nodes[c.at].name, c.run.now()
	var err error
	switch {
	case op.Commit != nil:
		err = commit(ctx, kv, op, &trailer)
	case op.Get != "":
		err = get(ctx, kv, op, &trailer)
	default:
		err = list(ctx, kv, op, &trailer)
	}
	op.Return = c.run.now()
	if process := trailer.Get(processKey); len(process) > 0 {
		op.Process = op.Node + "/" + process[0]
	}
	op.Outcome = outcome(err, op.Process != "")
	if err != nil {
		op.Error = err.Error()
	}
	c.learn(op)
}

// outcome is what an error says of an operation. Only what a node has answered
// says anything: a broken connection is UNAVAILABLE to gRPC, too.
func outcome(err error, answered bool) check.Outcome {
	switch {
	case err == nil:
		return check.OK
	case !answered:
		return check.Unknown
	}
	switch status.Code(err) {
	case codes.Aborted:
		return check.Failed
	case codes.Unavailable, codes.ResourceExhausted:
		return check.Refused
	default:
		return check.Unknown
	}
}

func commit(ctx context.Context, kv clusterv1.KVClient, op *check.Op, trailer *metadata.MD) error {
	request := &clusterv1.KVCommitRequest{}
	for _, g := range op.Commit.Guards {
		request.Guards = append(request.Guards, &clusterv1.KVGuard{Key: []byte(g.Key), Revision: g.Revision})
	}
	for _, w := range op.Commit.Writes {
		request.Ops = append(request.Ops, &clusterv1.KVOp{Key: []byte(w.Key), Value: []byte(w.Value), Delete: w.Value == ""})
	}
	response, err := kv.Commit(ctx, request, grpc.Trailer(trailer))
	op.Revision, op.WriteRevisions = response.GetRevision(), response.GetOpRevisions()
	return err
}

func get(ctx context.Context, kv clusterv1.KVClient, op *check.Op, trailer *metadata.MD) error {
	response, err := kv.Get(ctx, &clusterv1.KVGetRequest{Key: []byte(op.Get), Local: op.Local}, grpc.Trailer(trailer))
	if err == nil {
		op.Revision = response.Revision
		if response.Item != nil {
			op.Items = items([]*clusterv1.KVItem{response.Item})
		}
	}
	return err
}

func list(ctx context.Context, kv clusterv1.KVClient, op *check.Op, trailer *metadata.MD) error {
	response, err := kv.List(ctx, &clusterv1.KVListRequest{Prefix: []byte(op.List), Local: op.Local}, grpc.Trailer(trailer))
	if err == nil {
		op.Revision, op.Items = response.Revision, items(response.Items)
	}
	return err
}

func items(from []*clusterv1.KVItem) []check.Item {
	var to []check.Item
	for _, i := range from {
		to = append(to, check.Item{Key: string(i.Key), Value: string(i.Value), Revision: i.Revision, CreateRevision: i.CreateRevision})
	}
	return to
}

// learn keeps what the client has read for its guards; what a failed one stood
// for is forgotten.
func (c *client) learn(op *check.Op) {
	switch {
	case op.Commit == nil && op.Outcome == check.OK:
		if op.Get != "" {
			c.known[op.Get] = check.Item{Key: op.Get}
		}
		for _, item := range op.Items {
			c.known[item.Key] = item
		}
	case op.Commit != nil && op.Outcome != check.OK:
		for _, w := range op.Commit.Writes {
			delete(c.known, w.Key)
			delete(c.known, c.run.group(w.Key))
		}
	case op.Commit != nil && len(op.WriteRevisions) == len(op.Commit.Writes):
		for i, w := range op.Commit.Writes {
			if w.Value == "" {
				c.known[w.Key] = check.Item{Key: w.Key}
			} else {
				c.known[w.Key] = check.Item{Key: w.Key, Value: w.Value, Revision: op.WriteRevisions[i]}
			}
		}
	}
}
