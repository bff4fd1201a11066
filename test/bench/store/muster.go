package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"sigs.k8s.io/yaml"

	"github.com/musterhq/muster/control/operator/kvclient"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	"github.com/musterhq/muster/test/bench/process"
)

// As in consensus/identity and consensus/transport, which are not imported so
// that this module needs nothing but the protocol.
const (
	musterServerName = "muster-server"
	musterALPN       = "muster-grpc/1"
)

// muster is three whole control nodes, each with the API server, and the
// leader with the scheduler and the controllers. There is no smaller process
// that has the store.
type muster struct {
	program string
	unary   bool // a gRPC call for each operation, instead of a stream that they share
}

func (muster) name() string { return "muster" }

func (m muster) version() (string, error) {
	out, err := exec.Command(m.program, "--version").Output()
	return strings.TrimSpace(strings.TrimPrefix(string(out), "muster version ")), err
}

func (m muster) args(n *node, more ...string) []string {
	return append([]string{"server", "--dir", n.dir}, more...)
}

// start makes the cluster with the first node and has the others join it.
func (m muster) start(ctx context.Context, c *cluster) (err error) {
	founder := c.nodes[0]
	token := ""
	for _, n := range c.nodes {
		args := m.args(n, "--name", n.name, "--address", n.address, "--listen", n.address, "--gossip-address", n.peer)
		if n == founder {
			args = append(args, "--init")
		} else {
			args = append(args, "--join", founder.address, "--token", token)
		}
		if n.Process, err = n.run(m.program, args...); err != nil {
			return err
		}
		if n == founder {
			if token, err = awaitFile(ctx, n, "server-token"); err != nil {
				return err
			}
			if _, err = awaitFile(ctx, n, "admin.kubeconfig"); err != nil {
				return err
			}
		}
	}
	return nil
}

// restart needs the directory only: the node keeps its name and addresses there.
func (m muster) restart(n *node) (*process.Process, error) { return n.run(m.program, m.args(n)...) }

// awaitFile reads what a node writes into its directory once it has it.
func awaitFile(ctx context.Context, n *node, file string) (string, error) {
	for {
		text, err := os.ReadFile(filepath.Join(n.dir, file))
		if err == nil && len(text) > 0 {
			return strings.TrimSpace(string(text)), nil
		}
		if err := n.Alive(); err != nil {
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s did not write %s; the end of its log:\n%s", n.name, file, process.Tail(n.Log, 2000))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (muster) tls(c *cluster) (*tls.Config, error) {
	text, err := os.ReadFile(filepath.Join(c.nodes[0].dir, "admin.kubeconfig"))
	if err != nil {
		return nil, err
	}
	return administrator(text)
}

// administrator reads the cluster's CA and the certificate out of a kubeconfig
// with one cluster and one user.
func administrator(kubeconfig []byte) (*tls.Config, error) {
	var config struct {
		Clusters []struct {
			Cluster struct {
				CA string `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Certificate string `json:"client-certificate-data"`
				Key         string `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(kubeconfig, &config); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	if len(config.Clusters) != 1 || len(config.Users) != 1 {
		return nil, fmt.Errorf("kubeconfig: %d clusters and %d users, want one of each", len(config.Clusters), len(config.Users))
	}
	var pem [3][]byte
	for i, field := range []string{config.Clusters[0].Cluster.CA, config.Users[0].User.Certificate, config.Users[0].User.Key} {
		var err error
		if pem[i], err = base64.StdEncoding.DecodeString(field); err != nil {
			return nil, fmt.Errorf("kubeconfig: %w", err)
		}
	}
	certificate, err := tls.X509KeyPair(pem[1], pem[2])
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: client certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem[0]) {
		return nil, errors.New("kubeconfig: certificate-authority-data holds no certificate")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{certificate},
		ServerName: musterServerName, NextProtos: []string{musterALPN},
	}, nil
}

// connections: Muster's client joins the calls that are on one connection.
func (m muster) connections(allowed int) int {
	if m.unary {
		return allowed
	}
	return 1
}

func (m muster) client(conn *grpc.ClientConn) client {
	c := musterClient{kv: clusterv1.NewKVClient(conn), members: clusterv1.NewOperatorClient(conn)}
	c.calls = unaryCalls{c.kv}
	if !m.unary {
		c.calls = kvclient.New(conn) // ends with its connection
	}
	return c
}

type musterClient struct {
	calls   calls
	kv      clusterv1.KVClient
	members clusterv1.OperatorClient
}

type calls interface {
	Get(context.Context, *clusterv1.KVGetRequest) (*clusterv1.KVGetResponse, error)
	Commit(context.Context, *clusterv1.KVCommitRequest) (*clusterv1.KVCommitResponse, error)
}

type unaryCalls struct{ kv clusterv1.KVClient }

func (c unaryCalls) Get(ctx context.Context, r *clusterv1.KVGetRequest) (*clusterv1.KVGetResponse, error) {
	return c.kv.Get(ctx, r)
}

func (c unaryCalls) Commit(ctx context.Context, r *clusterv1.KVCommitRequest) (*clusterv1.KVCommitResponse, error) {
	return c.kv.Commit(ctx, r)
}

func (c musterClient) put(ctx context.Context, key, value []byte) error {
	_, err := c.calls.Commit(ctx, &clusterv1.KVCommitRequest{Ops: []*clusterv1.KVOp{{Key: key, Value: value}}})
	return err
}

func (c musterClient) get(ctx context.Context, key []byte, local bool) error {
	answer, err := c.calls.Get(ctx, &clusterv1.KVGetRequest{Key: key, Local: local})
	if err == nil && answer.Item == nil {
		return fmt.Errorf("key %q is missing", key)
	}
	return err
}

func (c musterClient) revision(ctx context.Context) (uint64, error) {
	answer, err := c.kv.Get(ctx, &clusterv1.KVGetRequest{Key: []byte(keyspace + "none")})
	return answer.GetRevision(), err
}

func (c musterClient) watch(ctx context.Context, prefix []byte, after uint64, put func(value []byte)) error {
	stream, err := c.kv.Watch(ctx, &clusterv1.KVWatchRequest{Prefix: prefix, After: after})
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, event := range answer.Events {
			put(event.Value)
		}
	}
}

func (c musterClient) state(ctx context.Context) (leads bool, voters int, err error) {
	answer, err := c.members.Members(ctx, &clusterv1.MembersRequest{})
	if err != nil {
		return false, 0, err
	}
	for _, m := range answer.Members {
		if m.Voter {
			voters++
		}
	}
	return answer.Leader != "" && answer.Leader == answer.AnsweredBy, voters, nil
}
