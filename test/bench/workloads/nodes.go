package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/process"
	"github.com/musterhq/muster/test/bench/system"
)

const (
	nodesTimeout = 10 * time.Minute
	nodesEach    = 200 * time.Millisecond // between looks whether all are there, at least
	// nodesPatience is how many times as long as a look took no other follows: a look
	// decodes all nodes, and the processors are needed for who joins.
	nodesPatience = 9
)

func nodeName(number int) string { return fmt.Sprintf("node-%d", number) }

// nodeOf is upstream's node-default.yaml, with the labels that every node has,
// and a zone if there are any.
func nodeOf(number int, zones []string) *corev1.Node {
	name := nodeName(number)
	labels := map[string]string{corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"}
	if len(zones) > 0 {
		labels[corev1.LabelTopologyZone] = zones[number%len(zones)]
	}
	room := corev1.ResourceList{
		corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("32Gi"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}},
		},
	}
}

// addNodes has a cluster get its compute nodes, and returns once pods can go to
// all of them.
func (l *lab) addNodes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, nodesTimeout)
	defer cancel()
	if _, ours := l.System.(system.Muster); ours {
		for i := range l.victims {
			if err := l.startHollow(ctx, i, 1); err != nil {
				return err
			}
		}
		if err := l.startHollow(ctx, l.victims, l.nodes-l.victims); err != nil {
			return err
		}
	} else if err := l.createNodes(ctx); err != nil {
		return err
	}
	return l.awaitNodes(ctx)
}

// agentsDir is where Muster's compute nodes keep what they keep.
func (l *lab) agentsDir() string { return filepath.Join(l.bench.agentsDir, filepath.Base(l.Dir)) }

// startHollow runs a process with some of the nodes. It ends with the lab.
func (l *lab) startHollow(ctx context.Context, first, count int) error {
	muster := l.System.(system.Muster)
	token, err := muster.AgentToken(ctx, l.Cluster)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var servers []string
	for _, n := range l.Nodes {
		servers = append(servers, n.Address)
	}
	args := []string{
		hollowCommand, "--first", strconv.Itoa(first), "--count", strconv.Itoa(count), "--dir", l.agentsDir(),
		"--servers", strings.Join(servers, ","), "--zones", strings.Join(l.zones, ","), "--idle=" + strconv.FormatBool(!l.agents),
	}
	p, err := process.StartWith(strings.NewReader(token), filepath.Join(l.Dir, fmt.Sprintf("hollow-%d.log", first)), self, args...)
	if err == nil {
		l.hollow = append(l.hollow, p)
	}
	return err
}

// createNodes makes Node objects that nobody stands behind.
func (l *lab) createNodes(ctx context.Context) error {
	err := l.all(ctx, l.nodes, func(ctx context.Context, client *kubernetes.Clientset, i int) error {
		_, err := client.CoreV1().Nodes().Create(ctx, nodeOf(i, l.zones), metav1.CreateOptions{})
		return err
	})
	if err != nil || !l.beats {
		return err
	}
	return l.renewLeases(l.life)
}

// awaitNodes returns once every node is ready and none is tainted.
func (l *lab) awaitNodes(ctx context.Context) error {
	defer l.profile(ctx)()
	for {
		looked := time.Now()
		list, err := l.clients[0].CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("wait for nodes: %w", err)
		}
		fit := 0
		for i := range list.Items {
			if fitForPods(&list.Items[i]) {
				fit++
			}
		}
		if fit >= l.nodes {
			return nil
		}
		if err := l.alive(); err != nil {
			return err
		}
		measure.Sleep(ctx, max(nodesEach, nodesPatience*time.Since(looked)))
		if ctx.Err() != nil {
			return fmt.Errorf("%d of %d nodes are ready after %v", fit, l.nodes, nodesTimeout)
		}
	}
}

func fitForPods(n *corev1.Node) bool {
	if len(n.Spec.Taints) > 0 || n.Spec.Unschedulable {
		return false
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
