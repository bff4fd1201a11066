// Package node says what this machine is: the Node object as the control plane
// should have it, and its conditions as they change.
package node

import (
	"context"
	"maps"
	"os"
	goruntime "runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/proto/agent/fencing"
)

// Config says what can't be found out.
type Config struct {
	Name, Hostname, IP string
	Dir                string // whose disk pods write to
	Labels             map[string]string
	Taints             []corev1.Taint
	Version            string // of muster
	// StopsWithin is the promise about pods that must not run twice (package
	// fencing), 0 for none.
	StopsWithin time.Duration
	// Capacity overrides what the machine has.
	Capacity corev1.ResourceList
	// Health asks the container runtime.
	Health func(ctx context.Context) Health
	// Images lists what pods find here, with all names of each; nil: the node says
	// nothing of images.
	Images func(ctx context.Context) ([]corev1.ContainerImage, error)
}

// Health is how the container runtime is.
type Health struct {
	Runtime      string // as in "containerd://2.4.2"; "" while it does not answer
	Ready        bool
	NetworkReady bool
	Message      string // why not
}

const (
	kubernetesVersion = "v1.37.1"        // whose kubelet the agent behaves as
	checkEvery        = time.Second      // the runtime
	lookEvery         = 10 * time.Second // the machine
	pods              = 110
	memoryLow         = 100 << 20 // bytes
	diskLow           = 0.05      // of the disk
	pidsLow           = 0.05      // of the machine's process IDs
)

// Node watches the machine.
type Node struct {
	cfg Config

	mu     sync.Mutex
	status corev1.NodeStatus

	// Run's own
	state  state
	looked time.Time
	images []corev1.ContainerImage
	listed time.Time
	last   signs // of what the status was made when it was last compared

	again chan struct{} // room for one: look now
}

func New(cfg Config) *Node {
	n := &Node{cfg: cfg, again: make(chan struct{}, 1)}
	n.status = n.look(Health{Message: "the container runtime is being started"})
	return n
}

// Object is the node as it should be registered.
func (n *Node) Object() *corev1.Node {
	labels := map[string]string{
		corev1.LabelHostname:    n.cfg.Name,
		corev1.LabelOSStable:    goruntime.GOOS,
		corev1.LabelArchStable:  goruntime.GOARCH,
		"beta.kubernetes.io/os": goruntime.GOOS, "beta.kubernetes.io/arch": goruntime.GOARCH,
	}
	maps.Copy(labels, n.cfg.Labels)
	var annotations map[string]string
	if n.cfg.StopsWithin > 0 {
		annotations = map[string]string{fencing.NodeAnnotation: n.cfg.StopsWithin.String()}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.cfg.Name, Labels: labels, Annotations: annotations},
		Spec:       corev1.NodeSpec{Taints: n.cfg.Taints},
		Status:     *n.status.DeepCopy(),
	}
}

// Allocatable is what pods can have.
func (n *Node) Allocatable() corev1.ResourceList {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status.Allocatable
}

// Again has Run look now instead of at its next turn: something has changed that
// decides whether the node is ready.
func (n *Node) Again() {
	select {
	case n.again <- struct{}{}:
	default:
	}
}

// Run looks again and again, and reports what changed.
func (n *Node) Run(ctx context.Context, report func(*corev1.NodeStatus)) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		limit, cancel := context.WithTimeout(ctx, 10*checkEvery)
		health := n.cfg.Health(limit)
		n.listImages(limit)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.examine()
		if signs := n.signs(health); signs != n.last {
			n.last = signs
			if now := n.look(health); n.take(now) {
				report(now.DeepCopy())
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-n.again:
		}
	}
}

// take makes it the status, and says whether it differs from the one before.
func (n *Node) take(now corev1.NodeStatus) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if same(n.status, now) {
		return false
	}
	n.status = now
	return true
}

// same says that nothing but the time has passed.
func same(a, b corev1.NodeStatus) bool {
	a, b = *a.DeepCopy(), *b.DeepCopy()
	for _, s := range []*corev1.NodeStatus{&a, &b} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(a, b)
}

