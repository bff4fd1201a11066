// Package runtime is what an agent asks of the thing that runs containers.
// Which pods there should be, when one is restarted and what is said about it
// is package pod's business. Two implementations keep this contract, which
// package runtimetest proves: cri (containerd) and hollow (a pretence, in
// memory).
package runtime

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

var (
	// ErrNotFound says that the runtime knows no such sandbox, container or image.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable says that the runtime itself does not answer.
	ErrUnavailable = errors.New("container runtime is not available")
)

// Runtime runs pods. A pod is one or more sandboxes, of which at most one is
// ready, with containers in them. All methods may be called from any goroutine;
// calls about one pod are made one at a time, except for streams, and except
// that containers are stopped in parallel.
type Runtime interface {
	// Run keeps the runtime alive until ctx ends. It must run for anything else
	// to work. Pods outlive it: another Run, also of another process, adopts them.
	Run(ctx context.Context) error
	// Info says who the runtime is and whether it can take pods.
	// Its error is ErrUnavailable when the runtime does not answer.
	Info(ctx context.Context) (Info, error)

	// Pods lists all pods, with sandboxes and containers but of them only ID,
	// name, attempt, state and creation time.
	Pods(ctx context.Context) ([]Pod, error)
	// Pod tells everything about one pod. A pod that is not there has no sandboxes.
	Pod(ctx context.Context, uid string) (Pod, error)
	// Changed waits until something happened and names the pods (by UID) it
	// happened to; "" says that it can be any, as after losing sight of the
	// runtime. It may name too many. It has one caller.
	Changed(ctx context.Context) ([]string, error)

	// RunSandbox makes the place the pod's containers run in, with its network.
	RunSandbox(ctx context.Context, config *SandboxConfig) (id string, err error)
	// StopSandbox kills what still runs in it and gives back its addresses.
	StopSandbox(ctx context.Context, id string) error
	// RemoveSandbox forgets the sandbox and all its containers.
	// Neither it nor StopSandbox complain about one that does not exist.
	RemoveSandbox(ctx context.Context, id string) error

	CreateContainer(ctx context.Context, sandboxID string, sandbox *SandboxConfig, config *ContainerConfig) (id string, err error)
	StartContainer(ctx context.Context, id string) error
	// StopContainer asks the container to end and kills it after grace.
	// It returns when the container does not run any more.
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error

	// Images lists what is on this machine, with the names that each is known by.
	Images(ctx context.Context) ([]Image, error)
	// Image is ErrNotFound when the image is not on this machine.
	Image(ctx context.Context, ref string) (Image, error)
	// PullImage pulls as somebody whom the registry knows, or without credentials
	// (nil).
	PullImage(ctx context.Context, ref string, as *Credentials) (Image, error)
	// ImportImages adds the images of an OCI or docker archive, a tar file.
	ImportImages(ctx context.Context, path string) ([]string, error)

	// Exec runs a command in a running container until it ends.
	// A non-zero exit code is not an error. Reading Stdin may go on for as long as
	// it blocks, so the caller closes it afterwards.
	Exec(ctx context.Context, containerID string, command []string, streams Streams) (exitCode int, err error)
	// ExecSync is Exec without a terminal: it answers the first bytes of what the
	// command wrote, and kills it after timeout with context.DeadlineExceeded.
	ExecSync(ctx context.Context, containerID string, command []string, timeout time.Duration) (output []byte, exitCode int, err error)
	// Attach connects to the container's own process.
	Attach(ctx context.Context, containerID string, streams Streams) error
	// PortForward connects conn with a port of the pod's loopback until either end closes.
	PortForward(ctx context.Context, sandboxID string, port int32, conn io.ReadWriteCloser) error
	// Dial connects with host:port, an address of a pod of this machine.
	Dial(ctx context.Context, address string) (net.Conn, error)
	// ReopenLog makes a running container write its log to a new file at the old path.
	ReopenLog(ctx context.Context, containerID string) error
}

// Info describes the runtime.
type Info struct {
	Name    string // as in "containerd://2.4.2"
	Version string
	// Ready is whether pods can be run; NetworkReady, whether they can have
	// their own address. Message says why not.
	Ready        bool
	NetworkReady bool
	Message      string
}

// Labels by which a runtime's sandboxes and containers tell whose they are.
// They are Kubernetes' own, so that its tools show pods by name.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"
)

