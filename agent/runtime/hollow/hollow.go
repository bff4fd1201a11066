// Package hollow pretends to run containers: everything a real runtime does
// happens, in memory and in milliseconds, but no process starts. It is for
// development without root, for thousands of nodes in one process, and for
// tests of what an agent does when containers end.
//
// A container's command says how it fares: "true" and "false" end at once,
// "sleep N" ends after N seconds (with 0), "sh -c 'exit N'" ends with N, and
// "sh -c 'sleep N; exit M'" does one after the other. Anything else goes on
// until it is stopped. The sample images, which real nodes import from archives,
// are there from the start; images of which the last part begins with "missing"
// can't be pulled, and all others can.
package hollow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/agent/runtime"
)

// Config says how slow to pretend to be, and on what network.
type Config struct {
	SandboxDelay, StartDelay, PullDelay time.Duration // zero: no time at all
	// HostIP is what pods on the host's network have.
	HostIP string
}

// Runtime is a pretended runtime. It implements runtime.Runtime.
type Runtime struct {
	cfg     Config
	changes *runtime.Changes

	mu         sync.Mutex
	pods       map[string]*runtime.Pod
	containers map[string]*container
	images     map[string]runtime.Image
	addresses  addresses
	made       uint64 // sandboxes and containers so far; part of their IDs
	down       bool
}

type container struct {
	pod, sandbox string
	state        runtime.Container
	fate         fate
	log          string        // file; "" none
	ended        chan struct{} // closed when it has
	timer        *time.Timer
}

var _ runtime.Runtime = (*Runtime)(nil)

func New(cfg Config) *Runtime {
	r := &Runtime{
		cfg: cfg, changes: runtime.NewChanges(),
		pods: map[string]*runtime.Pod{}, containers: map[string]*container{}, images: map[string]runtime.Image{},
		addresses: addresses{taken: map[netip.Addr]bool{}},
	}
	for _, ref := range []string{"muster.local/pause:1", "muster.local/hello:1", "muster.local/busybox:1"} {
		r.images[ref] = pretend(ref)
	}
	return r
}

// SetPodCIDR says which addresses pods have. Without one the runtime has no network.
func (r *Runtime) SetPodCIDR(cidr string) error {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return fmt.Errorf("pod range: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addresses.prefix = prefix.Masked()
	return nil
}

// SetDown makes every call fail as if the runtime had died; its containers go on.
func (r *Runtime) SetDown(down bool) {
	r.mu.Lock()
	r.down = down
	r.mu.Unlock()
	r.changes.Add("")
}

// Run waits for the end of ctx: there is nothing to keep alive.
func (r *Runtime) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (r *Runtime) Info(context.Context) (runtime.Info, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return runtime.Info{}, runtime.ErrUnavailable
	}
	info := runtime.Info{Name: "hollow", Version: "1.0.0", Ready: true, NetworkReady: r.addresses.prefix.IsValid()}
	if !info.NetworkReady {
		info.Message = "no pod range is set"
	}
	return info, nil
}

func (r *Runtime) Changed(ctx context.Context) ([]string, error) { return r.changes.Wait(ctx) }

func (r *Runtime) Pods(context.Context) ([]runtime.Pod, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, runtime.ErrUnavailable
	}
	pods := make([]runtime.Pod, 0, len(r.pods))
	for _, p := range r.pods {
		pods = append(pods, r.tell(p))
	}
	return pods, nil
}

func (r *Runtime) Pod(_ context.Context, uid string) (runtime.Pod, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return runtime.Pod{}, runtime.ErrUnavailable
	}
	if p := r.pods[uid]; p != nil {
		return r.tell(p), nil
	}
	return runtime.Pod{UID: uid}, nil
}

// tell copies p with the containers' present states.
func (r *Runtime) tell(p *runtime.Pod) runtime.Pod {
	out := *p
	out.Sandboxes = slices.Clone(p.Sandboxes)
	for i := range out.Sandboxes {
		box := &out.Sandboxes[i]
		box.Containers = nil
		for _, c := range p.Sandboxes[i].Containers {
			box.Containers = append(box.Containers, r.containers[c.ID].state)
		}
	}
	return out
}

