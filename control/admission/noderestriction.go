package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// nodeRestriction holds a node to what is its own where package auth, which sees
// no objects, lets it write: upstream's plugin of that name. A node that was
// taken over must not draw pods to itself by its labels and taints, touch
// another's pods, or get a token of a pod that it does not run. It looks at what
// would be stored.
type nodeRestriction struct {
	store      *store.Store
	authorizer *auth.Authorizer
}

func (nodeRestriction) Admit(context.Context, *resource.Attributes) error { return nil }

func (n nodeRestriction) Validate(ctx context.Context, a *resource.Attributes) error {
	if a.User == nil {
		return nil
	}
	node, ok := auth.NodeName(a.User)
	if !ok {
		return nil
	}
	var err error
	switch path := a.Kind.Spec.Resource.String(); path {
	case "pods":
		err = n.pod(ctx, node, a)
	case "nodes":
		err = n.node(node, a)
	case "persistentvolumeclaims":
		err = claimStatus(node, a)
	case "serviceaccounts":
		if a.Operation == resource.Create && a.Subresource == "token" {
			err = n.token(ctx, node, a)
		}
	case "leases.coordination.k8s.io":
		if a.Namespace != corev1.NamespaceNodeLease || name(a) != node {
			err = errors.New("can only access node lease with the same name as the requesting node")
		}
	case "csinodes.storage.k8s.io":
		if name(a) != node {
			err = errors.New("can only access CSINode with the same name as the requesting node")
		}
	case "resourceslices.resource.k8s.io":
		err = resourceSlice(node, a)
	case "certificatesigningrequests.certificates.k8s.io":
		err = signingRequest(node, a)
	case "podcertificaterequests.certificates.k8s.io":
		err = n.podCertificate(ctx, node, a)
	}
	var status apierrors.APIStatus
	if err == nil || errors.As(err, &status) || errors.Is(err, errLookup) {
		return err
	}
	return a.Forbidden(err)
}

// errLookup marks a failure to find out, which is no verdict on the node.
var errLookup = errors.New("node restriction")

// name is that of the object, which the path of a create does not say.
func name(a *resource.Attributes) string {
	if obj, ok := a.Object.(metav1.Object); ok && a.Name == "" {
		return obj.GetName()
	}
	return a.Name
}

func (n nodeRestriction) pod(ctx context.Context, node string, a *resource.Attributes) error {
	switch {
	case a.Subresource == "" && a.Operation == resource.Create:
		return n.mirrorPod(ctx, node, a.Object.(*corev1.Pod))
	case a.Subresource == "" && a.Operation == resource.Delete:
		if a.OldObject.(*corev1.Pod).Spec.NodeName != node {
			return fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node)
		}
		return nil
	case a.Subresource == "status" && a.Operation == resource.Update:
		pod, old := a.Object.(*corev1.Pod), a.OldObject.(*corev1.Pod)
		if old.Spec.NodeName != node {
			return fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node)
		}
		return podStatus(node, pod, old)
	case a.Subresource == "eviction" && a.Operation == resource.Create:
		pod, err := n.findPod(ctx, a.Namespace, name(a))
		if err != nil {
			return err
		}
		if pod.Spec.NodeName != node {
			return fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", node)
		}
		return nil
	}
	return fmt.Errorf("unexpected operation %q of pods/%s, node %q can only create, delete and evict its own pods and update their status", a.Operation, a.Subresource, node)
}

