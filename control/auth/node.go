package auth

import (
	"context"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// nodes decides what a node may do, as upstream's Node authorizer: its own Node
// object and lease, the pods bound to it, and what those pods refer to. A node
// that is taken over must not read or change anything of another. What can only
// be seen in an object (which Node is created, what changes in it) is left to
// package admission's nodeRestriction. Upstream leaves to it also whose pods are
// deleted and evicted, and which Node is changed: here both ask.
//
// Muster's agents use their session for all of this, so it is asked seldom:
// nothing is kept for it, the node's pods are looked up when it is.
type nodes struct {
	store *store.Store
	rules []rbacv1.PolicyRule
}

func newNodes(s *store.Store) *nodes { return &nodes{store: s, rules: kube.NodeRules()} }

const unrelated = "no relationship found between node '%s' and this object"

// authorize decides for the node of that name.
func (n *nodes) authorize(node string, request *Attributes) (bool, string) {
	resource := schema.GroupResource{Group: request.Group, Resource: request.Resource}
	if judge, ok := judges[resource]; ok && request.Resource != "" {
		return judge(n, node, request)
	}
	for i := range n.rules {
		if matches(&n.rules[i], request) {
			return true, ""
		}
	}
	return false, ""
}

// judges are the resources of which a node may use some objects only. Upstream's
// words say why.
var judges = map[schema.GroupResource]func(*nodes, string, *Attributes) (bool, string){
	{Resource: "secrets"}:    (*nodes).content,
	{Resource: "configmaps"}: (*nodes).content,
	{Resource: "persistentvolumeclaims"}: func(n *nodes, node string, request *Attributes) (bool, string) {
		if request.Subresource == "status" {
			if !isUpdate(request.Verb) {
				return false, "can only get/update/patch this type"
			}
			return n.related(node, request, n.usesClaim)
		}
		return n.single(node, request, n.usesClaim)
	},
	{Resource: "persistentvolumes"}:                                       (*nodes).volume,
	{Group: storagev1.GroupName, Resource: "volumeattachments"}:           (*nodes).attachment,
	{Resource: "serviceaccounts"}:                                         (*nodes).serviceAccount,
	{Group: coordinationv1.GroupName, Resource: "leases"}:                 (*nodes).lease,
	{Group: storagev1.GroupName, Resource: "csinodes"}:                    (*nodes).csiNode,
	{Resource: "nodes"}:                                                   (*nodes).node,
	{Resource: "pods"}:                                                    (*nodes).pod,
	{Group: certificatesv1.GroupName, Resource: "podcertificaterequests"}: (*nodes).certificateRequest,
	{Group: resourcev1.GroupName, Resource: "resourceclaims"}: func(n *nodes, node string, request *Attributes) (bool, string) {
		return n.single(node, request, func(node string, request *Attributes) bool {
			return n.podIn(node, request.Namespace, func(pod *corev1.Pod) bool {
				return slices.Contains(kube.ResourceClaims(pod), request.Name)
			})
		})
	},
	{Group: resourcev1.GroupName, Resource: "resourceslices"}: (*nodes).resourceSlice,
}

// content is secrets and config maps: single ones that a pod of the node uses.
func (n *nodes) content(node string, request *Attributes) (bool, string) {
	switch {
	case request.Verb != "get" && !isCollectionRead(request):
		return false, "can only read resources of this type"
	case request.Subresource != "":
		return false, "cannot read subresource"
	case request.Namespace == "":
		return false, "can only read namespaced object of this type"
	case request.Resource == "secrets":
		return n.related(node, request, n.usesSecret)
	}
	return n.related(node, request, func(node string, request *Attributes) bool {
		return n.podIn(node, request.Namespace, func(pod *corev1.Pod) bool { return kube.UsesConfigMap(pod, request.Name) })
	})
}

// single allows get alone, of what is related.
func (n *nodes) single(node string, request *Attributes, is func(string, *Attributes) bool) (bool, string) {
	switch {
	case request.Verb != "get":
		return false, "can only get individual resources of this type"
	case request.Subresource != "":
		return false, "cannot get subresource"
	}
	return n.related(node, request, is)
}

// related words the outcome of is. What does not exist is answered like what is
// another's, so that a node cannot find out which names there are.
func (n *nodes) related(node string, request *Attributes, is func(string, *Attributes) bool) (bool, string) {
	switch {
	case request.Name == "":
		return false, "No Object name found"
	case !is(node, request):
		return false, fmt.Sprintf(unrelated, node)
	}
	return true, ""
}

func (n *nodes) usesSecret(node string, request *Attributes) bool {
	if n.podIn(node, request.Namespace, func(pod *corev1.Pod) bool { return kube.UsesSecret(pod, request.Name) }) {
		return true
	}
	// A volume may need a secret of any namespace.
	return n.anyPod(node, "", func(pod *corev1.Pod) bool {
		return slices.ContainsFunc(kube.Claims(pod), func(claim string) bool {
			pvc := object[*corev1.PersistentVolumeClaim](n, schema.GroupResource{Resource: "persistentvolumeclaims"}, pod.Namespace, claim)
			if pvc == nil || pvc.Spec.VolumeName == "" {
				return false
			}
			pv := object[*corev1.PersistentVolume](n, schema.GroupResource{Resource: "persistentvolumes"}, "", pvc.Spec.VolumeName)
			return pv != nil && claimedBy(pv, pod.Namespace, claim) && kube.VolumeUsesSecret(pv, request.Namespace, request.Name)
		})
	})
}

func (n *nodes) usesClaim(node string, request *Attributes) bool {
	return n.podIn(node, request.Namespace, func(pod *corev1.Pod) bool {
		return slices.Contains(kube.Claims(pod), request.Name)
	})
}

func claimedBy(pv *corev1.PersistentVolume, namespace, claim string) bool {
	ref := pv.Spec.ClaimRef
	return ref != nil && ref.Namespace == namespace && ref.Name == claim
}

func (n *nodes) volume(node string, request *Attributes) (bool, string) {
	return n.single(node, request, func(node string, request *Attributes) bool {
		pv := object[*corev1.PersistentVolume](n, schema.GroupResource{Resource: "persistentvolumes"}, "", request.Name)
		return pv != nil && pv.Spec.ClaimRef != nil && n.podIn(node, pv.Spec.ClaimRef.Namespace, func(pod *corev1.Pod) bool {
			return slices.Contains(kube.Claims(pod), pv.Spec.ClaimRef.Name)
		})
	})
}

func (n *nodes) attachment(node string, request *Attributes) (bool, string) {
	return n.single(node, request, func(node string, request *Attributes) bool {
		va := object[*storagev1.VolumeAttachment](n, schema.GroupResource{Group: storagev1.GroupName, Resource: "volumeattachments"}, "", request.Name)
		return va != nil && va.Spec.NodeName == node
	})
}

func (n *nodes) serviceAccount(node string, request *Attributes) (bool, string) {
	uses := func(node string, request *Attributes) bool {
		return n.podIn(node, request.Namespace, func(pod *corev1.Pod) bool { return pod.Spec.ServiceAccountName == request.Name })
	}
	switch {
	case request.Verb == "get" && request.Subresource == "":
		return n.related(node, request, uses)
	case request.Verb != "create" || request.Name == "":
		return false, "can only create tokens for individual service accounts"
	case request.Subresource != "token":
		return false, "can only create token subresource of serviceaccount"
	}
	return n.related(node, request, uses)
}

func (n *nodes) lease(node string, request *Attributes) (bool, string) {
	switch {
	case !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, request.Verb):
		return false, "can only get, create, update, patch, or delete a node lease"
	case request.Namespace != corev1.NamespaceNodeLease:
		return false, fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	case request.Verb != "create" && request.Name != node:
		return false, "can only access node lease with the same name as the requesting node"
	}
	return true, ""
}