func (r *Runtime) RunSandbox(ctx context.Context, config *runtime.SandboxConfig) (string, error) {
	if err := wait(ctx, r.cfg.SandboxDelay); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return "", runtime.ErrUnavailable
	}
	box := runtime.Sandbox{ID: r.newID("sandbox"), Attempt: config.Attempt, Ready: true, CreatedAt: time.Now()}
	if !config.Security.HostNetwork {
		address, err := r.addresses.take()
		if err != nil {
			return "", fmt.Errorf("run sandbox: %w", err)
		}
		box.IPs = []string{address.String()}
	}
	pod := r.pods[config.UID]
	if pod == nil {
		pod = &runtime.Pod{UID: config.UID, Namespace: config.Namespace, Name: config.Name}
		r.pods[config.UID] = pod
	}
	for _, other := range pod.Sandboxes {
		if other.Attempt == config.Attempt {
			return "", fmt.Errorf("run sandbox: attempt %d of %s/%s exists", config.Attempt, config.Namespace, config.Name)
		}
	}
	pod.Sandboxes = slices.Insert(pod.Sandboxes, 0, box)
	r.changes.Add(pod.UID)
	return box.ID, nil
}

func (r *Runtime) StopSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return runtime.ErrUnavailable
	}
	pod, box := r.sandbox(id)
	if box == nil {
		return nil
	}
	for _, c := range box.Containers {
		r.finish(r.containers[c.ID], 137, "Error")
	}
	box.Ready = false
	for _, ip := range box.IPs {
		r.addresses.give(netip.MustParseAddr(ip))
	}
	box.IPs = nil
	r.changes.Add(pod.UID)
	return nil
}

func (r *Runtime) RemoveSandbox(ctx context.Context, id string) error {
	if err := r.StopSandbox(ctx, id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pod, box := r.sandbox(id)
	if box == nil {
		return nil
	}
	for _, c := range box.Containers {
		delete(r.containers, c.ID)
	}
	pod.Sandboxes = slices.DeleteFunc(pod.Sandboxes, func(s runtime.Sandbox) bool { return s.ID == id })
	if len(pod.Sandboxes) == 0 {
		delete(r.pods, pod.UID)
	}
	r.changes.Add(pod.UID)
	return nil
}

func (r *Runtime) CreateContainer(_ context.Context, sandboxID string, sandbox *runtime.SandboxConfig, config *runtime.ContainerConfig) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return "", runtime.ErrUnavailable
	}
	pod, box := r.sandbox(sandboxID)
	if box == nil {
		return "", fmt.Errorf("create container: sandbox %s: %w", sandboxID, runtime.ErrNotFound)
	}
	if !box.Ready {
		return "", fmt.Errorf("create container: sandbox %s is not ready", sandboxID)
	}
	for _, other := range r.containers {
		if other.pod == pod.UID && other.state.Name == config.Name && other.state.Attempt == config.Attempt {
			return "", fmt.Errorf("create container: attempt %d of %s exists", config.Attempt, config.Name)
		}
	}
	c := &container{
		pod: pod.UID, sandbox: sandboxID, ended: make(chan struct{}),
		state: runtime.Container{
			ID: r.newID("container"), Name: config.Name, Attempt: config.Attempt, State: runtime.Created, CreatedAt: time.Now(),
			Image: config.Image, ImageID: config.ImageID, Annotations: config.Annotations,
		},
		fate: fateOf(slices.Concat(config.Command, config.Args)),
	}
	if sandbox.LogDir != "" && config.LogPath != "" {
		c.log = path.Join(sandbox.LogDir, config.LogPath)
		c.state.LogPath = c.log
	}
	r.containers[c.state.ID] = c
	box.Containers = slices.Insert(box.Containers, 0, runtime.Container{ID: c.state.ID})
	r.changes.Add(pod.UID)
	return c.state.ID, nil
}

func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	if err := wait(ctx, r.cfg.StartDelay); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return runtime.ErrUnavailable
	}
	c := r.containers[id]
	if c == nil {
		return fmt.Errorf("start container %s: %w", id, runtime.ErrNotFound)
	}
	if c.state.State != runtime.Created {
		return fmt.Errorf("start container %s: it is %s", id, c.state.State)
	}
	c.state.State, c.state.StartedAt = runtime.Running, time.Now()
	if err := writeLog(c.log, c.state.StartedAt, fmt.Sprintf("hollow: %s started (attempt %d)", c.state.Name, c.state.Attempt)); err != nil {
		return err
	}
	if c.fate.ends {
		c.timer = time.AfterFunc(c.fate.after, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.finish(c, c.fate.code, "")
		})
	}
	r.changes.Add(c.pod)
	return nil
}

// StopContainer is obeyed at once, as a process does that heeds SIGTERM.
func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	r.mu.Lock()
	if r.down {
		r.mu.Unlock()
		return runtime.ErrUnavailable
	}
	c := r.containers[id]
	if c == nil {
		r.mu.Unlock()
		return nil
	}
	if c.fate.stubborn && c.state.State == runtime.Running && grace > 0 {
		r.mu.Unlock()
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.mu.Lock()
		r.finish(c, 137, "")
	} else {
		r.finish(c, 143, "")
	}
	r.mu.Unlock()
	return nil
}

