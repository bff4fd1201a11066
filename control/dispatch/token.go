package dispatch

import (
	"context"
	"errors"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// Tokens issues tokens of service accounts.
type Tokens interface {
	Request(ctx context.Context, namespace, name string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
}

// Token issues a token that a pod of the caller's node mounts, and no other: a
// node that was taken over gets what its pods have, for the audiences that they
// name.
func (d *Dispatcher) Token(ctx context.Context, r *agentv1.TokenRequest) (*agentv1.TokenResponse, error) {
	pod, err := d.callersPod(ctx, r.Namespace, r.Pod, r.Uid)
	if err != nil {
		return nil, err
	}
	if !mountsToken(pod, r.Audience) {
		return nil, status.Errorf(codes.PermissionDenied, "the pod mounts no token for the audience %q", r.Audience)
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if r.Audience != "" {
		request.Spec.Audiences = []string{r.Audience}
	}
	if r.Seconds != 0 {
		request.Spec.ExpirationSeconds = &r.Seconds
	}
	issued, err := d.cfg.Tokens.Request(ctx, pod.Namespace, pod.Spec.ServiceAccountName, request)
	if err != nil {
		return nil, refusal(err)
	}
	return &agentv1.TokenResponse{Token: issued.Status.Token, Expires: issued.Status.ExpirationTimestamp.Unix()}, nil
}

func mountsToken(pod *corev1.Pod, audience string) bool {
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			if t := source.ServiceAccountToken; t != nil && t.Audience == audience {
				return true
			}
		}
	}
	return false
}

// callersPod is a pod that is bound to the node that calls.
func (d *Dispatcher) callersPod(ctx context.Context, namespace, name, uid string) (*corev1.Pod, error) {
	caller, ok := transport.CallerFrom(ctx)
	if !ok || caller.Role != identity.Agent {
		return nil, status.Error(codes.PermissionDenied, "what pods are known by is for compute nodes' certificates")
	}
	if !d.cfg.Owns(caller.Name, caller.Key()) {
		return nil, status.Error(codes.PermissionDenied, errReplacedMachine.Error())
	}
	pod, err := store.Of[*corev1.Pod](d.cfg.Store, store.Pods).Get(ctx, namespace, name)
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrInvalid) {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	// A pod that is not there is answered like one of another node.
	if err != nil || pod.UID != types.UID(uid) || pod.Spec.NodeName != caller.Name {
		return nil, status.Error(codes.NotFound, "the pod is not bound to this node")
	}
	return pod, nil
}

// refusal keeps the API's words, which the pod's author reads.
func refusal(err error) error {
	var told apierrors.APIStatus
	if !errors.As(err, &told) {
		return status.Error(codes.Unavailable, err.Error())
	}
	code := codes.InvalidArgument
	if told.Status().Code == http.StatusNotFound {
		code = codes.NotFound
	}
	return status.Error(code, told.Status().Message)
}