// podStatus is stricter than upstream's, which lets a node write annotations:
// agents do not, and controllers act on them.
func podStatus(node string, pod, old *corev1.Pod) error {
	switch {
	case !equality.Semantic.DeepEqual(pod.Labels, old.Labels):
		return fmt.Errorf("node %q cannot update labels through pod status", node)
	case !equality.Semantic.DeepEqual(pod.Annotations, old.Annotations),
		!equality.Semantic.DeepEqual(pod.Finalizers, old.Finalizers),
		!equality.Semantic.DeepEqual(pod.OwnerReferences, old.OwnerReferences):
		return fmt.Errorf("node %q may change the status alone, not metadata", node)
	case !equality.Semantic.DeepEqual(pod.Status.ResourceClaimStatuses, old.Status.ResourceClaimStatuses):
		return fmt.Errorf("node %q cannot update resource claim statues", node)
	case !equality.Semantic.DeepEqual(pod.Status.ExtendedResourceClaimStatus, old.Status.ExtendedResourceClaimStatus):
		return fmt.Errorf("node %q cannot update extended resource claim status", node)
	case !equality.Semantic.DeepEqual(pod.Status.NodeAllocatableResourceClaimStatuses, old.Status.NodeAllocatableResourceClaimStatuses):
		return fmt.Errorf("node %q cannot update node allocatable resource claim statuses", node)
	}
	return nil
}

// mirrorPod is the one pod that a node may create: the likeness of one that it
// runs without being told. It must give the node nothing that it has not.
func (n nodeRestriction) mirrorPod(ctx context.Context, node string, pod *corev1.Pod) error {
	if _, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]; !ok {
		return fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	if pod.Spec.NodeName != node {
		return fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", node)
	}
	if len(pod.OwnerReferences) != 1 {
		return fmt.Errorf("node %q can only create pods with a single owner reference set to itself", node)
	}
	owner := pod.OwnerReferences[0]
	switch {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node:
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", node)
	case owner.Controller == nil || !*owner.Controller:
		return fmt.Errorf("node %q can only create pods with a controller owner reference set to itself", node)
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	self, err := find[*corev1.Node](ctx, n.store, store.Nodes, "", node)
	if err != nil {
		return err
	}
	if owner.UID != self.UID {
		return fmt.Errorf("node %s UID mismatch: expected %s got %s", node, owner.UID, self.UID)
	}
	what, err := kube.RefersToObjects(pod)
	if err != nil {
		return fmt.Errorf("error checking mirror pod for API references: %w", err)
	}
	if what != "" {
		return fmt.Errorf("node %q can not create pods that reference %s", node, what)
	}
	return nil
}

// node holds a node to its own Node object, and there keeps it from what draws
// pods to it or outlasts it.
func (nodeRestriction) node(node string, a *resource.Attributes) error {
	if requested := name(a); requested != node {
		return fmt.Errorf("node %q is not allowed to modify node %q", node, requested)
	}
	switch a.Operation {
	case resource.Create:
		obj := a.Object.(*corev1.Node)
		if obj.Spec.ConfigSource != nil {
			return fmt.Errorf("node %q is not allowed to create pods with a non-nil configSource", node)
		}
		if labels := forbiddenLabels(obj.Labels, nil); len(labels) > 0 {
			return fmt.Errorf("node %q is not allowed to set the following labels: %s", node, strings.Join(labels, ", "))
		}
	case resource.Update:
		obj, old := a.Object.(*corev1.Node), a.OldObject.(*corev1.Node)
		switch {
		case obj.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(obj.Spec.ConfigSource, old.Spec.ConfigSource):
			return fmt.Errorf("node %q is not allowed to update configSource to a new non-nil configSource", node)
		case !equality.Semantic.DeepEqual(obj.Spec.Taints, old.Spec.Taints):
			return fmt.Errorf("node %q is not allowed to modify taints", node)
		case !equality.Semantic.DeepEqual(obj.OwnerReferences, old.OwnerReferences):
			return fmt.Errorf("node %q is not allowed to modify ownerReferences", node)
		case !equality.Semantic.DeepEqual(obj.Finalizers, old.Finalizers):
			return fmt.Errorf("node %q is not allowed to modify finalizers", node)
		}
		if labels := forbiddenLabels(obj.Labels, old.Labels); len(labels) > 0 {
			return fmt.Errorf("is not allowed to modify labels: %s", strings.Join(labels, ", "))
		}
	}
	return nil
}

// forbiddenLabels are those that differ and that a node must not choose: what an
// administrator sets aside for isolation, and Kubernetes' own but those that say
// what the node is.
func forbiddenLabels(now, old map[string]string) []string {
	var forbidden []string
	differs := func(a, b map[string]string) {
		for key, value := range a {
			if other, ok := b[key]; ok && other == value {
				continue
			}
			domain, _, prefixed := strings.Cut(key, "/")
			if !prefixed {
				continue
			}
			if within(domain, corev1.LabelNamespaceNodeRestriction) ||
				(within(domain, "kubernetes.io") || within(domain, "k8s.io")) && !kube.IsKubeletLabel(key) {
				forbidden = append(forbidden, key)
			}
		}
	}
	differs(now, old)
	differs(old, now)
	slices.Sort(forbidden)
	return slices.Compact(forbidden)
}

func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}