func (n *nodes) csiNode(node string, request *Attributes) (bool, string) {
	switch {
	case request.Subresource != "":
		return false, "cannot authorize CSINode subresources"
	case !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, request.Verb):
		return false, "can only get, create, update, patch, or delete a CSINode"
	case request.Verb != "create" && request.Name != node:
		return false, "can only access CSINode with the same name as the requesting node"
	}
	return true, ""
}

func (n *nodes) node(node string, request *Attributes) (bool, string) {
	switch {
	case request.Verb == "create" && request.Subresource == "":
		return true, "" // NodeRestriction sees which
	case isUpdate(request.Verb) && (request.Subresource == "" || request.Subresource == "status"):
		if request.Name != node {
			return false, fmt.Sprintf("node '%s' cannot modify '%s', only its own Node object", node, request.Name)
		}
		return true, ""
	case request.Subresource != "" || request.Verb != "get" && !isCollectionRead(request):
		return false, ""
	case request.Name == "":
		return false, fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node)
	case request.Name != node:
		return false, fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, request.Name)
	}
	return true, ""
}

func (n *nodes) pod(node string, request *Attributes) (bool, string) {
	bound := func(node string, request *Attributes) bool {
		item, _, err := n.store.Table(store.Pods).GetItem(request.Namespace, request.Name)
		return err == nil && item.Fields.Get("spec.nodeName") == node
	}
	switch request.Subresource {
	case "":
		switch {
		case request.Verb == "get":
			return n.related(node, request, bound)
		case isCollectionRead(request):
			if selects(request.Fields, "spec.nodeName", node) {
				return true, ""
			}
			if request.Name != "" {
				return n.related(node, request, bound)
			}
			return false, "can only list/watch pods with spec.nodeName field selector"
		case request.Verb == "create":
			return true, "" // mirror pods: NodeRestriction sees whether it is one
		case request.Verb == "delete":
			return n.related(node, request, bound)
		}
	case "status":
		if isUpdate(request.Verb) {
			return n.related(node, request, bound)
		}
	case "eviction":
		if request.Verb == "create" {
			return n.related(node, request, bound)
		}
	}
	return false, ""
}

