package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// etcd runs with its own defaults, but for these: the bound on the database is
// out of the way, and it keeps as many old revisions as Muster does. Its
// generated client is used as it is, like Muster's; the client library would
// add work of its own to every call.
type etcd struct {
	program string
	plain   bool // no TLS, neither for clients nor for peers
}

const (
	etcdQuota     = "8589934592"
	etcdRevisions = "100000"
)

func (etcd) name() string { return "etcd" }

func (e etcd) version() (string, error) {
	out, err := exec.Command(e.program, "--version").Output()
	first, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimPrefix(first, "etcd Version: "), err
}

func (e etcd) start(_ context.Context, c *cluster) (err error) {
	if !e.plain {
		if err := writeCertificates(c.dir); err != nil {
			return err
		}
	}
	for _, n := range c.nodes {
		if n.process, err = e.restart(n); err != nil {
			return err
		}
	}
	return nil
}

func (etcd) connections(allowed int) int { return allowed }

// restart is how a node starts the first time, too: it looks at its directory.
func (e etcd) restart(n *node) (*process, error) { return n.run(e.program, e.args(n)...) }

func (e etcd) args(n *node) []string {
	scheme := "https://"
	if e.plain {
		scheme = "http://"
	}
	var members []string
	for _, m := range n.in.nodes {
		members = append(members, m.name+"="+scheme+m.peer)
	}
	args := []string{
		"--name", n.name, "--data-dir", n.dir, "--log-level", "warn",
		"--listen-client-urls", scheme + n.address, "--advertise-client-urls", scheme + n.address,
		// On a port that HTTP shares, gRPC under TLS is served by Go's HTTP
		// server, which is slower; operators separate them for that reason.
		"--listen-client-http-urls", scheme + n.web,
		"--listen-peer-urls", scheme + n.peer, "--initial-advertise-peer-urls", scheme + n.peer,
		"--initial-cluster", strings.Join(members, ","), "--initial-cluster-state", "new", "--initial-cluster-token", "bench",
		"--quota-backend-bytes", etcdQuota,
		"--auto-compaction-mode", "revision", "--auto-compaction-retention", etcdRevisions,
	}
	if !e.plain {
		ca, cert, key := certificateFiles(n.in.dir)
		args = append(args,
			"--trusted-ca-file", ca, "--cert-file", cert, "--key-file", key, "--client-cert-auth",
			"--peer-trusted-ca-file", ca, "--peer-cert-file", cert, "--peer-key-file", key, "--peer-client-cert-auth")
	}
	return args
}

func certificateFiles(dir string) (ca, cert, key string) {
	return filepath.Join(dir, "ca.crt"), filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key")
}

// writeCertificates makes a CA and one certificate for all nodes and clients.
// The key is of the kind that Muster's are.
func writeCertificates(dir string) error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	from, until := time.Now().Add(-time.Minute), time.Now().Add(7*24*time.Hour)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench CA"}, NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "bench"}, NotBefore: from, NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	write := func(path, kind string, der []byte) error {
		return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
	}
	caFile, certFile, keyFile := certificateFiles(dir)
	return errors.Join(write(caFile, "CERTIFICATE", caDER), write(certFile, "CERTIFICATE", leafDER), write(keyFile, "PRIVATE KEY", keyDER))
}

func (e etcd) tls(c *cluster) (*tls.Config, error) {
	if e.plain {
		return nil, nil
	}
	caFile, certFile, keyFile := certificateFiles(c.dir)
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{certificate},
		ServerName: "127.0.0.1", NextProtos: []string{"h2"},
	}, nil
}

func (etcd) client(conn *grpc.ClientConn) client {
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