// finish ends a container, unless it has ended. r.mu is held.
func (r *Runtime) finish(c *container, code int32, reason string) {
	if c.state.State == runtime.Exited {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	if reason == "" {
		reason = "Completed"
		if code != 0 {
			reason = "Error"
		}
	}
	if c.state.State == runtime.Running {
		_ = writeLog(c.log, time.Now(), fmt.Sprintf("hollow: %s ended with %d", c.state.Name, code))
	}
	c.state.State, c.state.FinishedAt, c.state.ExitCode, c.state.Reason = runtime.Exited, time.Now(), code, reason
	close(c.ended)
	r.changes.Add(c.pod)
}

// LoseSandbox makes a sandbox unusable as the death of its own process does:
// its containers go on, and its addresses are not given back.
func (r *Runtime) LoseSandbox(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if pod, box := r.sandbox(id); box != nil {
		box.Ready = false
		r.changes.Add(pod.UID)
	}
}

// End makes a container end as if its process had died.
func (r *Runtime) End(id string, code int32, reason string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return runtime.ErrNotFound
	}
	r.finish(c, code, reason)
	return nil
}

func (r *Runtime) RemoveContainer(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return runtime.ErrUnavailable
	}
	c := r.containers[id]
	if c == nil {
		return nil
	}
	r.finish(c, 137, "")
	delete(r.containers, id)
	if _, box := r.sandbox(c.sandbox); box != nil {
		box.Containers = slices.DeleteFunc(box.Containers, func(o runtime.Container) bool { return o.ID == id })
	}
	r.changes.Add(c.pod)
	return nil
}

func (r *Runtime) Images(context.Context) ([]runtime.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, runtime.ErrUnavailable
	}
	images := make([]runtime.Image, 0, len(r.images))
	for ref, image := range r.images {
		image.Names = []string{ref}
		images = append(images, image)
	}
	return images, nil
}

func (r *Runtime) Image(_ context.Context, ref string) (runtime.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return runtime.Image{}, runtime.ErrUnavailable
	}
	image, ok := r.images[ref]
	if !ok {
		return runtime.Image{}, fmt.Errorf("image %s: %w", ref, runtime.ErrNotFound)
	}
	return image, nil
}

func (r *Runtime) PullImage(ctx context.Context, ref string, _ *runtime.Credentials) (runtime.Image, error) {
	if err := wait(ctx, r.cfg.PullDelay); err != nil {
		return runtime.Image{}, err
	}
	if strings.HasPrefix(path.Base(ref), "missing") {
		return runtime.Image{}, fmt.Errorf("pull image %q: %s: not found", ref, ref)
	}
	return r.addImage(ref)
}

func (r *Runtime) addImage(ref string) (runtime.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return runtime.Image{}, runtime.ErrUnavailable
	}
	r.images[ref] = pretend(ref)
	return r.images[ref], nil
}

func pretend(ref string) runtime.Image {
	sum := sha256.Sum256([]byte(ref))
	return runtime.Image{ID: "sha256:" + hex.EncodeToString(sum[:]), Size: 1 << 20}
}

// ImportImages reads no archive: any image can be pulled.
func (r *Runtime) ImportImages(context.Context, string) ([]string, error) {
	return nil, errors.New("a hollow runtime has no use for image archives")
}

func (r *Runtime) ReopenLog(context.Context, string) error { return nil } // every line opens it

func (r *Runtime) PortForward(context.Context, string, int32, io.ReadWriteCloser) error {
	return errNobodyListens
}

// Dial reaches nothing: the addresses of hollow pods may be somebody's.
func (r *Runtime) Dial(context.Context, string) (net.Conn, error) { return nil, errNobodyListens }

var errNobodyListens = errors.New("this is a hollow node: nothing listens in its pods")

// sandbox finds one by ID. r.mu is held.
func (r *Runtime) sandbox(id string) (*runtime.Pod, *runtime.Sandbox) {
	for _, pod := range r.pods {
		for i := range pod.Sandboxes {
			if pod.Sandboxes[i].ID == id {
				return pod, &pod.Sandboxes[i]
			}
		}
	}
	return nil, nil
}

func (r *Runtime) newID(kind string) string {
	r.made++
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %p", kind, r.made, r))
	return hex.EncodeToString(sum[:])
}

func wait(ctx context.Context, delay time.Duration) error {
	if delay <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
