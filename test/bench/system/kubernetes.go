package system

import (
	"context"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"

	"github.com/musterhq/muster/test/bench/authority"
	"github.com/musterhq/muster/test/bench/etcd"
)

// Kubernetes is a kube-apiserver and an etcd for each node, each API server
// speaking to all etcds. Muster's nodes have a scheduler and controllers in them;
// here they run only if they are started (StartScheduler, StartControllers).
type Kubernetes struct {
	APIServer, Etcd        string // the programs
	Scheduler, Controllers string // kube-scheduler and kube-controller-manager

	authority *authority.Authority
	members   *etcd.TLS
	server    authority.Pair
	admin     authority.Pair
	accounts  authority.Pair // whose key signs service accounts' tokens
}

func (*Kubernetes) Name() string { return "kubernetes" }

func (k *Kubernetes) Version() (string, error) {
	ours, err := exec.Command(k.APIServer, "--version").Output()
	if err != nil {
		return "", err
	}
	theirs, err := etcd.Version(k.Etcd)
	return fmt.Sprintf("%s with etcd %s", strings.TrimPrefix(strings.TrimSpace(string(ours)), "Kubernetes "), theirs), err
}

func (k *Kubernetes) start(_ context.Context, c *Cluster) error {
	var err error
	if k.authority, err = authority.New(c.Dir); err != nil {
		return err
	}
	k.members = &etcd.TLS{Authority: k.authority.File}
	for name, p := range map[string]*authority.Pair{"etcd": &k.members.Pair, "apiserver": &k.server, "accounts": &k.accounts} {
		if *p, err = k.authority.Issue(name, pkix.Name{CommonName: "bench " + name}); err != nil {
			return err
		}
	}
	if k.admin, err = k.authority.Issue("admin", pkix.Name{CommonName: "admin", Organization: []string{user.SystemPrivilegedGroup}}); err != nil {
		return err
	}
	return k.restart(c)
}

// restart is how nodes start the first time, too.
func (k *Kubernetes) restart(c *Cluster) error {
	var members []etcd.Member
	for _, n := range c.Nodes {
		members = append(members, etcd.Member{Name: n.Name, Dir: filepath.Join(n.Dir, "etcd"), Clients: n.others[0], Peers: n.others[1], Web: n.others[2]})
	}
	for i, n := range c.Nodes {
		if err := os.MkdirAll(members[i].Dir, 0o700); err != nil {
			return err
		}
		if err := n.run(k.Etcd, etcd.Args(members[i], members, k.members)...); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		if err := n.run(k.APIServer, k.args(n, members)...); err != nil {
			return err
		}
	}
	return nil
}

// args are those without which it does not start, the authorization that every
// cluster has, and an address to advertise, which must not be on loopback.
func (k *Kubernetes) args(n *Node, members []etcd.Member) []string {
	var urls []string
	for i := range members {
		// Its own first: which is connected to first is the order in which they are named.
		urls = append(urls, k.members.URL(members[(n.index+i)%len(members)].Clients))
	}
	host, port, _ := net.SplitHostPort(n.Address)
	return []string{
		"--bind-address", host, "--secure-port", port,
		"--advertise-address", fmt.Sprintf("192.0.2.%d", n.index+1),
		"--tls-cert-file", k.server.Certificate, "--tls-private-key-file", k.server.Key, "--client-ca-file", k.authority.File,
		"--etcd-servers", strings.Join(urls, ","), "--etcd-cafile", k.authority.File,
		"--etcd-certfile", k.members.Certificate, "--etcd-keyfile", k.members.Key,
		"--authorization-mode", "Node,RBAC",
		"--service-cluster-ip-range", "10.96.0.0/16",
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", k.accounts.Certificate, "--service-account-signing-key-file", k.accounts.Key,
	}
}

func (k *Kubernetes) Administrator(n *Node) (*rest.Config, error) {
	return &rest.Config{
		Host: "https://" + n.Address,
		TLSClientConfig: rest.TLSClientConfig{
			CAFile: k.authority.File, CertFile: k.admin.Certificate, KeyFile: k.admin.Key,
		},
	}, nil
}
