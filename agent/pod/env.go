package pod

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/musterhq/muster/agent/runtime"
)

// environment is a container's: what envFrom gives, then what it declares, in
// that order; a name that comes again keeps its place and takes the later value.
// Services come last, under names that neither has. Without contents, what comes
// from them is left out.
func environment(pod *corev1.Pod, spec *corev1.Container, ips []string, node Node, contents Contents) ([]runtime.Env, error) {
	var out []runtime.Env
	values := map[string]string{}
	set := func(name, value string) {
		if _, again := values[name]; again {
			out[slices.IndexFunc(out, func(o runtime.Env) bool { return o.Name == name })].Value = value
		} else {
			out = append(out, runtime.Env{Name: name, Value: value})
		}
		values[name] = value
	}
	for _, from := range spec.EnvFrom {
		given, err := valuesFrom(pod, from, contents)
		if err != nil {
			return nil, err
		}
		for _, key := range slices.Sorted(maps.Keys(given)) {
			if name := from.Prefix + key; !strings.Contains(name, "=") {
				set(name, given[key])
			}
		}
	}
	services, err := serviceEnvironment(pod, contents)
	if err != nil {
		return nil, err
	}
	lookup := func(name string) (string, bool) {
		v, ok := values[name]
		if at := slices.IndexFunc(services, func(e runtime.Env) bool { return e.Name == name }); !ok && at >= 0 {
			return services[at].Value, true
		}
		return v, ok
	}
	for _, e := range spec.Env {
		value, is, err := valueOf(pod, spec, e, ips, node, contents, lookup)
		if err != nil {
			return nil, fmt.Errorf("environment variable %s: %w", e.Name, err)
		}
		if is {
			set(e.Name, value)
		}
	}
	for _, e := range services {
		if _, taken := values[e.Name]; !taken {
			set(e.Name, e.Value)
		}
	}
	return out, nil
}

// valuesFrom is all that a config map or secret gives.
func valuesFrom(pod *corev1.Pod, from corev1.EnvFromSource, contents Contents) (map[string]string, error) {
	switch {
	case contents == nil:
	case from.ConfigMapRef != nil:
		return configMapValues(pod, from.ConfigMapRef.Name, isTrue(from.ConfigMapRef.Optional), contents)
	case from.SecretRef != nil:
		return secretValues(pod, from.SecretRef.Name, isTrue(from.SecretRef.Optional), contents)
	}
	return nil, nil
}

// configMapValues is nil for one that does not exist and need not.
func configMapValues(pod *corev1.Pod, name string, optional bool, contents Contents) (map[string]string, error) {
	configMap, err := contents.ConfigMap(pod.Namespace, name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("configmap %q: %w", name, err)
	case configMap == nil && optional:
		return nil, nil
	case configMap == nil:
		return nil, fmt.Errorf("configmap %q not found", name)
	}
	return configMap.Data, nil
}

// secretValues is nil for one that does not exist and need not.
func secretValues(pod *corev1.Pod, name string, optional bool, contents Contents) (map[string]string, error) {
	secret, err := contents.Secret(pod.Namespace, name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("secret %q: %w", name, err)
	case secret == nil && optional:
		return nil, nil
	case secret == nil:
		return nil, fmt.Errorf("secret %q not found", name)
	}
	values := make(map[string]string, len(secret.Data))
	for key, value := range secret.Data {
		values[key] = string(value)
	}
	return values, nil
}

// keyOf picks one value; false: it is not there and need not be.
func keyOf(values map[string]string, err error, key string, optional bool, kind, object string) (string, bool, error) {
	if err != nil {
		return "", false, err
	}
	value, ok := values[key]
	if !ok && !optional {
		return "", false, fmt.Errorf("couldn't find key %v in %s %v", key, kind, object)
	}
	return value, ok, nil
}

func isTrue(b *bool) bool { return b != nil && *b }

func valueOf(pod *corev1.Pod, spec *corev1.Container, e corev1.EnvVar, ips []string, node Node, contents Contents, lookup func(string) (string, bool)) (string, bool, error) {
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
	case (from.ConfigMapKeyRef != nil || from.SecretKeyRef != nil) && contents == nil:
		return "", false, nil
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		values, err := configMapValues(pod, ref.Name, isTrue(ref.Optional), contents)
		return keyOf(values, err, ref.Key, isTrue(ref.Optional), "ConfigMap", pod.Namespace+"/"+ref.Name)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		values, err := secretValues(pod, ref.Name, isTrue(ref.Optional), contents)
		return keyOf(values, err, ref.Key, isTrue(ref.Optional), "Secret", pod.Namespace+"/"+ref.Name)
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