// look makes the status from what there is now.
func (n *Node) look(health Health) corev1.NodeStatus {
	n.examine()
	m := n.state
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(goruntime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(m.memoryBytes, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(m.diskBytes, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(pods, resource.DecimalSI),
	}
	maps.Copy(capacity, n.cfg.Capacity)
	allocatable := maps.Clone(capacity)
	if _, pretended := n.cfg.Capacity[corev1.ResourceMemory]; !pretended && m.memoryBytes > 2*memoryLow {
		allocatable[corev1.ResourceMemory] = *resource.NewQuantity(m.memoryBytes-memoryLow, resource.BinarySI)
	}
	status := corev1.NodeStatus{
		Capacity: capacity, Allocatable: allocatable, NodeInfo: n.info(health.Runtime), Images: n.images,
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.cfg.IP}, {Type: corev1.NodeHostName, Address: n.cfg.Hostname}},
	}
	add := func(kind corev1.NodeConditionType, ok bool, reason, message string) {
		c := corev1.NodeCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message}
		if ok {
			c.Status = corev1.ConditionTrue
		}
		now := metav1.NewTime(time.Now().Truncate(time.Second))
		c.LastHeartbeatTime, c.LastTransitionTime = now, now
		n.mu.Lock()
		for _, before := range n.status.Conditions {
			if before.Type == kind && before.Status == c.Status {
				c.LastTransitionTime = before.LastTransitionTime
			}
		}
		n.mu.Unlock()
		status.Conditions = append(status.Conditions, c)
	}
	if m.memoryLow() {
		add(corev1.NodeMemoryPressure, true, "KubeletHasInsufficientMemory", "node has insufficient memory available")
	} else {
		add(corev1.NodeMemoryPressure, false, "KubeletHasSufficientMemory", "node has sufficient memory available")
	}
	if m.diskLow() {
		add(corev1.NodeDiskPressure, true, "KubeletHasDiskPressure", "node has disk pressure")
	} else {
		add(corev1.NodeDiskPressure, false, "KubeletHasNoDiskPressure", "node has no disk pressure")
	}
	if m.pidsLow() {
		add(corev1.NodePIDPressure, true, "KubeletHasInsufficientPID", "node has insufficient PID available")
	} else {
		add(corev1.NodePIDPressure, false, "KubeletHasSufficientPID", "node has sufficient PID available")
	}
	switch {
	case !health.Ready:
		add(corev1.NodeReady, false, "KubeletNotReady", "container runtime is not ready: "+health.Message)
	case !health.NetworkReady:
		add(corev1.NodeReady, false, "KubeletNotReady", "container runtime network not ready: "+health.Message)
	default:
		add(corev1.NodeReady, true, "KubeletReady", "muster agent is ready")
	}
	return status
}

// info is the system's description; the runtime's part is kept while the
// runtime does not answer.
func (n *Node) info(runtime string) corev1.NodeSystemInfo {
	n.mu.Lock()
	before := n.status.NodeInfo
	n.mu.Unlock()
	if before.KernelVersion != "" {
		if runtime != "" {
			before.ContainerRuntimeVersion = runtime
		}
		return before
	}
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	var name unix.Utsname
	_ = unix.Uname(&name)
	if runtime == "" {
		runtime = "unknown://"
	}
	info := corev1.NodeSystemInfo{
		MachineID: read("/etc/machine-id"), SystemUUID: read("/sys/class/dmi/id/product_uuid"), BootID: read("/proc/sys/kernel/random/boot_id"),
		KernelVersion: unix.ByteSliceToString(name.Release[:]), OSImage: osImage(read("/etc/os-release")),
		ContainerRuntimeVersion: runtime, KubeletVersion: kubeletVersion(n.cfg.Version),
		OperatingSystem: goruntime.GOOS, Architecture: goruntime.GOARCH,
	}
	if info.SystemUUID == "" {
		info.SystemUUID = info.MachineID
	}
	return info
}

// kubeletVersion is Kubernetes' with muster's as build metadata, so that tools
// that compare versions go on working.
func kubeletVersion(muster string) string {
	var build strings.Builder
	for _, r := range strings.TrimPrefix(muster, "v") {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '.', r == '-':
			build.WriteRune(r)
		default:
			build.WriteByte('-')
		}
	}
	if build.Len() == 0 {
		return kubernetesVersion + "+muster"
	}
	return kubernetesVersion + "+muster." + strings.Trim(build.String(), ".")
}

func osImage(release string) string {
	for line := range strings.Lines(release) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(value, `"`)
		}
	}
	return "Linux"
}