// claimStatus lets a node say how large a volume has become, and nothing else.
func claimStatus(node string, a *resource.Attributes) error {
	if a.Operation != resource.Update || a.Subresource != "status" {
		return errors.New("may only update PVC status")
	}
	pvc, old := a.Object.(*corev1.PersistentVolumeClaim).DeepCopy(), a.OldObject.(*corev1.PersistentVolumeClaim).DeepCopy()
	for _, p := range []*corev1.PersistentVolumeClaim{pvc, old} {
		p.ResourceVersion, p.ManagedFields = "", nil
		p.Status.Capacity, p.Status.Conditions = nil, nil
		p.Status.AllocatedResources, p.Status.AllocatedResourceStatuses = nil, nil
	}
	if !equality.Semantic.DeepEqual(pvc, old) {
		return fmt.Errorf("node %q is not allowed to update fields other than status.quantity and status.conditions", node)
	}
	return nil
}

// token lets a node have tokens of its own pods only, for whom these pods
// themselves ask for tokens.
func (n nodeRestriction) token(ctx context.Context, node string, a *resource.Attributes) error {
	request, ok := a.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.Object)
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return errors.New("node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return errors.New("node requested token with a pod binding without a uid")
	}
	pod, err := n.findPod(ctx, a.Namespace, ref.Name)
	if err != nil {
		return err
	}
	if ref.UID != pod.UID {
		return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	}
	if pod.Spec.NodeName != node {
		return errors.New("node requested token bound to a pod scheduled on a different node")
	}
	if len(request.Spec.Audiences) > 1 {
		return errors.New("node may only request 0 or 1 audiences")
	}
	audience := strings.Join(request.Spec.Audiences, "")
	if kube.AsksForAudience(pod, audience) {
		return nil
	}
	return n.permitted(ctx, a, "request-serviceaccounts-token-audience", audience,
		fmt.Errorf("%s is not authorized to request tokens for audience %q", a.User.GetName(), audience))
}

// permitted asks whether the node may do by RBAC what does not follow from its
// pods; resource and name are upstream's convention.
func (n nodeRestriction) permitted(ctx context.Context, a *resource.Attributes, verb, resource string, otherwise error) error {
	gvr := a.Kind.GroupVersionResource()
	decision, err := n.authorizer.Authorize(ctx, auth.Attributes{
		User: a.User, Verb: verb, Group: gvr.Group, Version: gvr.Version, Resource: resource, Namespace: a.Namespace, Name: a.Name,
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errLookup, err)
	}
	if !decision.Allowed {
		return otherwise
	}
	return nil
}

// resourceSlice lets a node offer devices of its own only. Which ones it changes,
// package auth has seen to, as no update moves a slice to another node.
func resourceSlice(node string, a *resource.Attributes) error {
	own := func(obj any) bool {
		slice, ok := obj.(*resourcev1.ResourceSlice)
		return ok && slice.Spec.NodeName != nil && *slice.Spec.NodeName == node
	}
	switch {
	case a.Operation == resource.Create && !own(a.Object):
		return errors.New("can only create ResourceSlice with the same NodeName as the requesting node")
	case a.Operation == resource.Delete && !own(a.OldObject):
		return errors.New("can only delete ResourceSlice with the same NodeName as the requesting node")
	}
	return nil
}

