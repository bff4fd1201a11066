package serviceaccount

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/audit"
	serviceaccountuser "k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/warning"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

var requestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind()

// Request issues a token for the service account of that name. The request is
// Request's from here on, and has been given its defaults; ctx takes warnings.
func (t *Tokens) Request(ctx context.Context, namespace, name string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	kube.Default(request)
	if err := checkNames(namespace, name, request); err != nil {
		return nil, err
	}
	issued, err := t.issue(ctx, namespace, name, request.DeepCopy())
	if err == nil {
		return issued, nil
	}
	// What this replica does not know may be a moment old.
	if barrier := t.cfg.Registry.Store().ReadBarrier(ctx); barrier != nil {
		return nil, barrier
	}
	return t.issue(ctx, namespace, name, request)
}

// checkNames holds what a request says of itself against its path.
func checkNames(namespace, name string, request *authenticationv1.TokenRequest) error {
	path := field.NewPath("metadata")
	if request.Name != "" && request.Name != name {
		return apierrors.NewInvalid(requestKind, name, field.ErrorList{field.Invalid(path.Child("name"), request.Name, "must match the service account name if specified")})
	}
	if request.Namespace != "" && request.Namespace != namespace {
		return apierrors.NewInvalid(requestKind, name, field.ErrorList{field.Invalid(path.Child("namespace"), request.Namespace, "must match the service account namespace if specified")})
	}
	return nil
}

func (t *Tokens) issue(ctx context.Context, namespace, name string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	account, err := get[*corev1.ServiceAccount](ctx, t, store.ServiceAccounts, namespace, name)
	if err != nil {
		return nil, err
	}
	if request.UID != "" && request.UID != account.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: requestKind.Group, Resource: requestKind.Kind}, name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", request.UID, account.UID))
	}
	if len(request.Spec.Audiences) == 0 {
		request.Spec.Audiences = slices.Clone(t.cfg.Audiences)
	}
	request.Name, request.Namespace, request.UID = account.Name, account.Namespace, account.UID
	// Taken first, so that what the answer says is not later than what the token does.
	now := t.now()
	request.CreationTimestamp = metav1.NewTime(now)
	request.Status = authenticationv1.TokenRequestStatus{}
	if errs := kube.ValidateTokenRequest(request); len(errs) > 0 {
		return nil, apierrors.NewInvalid(requestKind, "", errs)
	}
	claims := &kube.TokenClaims{Account: account, Audiences: request.Spec.Audiences}
	if ref := request.Spec.BoundObjectRef; ref != nil {
		if err := t.bind(ctx, ref, claims); err != nil {
			return nil, err
		}
	}
	if asked := *request.Spec.ExpirationSeconds; t.cfg.MaxSeconds > 0 && asked > t.cfg.MaxSeconds {
		warning.AddWarning(ctx, "", fmt.Sprintf("requested expiration of %d seconds shortened to %d seconds", asked, t.cfg.MaxSeconds))
		*request.Spec.ExpirationSeconds = t.cfg.MaxSeconds
	}
	claims.Seconds = *request.Spec.ExpirationSeconds
	if claims.Pod != nil && claims.Seconds == kube.WarnOnlyBoundTokenSeconds && t.ours(request.Spec.Audiences) {
		// What admission asks for: good for longer than it says, for clients that
		// read it once.
		claims.WarnAfter, claims.Seconds = claims.Seconds, kube.ExtendedBoundTokenSeconds
	}
	m, err := t.machinery()
	if err != nil {
		return nil, err
	}
	token, err := m.signer.Sign(ctx, claims)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	request.Status = authenticationv1.TokenRequestStatus{
		Token:               token,
		ExpirationTimestamp: metav1.Time{Time: now.Add(time.Duration(*request.Spec.ExpirationSeconds) * time.Second)},
	}
	if claims.CredentialID != "" {
		audit.AddAuditAnnotation(ctx, serviceaccountuser.IssuedCredentialIDAuditAnnotationKey, claims.CredentialID)
	}
	return request, nil
}

// ours says whether all audiences are this API's.
func (t *Tokens) ours(audiences []string) bool {
	for _, a := range audiences {
		if !slices.Contains(t.cfg.Audiences, a) {
			return false
		}
	}
	return true
}

// bind finds the object that a token is to be good for as long as.
func (t *Tokens) bind(ctx context.Context, ref *authenticationv1.BoundObjectReference, claims *kube.TokenClaims) (err error) {
	var uid types.UID
	kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	switch kind.GroupKind() {
	case schema.GroupKind{Kind: "Pod"}:
		if claims.Pod, err = get[*corev1.Pod](ctx, t, store.Pods, claims.Account.Namespace, ref.Name); err != nil {
			return err
		}
		if claims.Account.Name != claims.Pod.Spec.ServiceAccountName {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", claims.Account.Name))
		}
		uid = claims.Pod.UID
		if claims.Node, err = t.nodeOf(ctx, claims.Pod); err != nil {
			return err
		}
	case schema.GroupKind{Kind: "Node"}:
		if claims.Node, err = get[*corev1.Node](ctx, t, store.Nodes, "", ref.Name); err != nil {
			return err
		}
		uid = claims.Node.UID
	case schema.GroupKind{Kind: "Secret"}:
		if claims.Secret, err = get[*corev1.Secret](ctx, t, store.Secrets, claims.Account.Namespace, ref.Name); err != nil {
			return err
		}
		uid = claims.Secret.UID
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", kind.String()))
	}
	if ref.UID != "" && uid != ref.UID {
		return apierrors.NewConflict(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

// nodeOf is the node that a pod is bound to. One that does not exist is named
// all the same, without a uid, so that who reads the token knows where it was.
func (t *Tokens) nodeOf(ctx context.Context, pod *corev1.Pod) (*corev1.Node, error) {
	name := pod.Spec.NodeName
	if name == "" {
		return nil, nil
	}
	node, err := get[*corev1.Node](ctx, t, store.Nodes, "", name)
	if apierrors.IsNotFound(err) {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil
	}
	return node, err
}

// get reads an object from this replica, with errors for clients.
func get[T store.Object](ctx context.Context, t *Tokens, spec *store.Spec, namespace, name string) (T, error) {
	obj, err := store.Of[T](t.cfg.Registry.Store(), spec).Get(ctx, namespace, name)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid) {
		return obj, apierrors.NewNotFound(spec.Resource, name)
	}
	return obj, err
}

// SignLegacy makes the token that a secret of the old kind holds.
func (t *Tokens) SignLegacy(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
	m, err := t.machinery()
	if err != nil {
		return "", err
	}
	return m.signer.SignLegacy(ctx, account, secret)
}
