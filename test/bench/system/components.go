package system

import (
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/musterhq/muster/test/bench/process"
)

// What beside API servers makes a Kubernetes cluster, one of each on every node,
// electing a leader as they do by default. Their clients are administrators,
// whom nothing makes wait for their turn, and have limits that are out of the
// way.
const (
	clientRequests = "5000" // a second, and in a burst
	syncsAtOnce    = "50"   // of the kinds that are measured; the default is 5 for most
)

// StartScheduler runs kube-scheduler on every node.
func (k *Kubernetes) StartScheduler(c *Cluster) error {
	return k.onEveryNode(c, k.Scheduler)
}

// StartControllers runs kube-controller-manager on every node. Nodes count as
// lost when nothing is heard of them for the grace; 0: its default.
func (k *Kubernetes) StartControllers(c *Cluster, grace time.Duration) error {
	args := []string{
		"--service-account-private-key-file", k.accounts.Key, "--root-ca-file", k.authority.File,
		"--concurrent-deployment-syncs", syncsAtOnce, "--concurrent-replicaset-syncs", syncsAtOnce, "--concurrent-gc-syncs", syncsAtOnce,
	}
	if grace > 0 {
		args = append(args, "--node-monitor-grace-period", grace.String())
	}
	return k.onEveryNode(c, k.Controllers, args...)
}

func (k *Kubernetes) onEveryNode(c *Cluster, program string, args ...string) error {
	for _, n := range c.Nodes {
		// Each speaks to its own node's API server.
		config, err := k.kubeconfig(n)
		if err != nil {
			return err
		}
		port, err := process.FreePort()
		if err != nil {
			return err
		}
		if err := n.run(program, append([]string{
			"--kubeconfig", config, "--authentication-kubeconfig", config, "--authorization-kubeconfig", config,
			"--bind-address", "127.0.0.1", "--secure-port", strconv.Itoa(port),
			"--kube-api-qps", clientRequests, "--kube-api-burst", clientRequests,
		}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

func (k *Kubernetes) kubeconfig(n *Node) (string, error) {
	admin, err := k.Administrator(n)
	if err != nil {
		return "", err
	}
	path := filepath.Join(n.Dir, "admin.kubeconfig")
	return path, clientcmd.WriteToFile(kubeconfigOf(admin), path)
}

func kubeconfigOf(c *rest.Config) clientcmdapi.Config {
	const name = "bench"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: c.Host, CertificateAuthority: c.CAFile}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificate: c.CertFile, ClientKey: c.KeyFile}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	return *config
}