// Pod is what a runtime has of a pod.
type Pod struct {
	UID, Namespace, Name string
	Sandboxes            []Sandbox // newest first
}

// Sandbox is one place where a pod's containers run.
type Sandbox struct {
	ID         string
	Attempt    uint32
	Ready      bool
	CreatedAt  time.Time
	IPs        []string    // none on the host's network
	Containers []Container // newest first
}

// State is how far a container is.
type State int

const (
	Created State = iota
	Running
	Exited
	// Unknown is a container the runtime lost track of. It must be stopped
	// before another takes its place.
	Unknown
)

func (s State) String() string {
	return [...]string{"created", "running", "exited", "unknown"}[s]
}

// Container is one run of one of the pod's containers.
type Container struct {
	ID          string
	Name        string
	Attempt     uint32
	State       State
	CreatedAt   time.Time
	StartedAt   time.Time // zero: never
	FinishedAt  time.Time
	ExitCode    int32
	Reason      string // Completed, Error, OOMKilled
	Message     string
	Image       string
	ImageID     string
	LogPath     string
	Annotations map[string]string
}

// SandboxConfig is a pod as the runtime needs to know it.
type SandboxConfig struct {
	UID, Namespace, Name string
	Attempt              uint32
	Hostname             string
	LogDir               string
	DNS                  *DNS // nil: the host's resolv.conf
	Ports                []Port
	Labels, Annotations  map[string]string
	Security             PodSecurity
	RuntimeHandler       string
}

// DNS is what a pod's resolv.conf says.
type DNS struct {
	Servers, Searches, Options []string
}

// Port is a port of the host that leads to one of the pod.
type Port struct {
	Protocol        string // TCP, UDP, SCTP
	Container, Host int32
	HostIP          string
}

// PodSecurity is what a whole pod may do.
type PodSecurity struct {
	HostNetwork, HostPID, HostIPC bool
	ShareProcesses                bool
	Privileged                    bool // some container of it is
	Sysctls                       map[string]string
	Seccomp                       Seccomp
	RunAsUser, RunAsGroup         *int64
	Groups                        []int64
}

// ContainerConfig is a container as the runtime needs to know it.
type ContainerConfig struct {
	Name                string
	Attempt             uint32
	Image               string // as the user wrote it
	ImageID             string // as Image or PullImage answered
	Command, Args       []string
	WorkingDir          string
	Env                 []Env
	Mounts              []Mount
	Devices             []string
	Labels, Annotations map[string]string
	LogPath             string // below the sandbox's LogDir
	Stdin, StdinOnce    bool
	TTY                 bool
	Resources           Resources
	Security            ContainerSecurity
}

// Env is one variable of a container's environment.
type Env struct{ Name, Value string }

// Mount puts a file or directory of the host into a container.
type Mount struct {
	HostPath, ContainerPath string
	ReadOnly                bool
	Propagation             Propagation
}

// Propagation is how mounts made later below a Mount spread.
type Propagation int

const (
	Private Propagation = iota
	HostToContainer
	Bidirectional
)

// Resources bound what a container uses. Zero is no bound.
type Resources struct {
	CPUShares   int64
	CPUQuota    int64 // microseconds of CPU time in each CPUPeriod
	CPUPeriod   int64
	MemoryBytes int64
	OOMScoreAdj int64
}

// Seccomp names a system call filter. The zero value is none.
type Seccomp struct {
	RuntimeDefault bool
	LocalhostPath  string
}

// ContainerSecurity is what a container may do.
type ContainerSecurity struct {
	Privileged               bool
	RunAsUser, RunAsGroup    *int64
	RunAsUserName            string
	Groups                   []int64
	AddCapabilities          []string
	DropCapabilities         []string
	ReadOnlyRootFilesystem   bool
	AllowPrivilegeEscalation bool
	Seccomp                  Seccomp
	MaskedPaths              []string
	ReadOnlyPaths            []string
}

// Image is an image that is on this machine.
type Image struct {
	ID      string   // what containers are made from
	Names   []string // with a tag; in lists only
	Digests []string // names with a digest
	Size    uint64   // bytes
	// User and UID are who the image runs as; UID -1 when the image names a user.
	User string
	UID  int64
}

// Credentials are who a registry knows.
type Credentials struct{ Username, Password string }

// Streams are the ends of an Exec or Attach. Nil ones are not connected.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	Resize         <-chan Size
}

// Size is that of a terminal.
type Size struct{ Width, Height uint16 }
