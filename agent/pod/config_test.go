package pod

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/musterhq/muster/agent/runtime"
)

func TestEnvironment(t *testing.T) {
	pod := newPod("p", corev1.Container{Name: "main", Resources: corev1.ResourceRequirements{
		Limits:   corev1.ResourceList{"memory": resource.MustParse("64Mi")},
		Requests: corev1.ResourceList{"cpu": resource.MustParse("250m")},
	}})
	pod.Labels = map[string]string{"app": "web"}
	pod.Spec.ServiceAccountName = "robot"
	node := Node{Name: "n1", IP: "192.0.2.1", Allocatable: corev1.ResourceList{"cpu": resource.MustParse("4")}}
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	amount := func(name, what, divisor string) corev1.EnvVar {
		ref := &corev1.ResourceFieldSelector{Resource: what}
		if divisor != "" {
			ref.Divisor = resource.MustParse(divisor)
		}
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: ref}}
	}
	yes := true
	spec := &pod.Spec.Containers[0]
	spec.Env = []corev1.EnvVar{
		{Name: "A", Value: "a"}, {Name: "B", Value: "$(A)-$(C)"}, {Name: "C", Value: "c"}, {Name: "D", Value: "$(C)$$(A)"}, {Name: "A", Value: "$(A)!"},
		field("NAME", "metadata.name"), field("NS", "metadata.namespace"), field("UID", "metadata.uid"), field("APP", "metadata.labels['app']"),
		field("NODE", "spec.nodeName"), field("SA", "spec.serviceAccountName"), field("HOST", "status.hostIP"), field("IP", "status.podIP"), field("IPS", "status.podIPs"),
		amount("MEM", "limits.memory", ""), amount("MIB", "limits.memory", "1Mi"), amount("CPU", "requests.cpu", ""), amount("MILLI", "requests.cpu", "1m"), amount("ALL", "limits.cpu", ""),
		{Name: "OPTIONAL", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Optional: &yes}}},
	}
	got, err := environment(pod, spec, []string{"10.1.0.2", "10.1.0.3"}, node, &told{})
	if err != nil {
		t.Fatal(err)
	}
	want := []runtime.Env{
		{Name: "A", Value: "a!"}, {Name: "B", Value: "a-$(C)"}, {Name: "C", Value: "c"}, {Name: "D", Value: "c$(A)"},
		{Name: "NAME", Value: "p"}, {Name: "NS", Value: "default"}, {Name: "UID", Value: "p-uid"}, {Name: "APP", Value: "web"},
		{Name: "NODE", Value: "n1"}, {Name: "SA", Value: "robot"}, {Name: "HOST", Value: "192.0.2.1"}, {Name: "IP", Value: "10.1.0.2"}, {Name: "IPS", Value: "10.1.0.2,10.1.0.3"},
		{Name: "MEM", Value: "67108864"}, {Name: "MIB", Value: "64"}, {Name: "CPU", Value: "1"}, {Name: "MILLI", Value: "250"}, {Name: "ALL", Value: "4"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for _, bad := range []corev1.EnvVar{
		field("X", "spec.containers"), field("X", "spec.x['y']"), amount("X", "other.cpu", ""),
		{Name: "X", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{}}},
		{Name: "X", ValueFrom: &corev1.EnvVarSource{}},
	} {
		spec.Env = []corev1.EnvVar{bad}
		if got, err := environment(pod, spec, nil, node, &told{}); err == nil || !strings.Contains(err.Error(), "X") {
			t.Errorf("got %v, %v; want an error that names the variable", got, err)
		}
	}
}

func list(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l["cpu"] = resource.MustParse(cpu)
	}
	if memory != "" {
		l["memory"] = resource.MustParse(memory)
	}
	return l
}

func TestResourcesBecomeCgroups(t *testing.T) {
	node := Node{Allocatable: list("4", "1Gi")}
	for _, c := range []struct {
		name             string
		requests, limits corev1.ResourceList
		want             runtime.Resources
		class            corev1.PodQOSClass
	}{
		{"none", nil, nil, runtime.Resources{CPUShares: 2, CPUPeriod: cpuPeriod, OOMScoreAdj: 1000}, corev1.PodQOSBestEffort},
		{"requests", list("500m", "512Mi"), nil, runtime.Resources{CPUShares: 512, CPUPeriod: cpuPeriod, OOMScoreAdj: 500}, corev1.PodQOSBurstable},
		{"limits", nil, list("2", "64Mi"), runtime.Resources{CPUShares: 2048, CPUQuota: 200_000, CPUPeriod: cpuPeriod, MemoryBytes: 64 << 20, OOMScoreAdj: -997}, corev1.PodQOSGuaranteed},
		{"least", nil, list("1m", ""), runtime.Resources{CPUShares: 2, CPUQuota: 1000, CPUPeriod: cpuPeriod, OOMScoreAdj: 999}, corev1.PodQOSBurstable},
		{"equal", list("1", "1Mi"), list("1", "1Mi"), runtime.Resources{CPUShares: 1024, CPUQuota: 100_000, CPUPeriod: cpuPeriod, MemoryBytes: 1 << 20, OOMScoreAdj: -997}, corev1.PodQOSGuaranteed},
	} {
		pod := newPod("p", corev1.Container{Name: "main", Resources: corev1.ResourceRequirements{Requests: c.requests, Limits: c.limits}})
		if got := resources(pod, &pod.Spec.Containers[0], node); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
		if got := qosClass(pod); got != c.class {
			t.Errorf("%s: class %s, want %s", c.name, got, c.class)
		}
	}
}

