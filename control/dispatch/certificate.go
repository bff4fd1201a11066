package dispatch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// issueMax is how long a call waits for the signer: less than agents do.
const issueMax = 4 * time.Second

// Certificate asks, in a node's name, for a certificate that a pod bound to it
// mounts, and waits a while for the signer. The request's name follows from the
// signing request, so whoever asks again finds it, on any control node.
func (d *Dispatcher) Certificate(ctx context.Context, r *agentv1.CertificateRequest) (*agentv1.CertificateResponse, error) {
	pod, err := d.callersPod(ctx, r.Namespace, r.Pod, r.Uid)
	if err != nil {
		return nil, err
	}
	source := certificateSource(pod, r.Volume, int(r.Source))
	if source == nil {
		return nil, status.Errorf(codes.PermissionDenied, "source %d of volume %q of the pod is no certificate", r.Source, r.Volume)
	}
	sum := sha256.Sum256(r.SigningRequest)
	name := "req-" + hex.EncodeToString(sum[:10])
	ctx, cancel := context.WithTimeout(ctx, issueMax)
	defer cancel()
	if err := d.requestCertificate(ctx, pod, source, name, r.SigningRequest); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, refusal(err)
	}
	return d.awaitCertificate(ctx, pod, name)
}

func certificateSource(pod *corev1.Pod, volume string, index int) *corev1.PodCertificateProjection {
	for _, v := range pod.Spec.Volumes {
		if v.Name == volume && v.Projected != nil && index >= 0 && index < len(v.Projected.Sources) {
			return v.Projected.Sources[index].PodCertificate
		}
	}
	return nil
}

func (d *Dispatcher) requestCertificate(ctx context.Context, pod *corev1.Pod, source *corev1.PodCertificateProjection, name string, signingRequest []byte) error {
	account, err := store.Of[*corev1.ServiceAccount](d.cfg.Store, store.ServiceAccounts).Get(ctx, pod.Namespace, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	node, err := store.Of[*corev1.Node](d.cfg.Store, store.Nodes).Get(ctx, "", pod.Spec.NodeName)
	if err != nil {
		return err
	}
	request := &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
		},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: source.SignerName,
			PodName:    pod.Name, PodUID: pod.UID,
			ServiceAccountName: account.Name, ServiceAccountUID: account.UID,
			NodeName: types.NodeName(node.Name), NodeUID: node.UID,
			MaxExpirationSeconds:      source.MaxExpirationSeconds,
			StubPKCS10Request:         signingRequest,
			UnverifiedUserAnnotations: source.UserAnnotations,
		},
	}
	ctx = genericrequest.WithUser(ctx, &user.DefaultInfo{
		Name: "system:node:" + node.Name, Groups: []string{user.NodesGroup, user.AllAuthenticated},
	})
	_, err = d.cfg.Registry.Create(ctx, d.cfg.Registry.Kind(store.PodCertificateRequests.Resource), pod.Namespace, request, resource.CreateOptions{})
	return err
}

// awaitCertificate waits for the signer's word until ctx ends.
func (d *Dispatcher) awaitCertificate(ctx context.Context, pod *corev1.Pod, name string) (*agentv1.CertificateResponse, error) {
	table := store.Of[*certificatesv1.PodCertificateRequest](d.cfg.Store, store.PodCertificateRequests)
	watch, err := table.Table().Watch(ctx, store.WatchOptions{
		Namespace: pod.Namespace, Fields: fields.OneTermEqualSelector("metadata.name", name), After: d.cfg.Store.Revision(),
	})
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	for {
		request, err := table.Get(context.WithoutCancel(ctx), pod.Namespace, name)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil, status.Error(codes.Aborted, "the request for the certificate was deleted before it was answered")
		case err != nil:
			return nil, status.Error(codes.Unavailable, err.Error())
		case request.Spec.PodUID != pod.UID:
			return nil, status.Errorf(codes.AlreadyExists, "PodCertificateRequest %s is of another pod", name)
		}
		if answer := answered(request); answer != nil {
			return answer, nil
		}
		if _, _, err := watch.Next(ctx); err != nil {
			return &agentv1.CertificateResponse{Request: name}, nil
		}
	}
}

// answered is what the signer said, or nil.
func answered(request *certificatesv1.PodCertificateRequest) *agentv1.CertificateResponse {
	for _, c := range request.Status.Conditions {
		answer := &agentv1.CertificateResponse{Request: request.Name, Reason: c.Reason, Message: c.Message}
		switch c.Type {
		case certificatesv1.PodCertificateRequestConditionTypeDenied:
			answer.Outcome = agentv1.CertificateResponse_DENIED
		case certificatesv1.PodCertificateRequestConditionTypeFailed:
			answer.Outcome = agentv1.CertificateResponse_FAILED
		case certificatesv1.PodCertificateRequestConditionTypeIssued:
			answer.Outcome, answer.Chain = agentv1.CertificateResponse_ISSUED, request.Status.CertificateChain
			if t := request.Status.BeginRefreshAt; t != nil {
				answer.BeginRefresh = t.Unix()
			}
			if t := request.Status.NotAfter; t != nil {
				answer.NotAfter = t.Unix()
			}
		default:
			continue
		}
		return answer
	}
	return nil
}