func (n *nodes) certificateRequest(node string, request *Attributes) (bool, string) {
	switch {
	case request.Subresource != "":
		return false, "nodes may not access the status subresource of PodCertificateRequests"
	case request.Verb == "create":
		return true, ""
	case request.Verb == "get":
		return n.related(node, request, func(node string, request *Attributes) bool {
			pcr := object[*certificatesv1.PodCertificateRequest](n, schema.GroupResource{Group: certificatesv1.GroupName, Resource: "podcertificaterequests"}, request.Namespace, request.Name)
			return pcr != nil && string(pcr.Spec.NodeName) == node
		})
	case isCollectionRead(request):
		if selects(request.Fields, "spec.nodeName", node) {
			return true, ""
		}
		return false, "can only list/watch podcertificaterequests with nodeName field selector"
	}
	return false, fmt.Sprintf("nodes may not %s podcertificaterequests", request.Verb)
}

// resourceSlice is the devices of the node itself.
func (n *nodes) resourceSlice(node string, request *Attributes) (bool, string) {
	if request.Subresource != "" {
		return false, "cannot authorize ResourceSlice subresources"
	}
	switch request.Verb {
	case "create":
		return true, "" // NodeRestriction sees whose
	case "get", "update", "patch", "delete":
		return n.related(node, request, func(node string, request *Attributes) bool {
			item, _, err := n.store.Table(store.ResourceSlices).GetItem("", request.Name)
			return err == nil && item.Fields.Get(resourcev1.ResourceSliceSelectorNodeName) == node
		})
	case "list", "watch", "deletecollection":
		if selects(request.Fields, resourcev1.ResourceSliceSelectorNodeName, node) {
			return true, ""
		}
		return false, "can only list/watch/deletecollection resourceslices with nodeName field selector"
	}
	return false, "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"
}

// podIn is anyPod for a namespace: what is in none, no pod refers to.
func (n *nodes) podIn(node, namespace string, is func(*corev1.Pod) bool) bool {
	return namespace != "" && n.anyPod(node, namespace, is)
}

// anyPod says whether a pod that is bound to node, in a namespace or anywhere, is
// as asked. Mirror pods do not count: the node itself made them.
func (n *nodes) anyPod(node, namespace string, is func(*corev1.Pod) bool) bool {
	page, err := n.store.Table(store.Pods).List(context.Background(), store.ListOptions{
		Namespace: namespace, Fields: fields.OneTermEqualSelector("spec.nodeName", node),
	})
	if err != nil {
		return false
	}
	for _, item := range page.Items {
		obj, err := store.Decode(store.Pods, item)
		if err != nil {
			continue
		}
		pod := obj.(*corev1.Pod)
		if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror && is(pod) {
			return true
		}
	}
	return false
}

// object is a stored object, or nil.
func object[T store.Object](n *nodes, resource schema.GroupResource, namespace, name string) (none T) {
	for _, spec := range store.Specs {
		if spec.Resource != resource {
			continue
		}
		item, _, err := n.store.Table(spec).GetItem(namespace, name)
		if err != nil {
			return none
		}
		obj, err := store.Decode(spec, item)
		if err != nil {
			return none
		}
		found, _ := obj.(T)
		return found
	}
	return none
}

func isUpdate(verb string) bool { return verb == "update" || verb == "patch" }

func isCollectionRead(request *Attributes) bool {
	return request.Verb == "list" || request.Verb == "watch"
}

func selects(selector fields.Selector, field, value string) bool {
	if selector == nil {
		return false
	}
	got, ok := selector.RequiresExactMatch(field)
	return ok && got == value
}
