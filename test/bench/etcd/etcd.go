// Package etcd says how the etcd nodes run that Muster is compared with: with
// their own defaults, but for what is named here.
package etcd

import (
	"os/exec"
	"strings"

	"github.com/musterhq/muster/test/bench/authority"
)

// quota is the bound on the database, which is to be out of the way.
const quota = "8589934592"

// Member is one node. Addresses are host:port.
type Member struct {
	Name, Dir string
	// On a port that HTTP shares, gRPC under TLS is served by Go's HTTP server,
	// which is slower; operators separate Web from Clients for that reason.
	Clients, Peers, Web string
}

// TLS is what the nodes show each other and their clients.
type TLS struct {
	Authority string // the file of its certificate
	authority.Pair
}

// URL is how one speaks to an address; t is nil for plain text.
func (t *TLS) URL(address string) string {
	if t == nil {
		return "http://" + address
	}
	return "https://" + address
}

// Args start one member of all. They are the same the first time and later: a
// node looks at its directory.
func Args(m Member, all []Member, t *TLS) []string {
	var cluster []string
	for _, other := range all {
		cluster = append(cluster, other.Name+"="+t.URL(other.Peers))
	}
	args := []string{
		"--name", m.Name, "--data-dir", m.Dir, "--log-level", "warn",
		"--listen-client-urls", t.URL(m.Clients), "--advertise-client-urls", t.URL(m.Clients),
		"--listen-client-http-urls", t.URL(m.Web),
		"--listen-peer-urls", t.URL(m.Peers), "--initial-advertise-peer-urls", t.URL(m.Peers),
		"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new", "--initial-cluster-token", "bench",
		"--quota-backend-bytes", quota,
	}
	if t != nil {
		args = append(args,
			"--trusted-ca-file", t.Authority, "--cert-file", t.Certificate, "--key-file", t.Key, "--client-cert-auth",
			"--peer-trusted-ca-file", t.Authority, "--peer-cert-file", t.Certificate, "--peer-key-file", t.Key, "--peer-client-cert-auth")
	}
	return args
}

// Version asks the program.
func Version(program string) (string, error) {
	out, err := exec.Command(program, "--version").Output()
	first, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimPrefix(first, "etcd Version: "), err
}
