package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// API asks the lab's cluster, as its administrator.
type API struct {
	lab   *Lab
	hosts map[string]*kubernetes.Clientset
}

// API reaches every control host.
func (l *Lab) API() (*API, error) {
	api := &API{lab: l, hosts: map[string]*kubernetes.Clientset{}}
	for _, h := range l.Of(Control) {
		config, err := l.RESTConfig(h.Name)
		if err != nil {
			return nil, err
		}
		config.Timeout = 5 * time.Second
		if api.hosts[h.Name], err = kubernetes.NewForConfig(config); err != nil {
			return nil, err
		}
	}
	return api, nil
}

// RESTConfig is how an administrator reaches one control host.
func (l *Lab) RESTConfig(control string) (*rest.Config, error) {
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: l.Kubeconfig()},
		&clientcmd.ConfigOverrides{CurrentContext: control}).ClientConfig()
}

// writeKubeconfig makes the administrator's file from the one that the first
// host wrote: the same credentials, and a context for each control host.
func (l *Lab) writeKubeconfig() error {
	config, err := clientcmd.LoadFromFile(filepath.Join(l.Hosts[0].Dir, adminFile))
	if err != nil {
		return err
	}
	current := config.Contexts[config.CurrentContext]
	if current == nil || config.Clusters[current.Cluster] == nil {
		return fmt.Errorf("%s of %s has no current context", adminFile, l.Hosts[0].Name)
	}
	made := config.DeepCopy()
	clear(made.Contexts)
	clear(made.Clusters)
	for _, h := range l.Of(Control) {
		cluster := config.Clusters[current.Cluster].DeepCopy()
		cluster.Server = "https://" + h.API()
		made.Clusters[h.Name] = cluster
		context := current.DeepCopy()
		context.Cluster = h.Name
		made.Contexts[h.Name] = context
	}
	made.CurrentContext = l.Hosts[0].Name
	raw, err := clientcmd.Write(*made)
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(l.Kubeconfig()); err == nil && bytes.Equal(have, raw) {
		return nil
	}
	if err := os.WriteFile(l.Kubeconfig()+".partial", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(l.Kubeconfig()+".partial", l.Kubeconfig())
}

// serves is nil when the control host takes requests and has joined.
func (a *API) serves(ctx context.Context, control string) error {
	_, err := a.hosts[control].Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("%s is not ready: %w", control, err)
	}
	return nil
}

// any asks the control hosts in turn until one answers.
func (a *API) any(ctx context.Context, f func(context.Context, kubernetes.Interface) error) error {
	var errs []error
	for _, h := range a.lab.Of(Control) {
		err := f(ctx, a.hosts[h.Name])
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", h.Name, err))
	}
	return errors.Join(errs...)
}

func (a *API) nodeReady(ctx context.Context, name string) error {
	return a.any(ctx, func(ctx context.Context, api kubernetes.Interface) error {
		node, err := api.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady {
				if condition.Status == corev1.ConditionTrue {
					return nil
				}
				return fmt.Errorf("node %s is not Ready: %s", name, condition.Message)
			}
		}
		return fmt.Errorf("node %s does not say whether it is Ready", name)
	})
}

// podsReady is nil when the selector's pods are count and all Ready.
func (a *API) podsReady(ctx context.Context, selector string, count int) error {
	return a.any(ctx, func(ctx context.Context, api kubernetes.Interface) error {
		pods, err := api.CoreV1().Pods(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return err
		}
		ready := 0
		var waiting []string
		for _, pod := range pods.Items {
			says := fmt.Sprintf("%s is %s", pod.Name, pod.Status.Phase)
			for _, condition := range pod.Status.Conditions {
				if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil {
					ready, says = ready+1, ""
				}
			}
			for _, status := range pod.Status.ContainerStatuses {
				if says != "" && status.State.Waiting != nil {
					says += ": " + status.State.Waiting.Reason + " " + status.State.Waiting.Message
				}
			}
			if says != "" {
				waiting = append(waiting, says)
			}
		}
		if ready < count {
			return fmt.Errorf("%d of %d pods of %s are ready; %s", ready, count, selector, strings.Join(waiting, "; "))
		}
		return nil
	})
}

// Muster runs a command of the muster binary on this machine, as a person would.
// KUBECONFIG leads to the lab's cluster.
func (l *Lab) Muster(ctx context.Context, out io.Writer, arguments ...string) error {
	cmd := exec.CommandContext(ctx, l.muster, arguments...)
	// kubectl caches below its user's home.
	cmd.Env = append(environment(), "KUBECONFIG="+l.Kubeconfig(), "HOME="+l.Dir)
	var failure bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &failure
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("muster %s: %w: %s", strings.Join(arguments, " "), err, strings.TrimSpace(failure.String()))
	}
	return nil
}

// Leader is the control host that leads, as the first of them that answers has
// it. It is an error when that one knows none.
func (l *Lab) Leader(ctx context.Context) (string, error) {
	arguments := []string{"members", "--kubeconfig", l.Kubeconfig()}
	for _, h := range l.Of(Control) {
		if _, running := h.Running(); running {
			arguments = append(arguments, "--server", h.API())
		}
	}
	var out bytes.Buffer
	if err := l.Muster(ctx, &out, arguments...); err != nil {
		return "", err
	}
	return leaderIn(out.String())
}

// leaderIn finds the name in the row of a table of members whose LEADER says yes.
func leaderIn(members string) (string, error) {
	header, rows, _ := strings.Cut(members, "\n")
	column := strings.Index(header, "LEADER")
	if column < 0 {
		return "", fmt.Errorf("no column LEADER in:\n%s", members)
	}
	for row := range strings.Lines(rows) {
		if len(row) > column && strings.TrimSpace(row[column:]) == "yes" {
			return strings.Fields(row)[0], nil
		}
	}
	return "", fmt.Errorf("no leader in:\n%s", members)
}