// signingRequest keeps a node from asking for the certificate of another.
func signingRequest(node string, a *resource.Attributes) error {
	csr, ok := a.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.Operation != resource.Create || a.Subresource != "" {
		return nil
	}
	if csr.Spec.SignerName != certificatesv1.KubeletServingSignerName && csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	common, err := kube.RequestedName(csr.Spec.Request)
	if err != nil {
		return fmt.Errorf("unable to parse csr: %w", err)
	}
	if common != "system:node:"+node {
		return fmt.Errorf("can only create a node CSR with CN=system:node:%s", node)
	}
	return nil
}

// podCertificate lets a node ask for certificates of its own pods only.
func (n nodeRestriction) podCertificate(ctx context.Context, node string, a *resource.Attributes) error {
	request, ok := a.Object.(*certificatesv1.PodCertificateRequest)
	if !ok || a.Operation != resource.Create || a.Subresource != "" {
		return fmt.Errorf("unexpected operation %v", a.Operation)
	}
	spec := &request.Spec
	if string(spec.NodeName) != node {
		return fmt.Errorf("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", spec.NodeName, node)
	}
	self, err := find[*corev1.Node](ctx, n.store, store.Nodes, "", node)
	if err != nil {
		return err
	}
	pod, err := n.findPod(ctx, a.Namespace, spec.PodName)
	if err != nil {
		return err
	}
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	switch {
	case self.UID != spec.NodeUID:
		return fmt.Errorf("PodCertificateRequest names node UID %q, inconsistent with the running node (%q)", spec.NodeUID, self.UID)
	case pod.UID != spec.PodUID:
		return fmt.Errorf("PodCertificateRequest contains pod UID (%q) which differs from running pod %q", spec.PodUID, pod.UID)
	case pod.Spec.NodeName != node:
		return fmt.Errorf("pod %q is not running on node %q named in the PodCertificateRequest", pod.Namespace+"/"+pod.Name, node)
	case mirror:
		return fmt.Errorf("pod %q is a mirror pod", pod.Namespace+"/"+pod.Name)
	case spec.ServiceAccountName != pod.Spec.ServiceAccountName:
		return fmt.Errorf("PodCertificateRequest contains serviceAccountName (%q) that differs from running pod (%q)", spec.ServiceAccountName, pod.Spec.ServiceAccountName)
	case kube.AsksForSigner(pod, spec.SignerName):
		return nil
	}
	return n.permitted(ctx, a, "request-serviceaccounts-podcertificate-signer", strings.ReplaceAll(spec.SignerName, "/", ":"),
		fmt.Errorf("pod %q does not mount a podCertificate projected volume for signer %q", pod.Namespace+"/"+pod.Name, spec.SignerName))
}

func (n nodeRestriction) findPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return find[*corev1.Pod](ctx, n.store, store.Pods, namespace, name)
}

// find reads an object that may have been written a moment ago through another
// node.
func find[T store.Object](ctx context.Context, s *store.Store, spec *store.Spec, namespace, name string) (none T, err error) {
	table := store.Of[T](s, spec)
	obj, err := table.Get(ctx, namespace, name)
	if errors.Is(err, store.ErrNotFound) {
		if err := s.ReadBarrier(ctx); err != nil {
			return none, fmt.Errorf("%w: %w", errLookup, err)
		}
		obj, err = table.Get(ctx, namespace, name)
	}
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrInvalid):
		return none, apierrors.NewNotFound(spec.Resource, name)
	case err != nil:
		return none, fmt.Errorf("%w: %w", errLookup, err)
	}
	return obj, nil
}
