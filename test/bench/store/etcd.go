package main

import (
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/musterhq/muster/test/bench/authority"
	etcdnode "github.com/musterhq/muster/test/bench/etcd"
	"github.com/musterhq/muster/test/bench/process"
)

// etcd keeps as many old revisions as Muster does. Its generated client is used
// as it is, like Muster's; the client library would add work of its own to
// every call.
type etcd struct {
	program string
	plain   bool // no TLS, neither for clients nor for peers

	authority *authority.Authority
	shown     *etcdnode.TLS
}

const etcdRevisions = "100000"

func (*etcd) name() string { return "etcd" }

func (e *etcd) version() (string, error) { return etcdnode.Version(e.program) }

func (e *etcd) start(_ context.Context, c *cluster) (err error) {
	if !e.plain {
		if e.authority, err = authority.New(c.dir); err != nil {
			return err
		}
		pair, err := e.authority.Issue("node", pkix.Name{CommonName: "bench"})
		if err != nil {
			return err
		}
		e.shown = &etcdnode.TLS{Authority: e.authority.File, Pair: pair}
	}
	for _, n := range c.nodes {
		if n.Process, err = e.restart(n); err != nil {
			return err
		}
	}
	return nil
}

func (*etcd) connections(allowed int) int { return allowed }

// restart is how a node starts the first time, too.
func (e *etcd) restart(n *node) (*process.Process, error) {
	var members []etcdnode.Member
	for _, m := range n.in.nodes {
		members = append(members, etcdnode.Member{Name: m.name, Dir: m.dir, Clients: m.address, Peers: m.peer, Web: m.web})
	}
	args := etcdnode.Args(members[n.index], members, e.shown)
	return n.run(e.program, append(args, "--auto-compaction-mode", "revision", "--auto-compaction-retention", etcdRevisions)...)
}

func (e *etcd) tls(*cluster) (*tls.Config, error) {
	if e.plain {
		return nil, nil
	}
	return e.authority.Client(e.shown.Pair, "h2")
}

func (*etcd) client(conn *grpc.ClientConn) client {
	return etcdClient{
		kv: etcdserverpb.NewKVClient(conn), watches: etcdserverpb.NewWatchClient(conn),
		cluster: etcdserverpb.NewClusterClient(conn), maintenance: etcdserverpb.NewMaintenanceClient(conn),
	}
}

type etcdClient struct {
	kv          etcdserverpb.KVClient
	watches     etcdserverpb.WatchClient
	cluster     etcdserverpb.ClusterClient
	maintenance etcdserverpb.MaintenanceClient
}

func (c etcdClient) put(ctx context.Context, key, value []byte) error {
	_, err := c.kv.Put(ctx, &etcdserverpb.PutRequest{Key: key, Value: value})
	return err
}

func (c etcdClient) get(ctx context.Context, key []byte, local bool) error {
	answer, err := c.kv.Range(ctx, &etcdserverpb.RangeRequest{Key: key, Serializable: local})
	if err == nil && len(answer.Kvs) == 0 {
		return fmt.Errorf("key %q is missing", key)
	}
	return err
}

func (c etcdClient) revision(ctx context.Context) (uint64, error) {
	answer, err := c.kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(keyspace + "none")})
	return uint64(answer.GetHeader().GetRevision()), err
}

func (c etcdClient) watch(ctx context.Context, prefix []byte, after uint64, put func(value []byte)) error {
	stream, err := c.watches.Watch(ctx)
	if err != nil {
		return err
	}
	end := append([]byte(nil), prefix...)
	end[len(end)-1]++ // prefixes end in '/'
	err = stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: prefix, RangeEnd: end, StartRevision: int64(after) + 1},
	}})
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		if answer.Canceled {
			return fmt.Errorf("watch canceled: %s", answer.CancelReason)
		}
		for _, event := range answer.Events {
			put(event.Kv.Value)
		}
	}
}

func (c etcdClient) state(ctx context.Context) (leads bool, voters int, err error) {
	status, err := c.maintenance.Status(ctx, &etcdserverpb.StatusRequest{})
	if err != nil {
		return false, 0, err
	}
	members, err := c.cluster.MemberList(ctx, &etcdserverpb.MemberListRequest{})
	if err != nil {
		return false, 0, err
	}
	for _, m := range members.Members {
		if !m.IsLearner {
			voters++
		}
	}
	return status.Leader != 0 && status.Leader == status.Header.MemberId, voters, nil
}
