package pod

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/musterhq/muster/agent/runtime"
)

// environment is a container's, in the order it was declared; a name declared
// again keeps its place and takes the later value.
func environment(pod *corev1.Pod, spec *corev1.Container, ips []string, node Node) ([]runtime.Env, error) {
	for _, from := range spec.EnvFrom {
		switch {
		case from.ConfigMapRef != nil && !isTrue(from.ConfigMapRef.Optional):
			return nil, fmt.Errorf("configmap %q: environment from config maps is not supported by this version of muster", from.ConfigMapRef.Name)
		case from.SecretRef != nil && !isTrue(from.SecretRef.Optional):
			return nil, fmt.Errorf("secret %q: environment from secrets is not supported by this version of muster", from.SecretRef.Name)
		}
	}
	var out []runtime.Env
	values := map[string]string{}
	lookup := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	for _, e := range spec.Env {
		value, set, err := valueOf(pod, spec, e, ips, node, lookup)
		if err != nil {
			return nil, fmt.Errorf("environment variable %s: %w", e.Name, err)
		}
		if !set {
			continue
		}
		values[e.Name] = value
		if at := slices.IndexFunc(out, func(o runtime.Env) bool { return o.Name == e.Name }); at >= 0 {
			out[at].Value = value
			continue
		}
		out = append(out, runtime.Env{Name: e.Name, Value: value})
	}
	return out, nil
}

func isTrue(b *bool) bool { return b != nil && *b }

func valueOf(pod *corev1.Pod, spec *corev1.Container, e corev1.EnvVar, ips []string, node Node, lookup func(string) (string, bool)) (string, bool, error) {
	if e.ValueFrom == nil {
		return expand(e.Value, lookup), true, nil
	}
	from := e.ValueFrom
	switch {
	case from.FieldRef != nil:
		value, err := field(pod, from.FieldRef.FieldPath, ips, node)
		return value, true, err
	case from.ResourceFieldRef != nil:
		target := spec
		if name := from.ResourceFieldRef.ContainerName; name != "" {
			if target = specOf(pod, name); target == nil {
				return "", false, fmt.Errorf("container %q not found", name)
			}
		}
		value, err := resourceField(target, from.ResourceFieldRef, node)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		if isTrue(from.ConfigMapKeyRef.Optional) {
			return "", false, nil
		}
		return "", false, fmt.Errorf("config maps (%q) are not supported by this version of muster", from.ConfigMapKeyRef.Name)
	case from.SecretKeyRef != nil:
		if isTrue(from.SecretKeyRef.Optional) {
			return "", false, nil
		}
		return "", false, fmt.Errorf("secrets (%q) are not supported by this version of muster", from.SecretKeyRef.Name)
	}
	return "", false, fmt.Errorf("no supported source of its value")
}

// field is the value of a fieldRef.
func field(pod *corev1.Pod, path string, ips []string, node Node) (string, error) {
	if base, key, ok := strings.Cut(path, "['"); ok {
		key = strings.TrimSuffix(key, "']")
		switch base {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
		return "", fmt.Errorf("field %q is not supported", path)
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP", "status.hostIPs":
		return node.IP, nil
	case "status.podIP":
		if len(ips) == 0 {
			return "", nil
		}
		return ips[0], nil
	case "status.podIPs":
		return strings.Join(ips, ","), nil
	}
	return "", fmt.Errorf("field %q is not supported", path)
}

// resourceField is the value of a resourceFieldRef: in units of its divisor,
// rounded up; a limit that is not set is all the node has.
func resourceField(spec *corev1.Container, ref *corev1.ResourceFieldSelector, node Node) (string, error) {
	kind, name, _ := strings.Cut(ref.Resource, ".")
	list := spec.Resources.Requests
	if kind == "limits" {
		list = spec.Resources.Limits
	} else if kind != "requests" {
		return "", fmt.Errorf("resource %q is not supported", ref.Resource)
	}
	quantity, ok := list[corev1.ResourceName(name)]
	if !ok && kind == "limits" {
		quantity = node.Allocatable[corev1.ResourceName(name)]
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == string(corev1.ResourceCPU) {
		return strconv.FormatInt(int64(math.Ceil(float64(quantity.MilliValue())/float64(divisor.MilliValue()))), 10), nil
	}
	return strconv.FormatInt(int64(math.Ceil(float64(quantity.Value())/float64(divisor.Value()))), 10), nil
}
