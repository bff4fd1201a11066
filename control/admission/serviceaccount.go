package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/storage/names"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	defaultServiceAccount = "default"
	// tokenVolume begins the name of the volume that every pod gets, and
	// tokenPath is where it is mounted: clients look there.
	tokenVolume = "kube-api-access-"
	tokenPath   = "/var/run/secrets/kubernetes.io/serviceaccount"
	// tokenSeconds is upstream's: the token's issuer knows it, and makes the
	// token good for longer.
	tokenSeconds = 3607
	rootCA       = "kube-root-ca.crt"

	enforceMountableSecrets = "kubernetes.io/enforce-mountable-secrets"
)

// accountWait bounds how long a pod waits for the default account of a namespace
// that was made a moment ago: the leader makes one for each.
const accountWait = 2 * time.Second

// serviceAccount gives each new pod a service account that exists, the volume
// with which it is known as that account, and the account's pull secrets.
type serviceAccount struct{ store *store.Store }

func (p *serviceAccount) Admit(ctx context.Context, a *resource.Attributes) error {
	pod, ok := p.concerns(a)
	if !ok || a.Operation != resource.Create || isMirror(pod) {
		return nil // what is wrong with a mirror pod is told by Validate
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultServiceAccount
		pod.Spec.DeprecatedServiceAccount = defaultServiceAccount
	}
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if automounts(account, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
	}
	return nil
}

func (p *serviceAccount) Validate(ctx context.Context, a *resource.Attributes) error {
	pod, ok := p.concerns(a)
	if !ok {
		return nil
	}
	ephemeral := a.Operation == resource.Update && a.Subresource == "ephemeralcontainers"
	switch {
	case a.Operation != resource.Create && !ephemeral:
		return nil
	case !ephemeral && isMirror(pod):
		return checkMirror(a, pod)
	case pod.Spec.ServiceAccountName == "":
		return a.Forbidden(fmt.Errorf("no service account specified for pod %s/%s", a.Namespace, pod.Name))
	}
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if enforce, _ := strconv.ParseBool(account.Annotations[enforceMountableSecrets]); enforce {
		if err := checkSecrets(account, pod, ephemeral); err != nil {
			return a.Forbidden(err)
		}
	}
	return nil
}

func (p *serviceAccount) concerns(a *resource.Attributes) (*corev1.Pod, bool) {
	if a.Kind != resource.Pods || a.Subresource != "" && a.Subresource != "ephemeralcontainers" {
		return nil, false
	}
	pod, ok := a.Object.(*corev1.Pod)
	return pod, ok && pod != nil
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// account is the one that the pod names, from this replica, or behind a barrier
// when it is not there.
func (p *serviceAccount) account(ctx context.Context, a *resource.Attributes, pod *corev1.Pod) (*corev1.ServiceAccount, error) {
	name := pod.Spec.ServiceAccountName
	table := store.Of[*corev1.ServiceAccount](p.store, store.ServiceAccounts)
	account, err := table.Get(ctx, a.Namespace, name)
	if errors.Is(err, store.ErrNotFound) {
		if err := p.store.ReadBarrier(ctx); err != nil {
			return nil, err
		}
		if name == defaultServiceAccount {
			p.await(ctx, a.Namespace)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		account, err = table.Get(ctx, a.Namespace, name)
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid) {
		return nil, a.Forbidden(fmt.Errorf("error looking up service account %s/%s: %w", a.Namespace, name,
			apierrors.NewNotFound(store.ServiceAccounts.Resource, name)))
	}
	return account, err
}

// await returns once the namespace has its default account, or after accountWait,
// or when it can't tell: whoever called looks again.
func (p *serviceAccount) await(ctx context.Context, namespace string) {
	ctx, cancel := context.WithTimeout(ctx, accountWait)
	defer cancel()
	table := p.store.Table(store.ServiceAccounts)
	watch, err := table.Watch(ctx, store.WatchOptions{
		Namespace: namespace, Fields: fields.OneTermEqualSelector("metadata.name", defaultServiceAccount), After: p.store.Revision(),
	})
	if err != nil {
		return
	}
	if _, _, err := table.GetItem(namespace, defaultServiceAccount); err == nil {
		return // it came before the watch
	}
	_, _, _ = watch.Next(ctx)
}

// automounts says whether the pod gets the token's volume: what the pod says
// counts, then what the account says.
func automounts(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	for _, said := range []*bool{pod.Spec.AutomountServiceAccountToken, account.AutomountServiceAccountToken} {
		if said != nil {
			return *said
		}
	}
	return true
}

// mountToken mounts the token's volume in every container that has nothing
// there, and adds it to the pod if one does.
func mountToken(pod *corev1.Pod) {
	name, has := "", false
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, tokenVolume) {
			name, has = v.Name, true
			break
		}
	}
	if !has {
		name = names.SimpleNameGenerator.GenerateName(tokenVolume)
	}
	needed := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenPath})
			needed = true
		}
	}
	if needed && !has {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenSource()}})
	}
}

// tokenSource is upstream's: the token, the cluster's CA and the namespace.
func tokenSource() *corev1.ProjectedVolumeSource {
	mode, seconds := corev1.ProjectedVolumeSourceDefaultMode, int64(tokenSeconds)
	return &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCA},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}
}

// checkMirror keeps pods that a node made of files away from secrets.
func checkMirror(a *resource.Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return a.Forbidden(errors.New("a mirror pod may not reference service accounts"))
	}
	if refersToSecrets(pod) {
		return a.Forbidden(errors.New("a mirror pod may not reference secrets"))
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil }) {
			return a.Forbidden(errors.New("a mirror pod may not use ServiceAccountToken volume projections"))
		}
	}
	return nil
}