func TestNonRootIsHeld(t *testing.T) {
	yes, root, user := true, int64(0), int64(1000)
	for _, c := range []struct {
		name string
		user *int64
		img  runtime.Image
		ok   bool
	}{
		{"user given", &user, runtime.Image{UID: 0}, true},
		{"root given", &root, runtime.Image{UID: 1000}, false},
		{"image with a number", nil, runtime.Image{UID: 1000}, true},
		{"image of root", nil, runtime.Image{UID: 0}, false},
		{"image that says nothing", nil, runtime.Image{UID: -1}, false},
		{"image with a name", nil, runtime.Image{UID: -1, User: "nobody"}, false},
	} {
		pod := newPod("p", corev1.Container{Name: "main", SecurityContext: &corev1.SecurityContext{RunAsUser: c.user}})
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes}
		if _, err := containerSecurity(pod, &pod.Spec.Containers[0], c.img); (err == nil) != c.ok {
			t.Errorf("%s: got %v, want success: %v", c.name, err, c.ok)
		}
	}
}

func TestDNS(t *testing.T) {
	node := Node{ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local"}
	two := "2"
	config := &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.53"}, Searches: []string{"example"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}}}
	for _, c := range []struct {
		name   string
		policy corev1.DNSPolicy
		host   bool
		config *corev1.PodDNSConfig
		node   Node
		want   string // servers, searches, options; "" for the host's
	}{
		{"cluster first", corev1.DNSClusterFirst, false, nil, node, "10.96.0.10 / default.svc.cluster.local svc.cluster.local cluster.local / ndots:5"},
		{"on the host's network", corev1.DNSClusterFirst, true, nil, node, ""},
		{"on the host's network, nonetheless", corev1.DNSClusterFirstWithHostNet, true, nil, node, "10.96.0.10 / default.svc.cluster.local svc.cluster.local cluster.local / ndots:5"},
		{"no cluster DNS", corev1.DNSClusterFirst, false, nil, Node{}, ""},
		{"default", corev1.DNSDefault, false, nil, node, ""},
		{"none", corev1.DNSNone, false, config, node, "192.0.2.53 / example / ndots:2 edns0"},
	} {
		pod := newPod("p")
		pod.Spec.DNSPolicy, pod.Spec.HostNetwork, pod.Spec.DNSConfig = c.policy, c.host, c.config
		got := ""
		if d := dns(pod, c.node); d != nil {
			got = strings.Join(d.Servers, " ") + " / " + strings.Join(d.Searches, " ") + " / " + strings.Join(d.Options, " ")
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestHostname(t *testing.T) {
	for _, c := range []struct {
		name, given string
		host        bool
		want        string
	}{
		{"pod", "", false, "pod"},
		{"pod", "given", false, "given"},
		{"pod", "given", true, ""},
		{strings.Repeat("a", 62) + "-b", "", false, strings.Repeat("a", 62)},
	} {
		pod := newPod(c.name)
		pod.Spec.Hostname, pod.Spec.HostNetwork = c.given, c.host
		if got := hostname(pod); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
}

// A container that can write to a volume must not be given a path that leads
// out of it.
func TestSubPathStaysBelow(t *testing.T) {
	volume, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(volume, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(volume, "in")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(volume, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	for sub, ok := range map[string]bool{"new/dir": true, "real": true, "in": true, "out": false, "out/x": false, "../x": false, "a/../../x": false, "/etc": false} {
		got, err := subPath(volume, sub)
		if (err == nil) != ok {
			t.Errorf("%s: got %q, %v; want success: %v", sub, got, err, ok)
		}
		if err == nil {
			if real, _ := filepath.EvalSymlinks(volume); !strings.HasPrefix(got, real+"/") {
				t.Errorf("%s leads to %s", sub, got)
			}
		}
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("made outside: %v", left)
	}
}

// Who may write to a volume may write to what is made in it for a subPath.
func TestSubPathIsForThoseWhomTheVolumeIsFor(t *testing.T) {
	volume := t.TempDir()
	want := 0o777 | os.ModeSetgid
	if err := os.Chmod(volume, want); err != nil {
		t.Fatal(err)
	}
	if _, err := subPath(volume, "new/dir"); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"new", "new/dir"} {
		info, err := os.Stat(filepath.Join(volume, sub))
		if err != nil || info.Mode()&(os.ModePerm|os.ModeSetgid) != want {
			t.Errorf("%s has mode %v, %v, want %v", sub, info.Mode(), err, want)
		}
	}
}

// Only failures in a row count.
func TestProbeThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := []bool{false, false, true, false, false, true, false, false, false}
		ctx, cancel := context.WithCancel(t.Context())
		var settled []bool
		asked := 0
		q := question{
			probe: &corev1.Probe{PeriodSeconds: 10, FailureThreshold: 3, SuccessThreshold: 1, TimeoutSeconds: 1}, began: time.Now(),
			ask: func(context.Context, *corev1.Probe) (bool, string) {
				if asked == len(answers) {
					cancel()
					return true, ""
				}
				asked++
				return answers[asked-1], ""
			},
			failed:  func(string) {},
			settled: func(ok bool, _ string) { settled = append(settled, ok) },
		}
		began := time.Now()
		q.repeat(ctx)
		if want := []bool{true, true, false}; !slices.Equal(settled, want) {
			t.Errorf("settled %v, want %v", settled, want)
		}
		if took, want := time.Since(began), time.Duration(len(answers))*10*time.Second; took != want {
			t.Errorf("%d answers took %v, want %v", len(answers), took, want)
		}
	})
}
