package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Container is one that runs on a host, seen from outside.
type Container struct {
	ID             string
	PID            int // of its first process
	Namespace, Pod string
	Name           string // empty: the sandbox itself
}

// Containers lists the containers that run on the host by what processes there
// are, whatever containerd knows of them.
func (h *Host) Containers() ([]Container, error) {
	processes, err := h.processes()
	if err != nil {
		return nil, err
	}
	var found []Container
	for _, p := range processes {
		proc := filepath.Join("/proc", strconv.Itoa(p.pid))
		if !p.container || !isInit(proc) {
			continue
		}
		c := Container{PID: p.pid}
		raw, err := os.ReadFile(filepath.Join(proc, "cgroup"))
		if err != nil {
			continue // it ended meanwhile
		}
		for line := range strings.Lines(string(raw)) {
			if _, path, ok := strings.Cut(strings.TrimSpace(line), ":/"); ok && path != "" {
				if id := filepath.Base(path); len(id) == 64 {
					c.ID = id
				}
			}
		}
		if err := h.describe(&c); err != nil {
			return nil, err
		}
		found = append(found, c)
	}
	return found, nil
}

// isInit is whether a process is the first of a process namespace below ours.
func isInit(proc string) bool {
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(ids)
			return len(fields) > 1 && fields[len(fields)-1] == "1"
		}
	}
	return false
}

// describe reads whose container it is from the OCI bundle it was started with.
func (h *Host) describe(c *Container) error {
	c.Pod, c.Name = "unknown", c.ID
	if c.ID == "" {
		return nil
	}
	spec, err := readSpec(filepath.Join(h.bundles(), c.ID))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c.Namespace = spec.Annotations["io.kubernetes.cri.sandbox-namespace"]
	c.Pod = spec.Annotations["io.kubernetes.cri.sandbox-name"]
	c.Name = spec.Annotations["io.kubernetes.cri.container-name"]
	return nil
}

// bundles is the folder in which the host's containerd keeps a folder for each
// container it has started, named by its ID.
func (h *Host) bundles() string {
	return filepath.Join(h.Dir, "containerd", "state", "io.containerd.runtime.v2.task", "k8s.io")
}

// spec is what we need of an OCI runtime specification.
type spec struct {
	Annotations map[string]string `json:"annotations"`
	Linux       struct {
		CgroupsPath string `json:"cgroupsPath"`
	} `json:"linux"`
}

func readSpec(bundle string) (*spec, error) {
	name := filepath.Join(bundle, "config.json")
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var s spec
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &s, nil
}
