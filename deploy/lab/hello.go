package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"
)

// Hello applies the example, waits until it runs, and shows the cluster.
func (l *Lab) Hello(ctx context.Context, out io.Writer, example string) error {
	api, err := l.API()
	if err != nil {
		return err
	}
	steps := &progress{out: out}
	if err := steps.do("hello, busybox", func(report func(string)) error {
		// A cluster that has just elected its leader may refuse for a moment.
		if err := l.await(ctx, 30*time.Second, "apply "+example, func(ctx context.Context) error {
			return l.Muster(ctx, io.Discard, "kubectl", "apply", "-f", example)
		}); err != nil {
			return err
		}
		for _, want := range []struct {
			selector string
			count    int
		}{{"app=hello", 3}, {"app=busybox", 1}} {
			if err := l.await(ctx, nodeLimit, "run "+example, func(ctx context.Context) error {
				return api.podsReady(ctx, want.selector, want.count)
			}); err != nil {
				return err
			}
		}
		report("run")
		return nil
	}); err != nil {
		return err
	}
	return l.Show(ctx, out)
}

// Show prints the nodes, the pods and who leads.
func (l *Lab) Show(ctx context.Context, out io.Writer) error {
	for _, arguments := range [][]string{
		{"kubectl", "get", "nodes", "-o", "wide"},
		{"kubectl", "get", "pods", "-A", "-o", "wide"},
		{"members", "--kubeconfig", l.Kubeconfig()},
	} {
		fmt.Fprintf(out, "\n$ muster %s\n", joined(arguments, l.Kubeconfig()))
		if err := l.Muster(ctx, out, arguments...); err != nil {
			return err
		}
	}
	return nil
}

// joined is the command line without the settings of the lab.
func joined(arguments []string, kubeconfig string) string {
	var b bytes.Buffer
	for i, a := range arguments {
		if a == "--kubeconfig" || a == kubeconfig {
			continue
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(a)
	}
	return b.String()
}
