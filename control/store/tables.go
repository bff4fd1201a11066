package store

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The stored kinds. Their fields are those that Kubernetes can select by.
var (
	Namespaces = core("namespaces", "Namespace", false, &corev1.Namespace{}, &corev1.NamespaceList{}, func(n *corev1.Namespace) map[string]string {
		return map[string]string{"status.phase": string(n.Status.Phase)}
	})
	Nodes = core("nodes", "Node", false, &corev1.Node{}, &corev1.NodeList{}, func(n *corev1.Node) map[string]string {
		return map[string]string{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
	})
	Pods                   = core("pods", "Pod", true, &corev1.Pod{}, &corev1.PodList{}, podFields)
	ReplicationControllers = core("replicationcontrollers", "ReplicationController", true, &corev1.ReplicationController{}, &corev1.ReplicationControllerList{}, func(rc *corev1.ReplicationController) map[string]string {
		return map[string]string{"status.replicas": strconv.Itoa(int(rc.Status.Replicas))}
	})
	Events = core("events", "Event", true, &corev1.Event{}, &corev1.EventList{}, eventFields)

	ConfigMaps = core("configmaps", "ConfigMap", true, &corev1.ConfigMap{}, &corev1.ConfigMapList{}, nil)
	Secrets    = sealed(core("secrets", "Secret", true, &corev1.Secret{}, &corev1.SecretList{}, func(s *corev1.Secret) map[string]string {
		return map[string]string{"type": string(s.Type)}
	}))
	ServiceAccounts = core("serviceaccounts", "ServiceAccount", true, &corev1.ServiceAccount{}, &corev1.ServiceAccountList{}, nil)
	Services        = core("services", "Service", true, &corev1.Service{}, &corev1.ServiceList{}, func(s *corev1.Service) map[string]string {
		return map[string]string{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
	})
	Endpoints              = core("endpoints", "Endpoints", true, &corev1.Endpoints{}, &corev1.EndpointsList{}, nil) //nolint:staticcheck // served all the same
	PodTemplates           = core("podtemplates", "PodTemplate", true, &corev1.PodTemplate{}, &corev1.PodTemplateList{}, nil)
	LimitRanges            = core("limitranges", "LimitRange", true, &corev1.LimitRange{}, &corev1.LimitRangeList{}, nil)
	ResourceQuotas         = core("resourcequotas", "ResourceQuota", true, &corev1.ResourceQuota{}, &corev1.ResourceQuotaList{}, nil)
	PersistentVolumes      = core("persistentvolumes", "PersistentVolume", false, &corev1.PersistentVolume{}, &corev1.PersistentVolumeList{}, nil)
	PersistentVolumeClaims = core("persistentvolumeclaims", "PersistentVolumeClaim", true, &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolumeClaimList{}, nil)
)

// Specs are all stored kinds that are built in, a list for each family of groups.
var Specs = slices.Concat(coreSpecs, appsSpecs, admissionSpecs, networkingSpecs, clusterSpecs, deviceSpecs, extensionSpecs, apiregistrationSpecs, rbacSpecs)

var coreSpecs = []*Spec{
	Namespaces, Nodes, Pods, ReplicationControllers, Events,
	ConfigMaps, Secrets, ServiceAccounts, Services, Endpoints, PodTemplates, LimitRanges, ResourceQuotas,
	PersistentVolumes, PersistentVolumeClaims,
}

func core[T Object](resource, kind string, namespaced bool, object T, list runtime.Object, fields func(T) map[string]string) *Spec {
	return spec(corev1.SchemeGroupVersion, resource, kind, namespaced, object, list, fields)
}

func sealed(s *Spec) *Spec {
	s.Sealed = true
	return s
}

// spec is how a kind of group version gv is stored. fields is nil for a kind of
// which only metadata can be selected.
func spec[T Object](gv schema.GroupVersion, resource, kind string, namespaced bool, object T, list runtime.Object, fields func(T) map[string]string) *Spec {
	s := &Spec{
		Resource:   schema.GroupResource{Group: gv.Group, Resource: resource},
		Kind:       gv.WithKind(kind),
		Namespaced: namespaced,
		New:        func() Object { return object.DeepCopyObject().(Object) },
		NewList:    list.DeepCopyObject,
	}
	if fields != nil {
		s.Fields = func(o Object) map[string]string { return fields(o.(T)) }
	}
	return s
}

func podFields(p *corev1.Pod) map[string]string {
	ip := p.Status.PodIP
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	return map[string]string{
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(p.Spec.HostNetwork),
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             ip,
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}

func eventFields(e *corev1.Event) map[string]string {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return map[string]string{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}
