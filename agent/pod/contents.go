package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/agent/volume"
)

// ErrNotTold says that the control plane has not yet said whether an object
// exists.
var ErrNotTold = errors.New("not told by the control plane yet")

// Contents knows what pods refer to. A config map or secret that does not exist
// is nil, one that the control plane has not told ErrNotTold. What it answers
// must not be changed.
type Contents interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, error)
	Secret(namespace, name string) (*corev1.Secret, error)
	// Claim is a claim and, if it is bound, its volume.
	Claim(namespace, name string) (*corev1.PersistentVolumeClaim, *volume.Claimed, error)
	// Services are those with an address that a container finds in its environment:
	// the API's own and, with links, those of the namespace.
	Services(namespace string, links bool) ([]corev1.Service, error)
	// TrustAnchors are those of a ClusterTrustBundle, or of a signer's bundles, as
	// Content names them: PEM, nil when there are none.
	TrustAnchors(name string) ([]byte, error)
	// Certificate asks for what a source of a projected volume of the pod is to
	// show, with a PKCS #10 request. ErrPending when the signer has not answered:
	// ask again with the same request. A *RefusedError is its last word.
	Certificate(ctx context.Context, pod *corev1.Pod, volume string, source int, request []byte) (Certificate, error)
	// Token gets a token of the pod's service account, good for an audience ("":
	// the API) and about that many seconds (0: what is usual).
	Token(ctx context.Context, pod *corev1.Pod, audience string, seconds int64) (token string, expires time.Time, err error)
}

// refillAfter is the pause after contents could not be brought up to date.
const refillAfter = 5 * time.Second

// held are the tokens in a pod's volumes, by volume and path.
type held map[string]heldToken

type heldToken struct {
	token   string
	renewAt time.Time
}

// fill writes what the pod's volumes show, and notes when to do so again. A
// volume that was filled before keeps what it has if that can't be brought up to
// date now; one that was not makes it an error.
func (w *worker) fill(ctx context.Context, pod *corev1.Pod) error {
	w.refillAt = time.Time{}
	if w.m.cfg.Contents == nil {
		return nil
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !volume.Shows(v) {
			continue
		}
		files, err := w.files(ctx, pod, v)
		if err == nil {
			err = w.m.cfg.Volumes.Fill(pod, v.Name, files)
		}
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !w.m.cfg.Volumes.Filled(pod, v.Name) {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		}
		w.log.Debug("a volume was not brought up to date", "volume", v.Name, "err", err)
		w.refill(time.Now().Add(refillAfter))
	}
	return nil
}

// refill asks for a fill at a time, unless one is due earlier.
func (w *worker) refill(at time.Time) {
	if w.refillAt.IsZero() || at.Before(w.refillAt) {
		w.refillAt = at
	}
}

// files are what a volume shows, by path. All that is wrong is told at once.
func (w *worker) files(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (map[string]volume.File, error) {
	files := map[string]volume.File{}
	switch {
	case v.ConfigMap != nil:
		return files, w.configMapFiles(files, pod, v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.DefaultMode, isTrue(v.ConfigMap.Optional))
	case v.Secret != nil:
		return files, w.secretFiles(files, pod, v.Secret.SecretName, v.Secret.Items, v.Secret.DefaultMode, isTrue(v.Secret.Optional))
	case v.DownwardAPI != nil:
		return files, w.downwardFiles(files, pod, v.DownwardAPI.Items, v.DownwardAPI.DefaultMode)
	}
	var errs []error
	for i, source := range v.Projected.Sources {
		mode := v.Projected.DefaultMode
		switch {
		case source.ConfigMap != nil:
			errs = append(errs, w.configMapFiles(files, pod, source.ConfigMap.Name, source.ConfigMap.Items, mode, isTrue(source.ConfigMap.Optional)))
		case source.Secret != nil:
			errs = append(errs, w.secretFiles(files, pod, source.Secret.Name, source.Secret.Items, mode, isTrue(source.Secret.Optional)))
		case source.DownwardAPI != nil:
			errs = append(errs, w.downwardFiles(files, pod, source.DownwardAPI.Items, mode))
		case source.ServiceAccountToken != nil:
			errs = append(errs, w.tokenFile(ctx, files, pod, v.Name, source.ServiceAccountToken, mode))
		case source.ClusterTrustBundle != nil:
			errs = append(errs, w.anchorsFile(files, pod, source.ClusterTrustBundle, mode))
		case source.PodCertificate != nil:
			errs = append(errs, w.certificateFiles(ctx, files, pod, v.Name, i, source.PodCertificate, mode))
		default:
			errs = append(errs, fmt.Errorf("a projection of this kind is %w", volume.ErrUnsupported))
		}
	}
	return files, errors.Join(errs...)
}

func (w *worker) configMapFiles(files map[string]volume.File, pod *corev1.Pod, name string, items []corev1.KeyToPath, mode *int32, optional bool) error {
	configMap, err := w.m.cfg.Contents.ConfigMap(pod.Namespace, name)
	if err != nil {
		return fmt.Errorf("configmap %q: %w", name, err)
	}
	if configMap == nil {
		if optional {
			return nil
		}
		return fmt.Errorf("configmap %q not found", name)
	}
	data := maps.Clone(configMap.BinaryData)
	if data == nil {
		data = map[string][]byte{}
	}
	for key, value := range configMap.Data {
		data[key] = []byte(value)
	}
	return project(files, data, items, mode, optional)
}

func (w *worker) secretFiles(files map[string]volume.File, pod *corev1.Pod, name string, items []corev1.KeyToPath, mode *int32, optional bool) error {
	secret, err := w.m.cfg.Contents.Secret(pod.Namespace, name)
	if err != nil {
		return fmt.Errorf("secret %q: %w", name, err)
	}
	if secret == nil {
		if optional {
			return nil
		}
		return fmt.Errorf("secret %q not found", name)
	}
	return project(files, secret.Data, items, mode, optional)
}

// project adds an object's data to a volume's files: all of it, or the items.
func project(files map[string]volume.File, data map[string][]byte, items []corev1.KeyToPath, mode *int32, optional bool) error {
	if len(items) == 0 {
		for key, value := range data {
			files[key] = volume.File{Data: value, Mode: modeOr(nil, mode)}
		}
		return nil
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("references non-existent config key: %s", item.Key)
		}
		files[item.Path] = volume.File{Data: value, Mode: modeOr(item.Mode, mode)}
	}
	return nil
}

func modeOr(mode, otherwise *int32) int32 {
	switch {
	case mode != nil:
		return *mode
	case otherwise != nil:
		return *otherwise
	}
	return corev1.ConfigMapVolumeSourceDefaultMode
}

func (w *worker) downwardFiles(files map[string]volume.File, pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode *int32) error {
	node := w.m.cfg.Node()
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = w.fileField(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			target := specOf(pod, item.ResourceFieldRef.ContainerName)
			if target == nil {
				return fmt.Errorf("container %q not found", item.ResourceFieldRef.ContainerName)
			}
			value, err = resourceField(target, item.ResourceFieldRef, node)
		}
		if err != nil {
			return err
		}
		files[item.Path] = volume.File{Data: []byte(value), Mode: modeOr(item.Mode, mode)}
	}
	return nil
}

// fileField is a field as a file shows it: maps are lists of key="value".
func (w *worker) fileField(pod *corev1.Pod, path string) (string, error) {
	switch path {
	case "metadata.labels":
		return listOf(pod.Labels), nil
	case "metadata.annotations":
		return listOf(pod.Annotations), nil
	}
	return field(pod, path, nil, w.m.cfg.Node())
}

func listOf(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, key+"="+strconv.Quote(m[key]))
	}
	return strings.Join(lines, "\n")
}

func (w *worker) tokenFile(ctx context.Context, files map[string]volume.File, pod *corev1.Pod, name string, source *corev1.ServiceAccountTokenProjection, mode *int32) error {
	key, now := name+"/"+source.Path, time.Now()
	have, ok := w.tokens[key]
	if !ok || !now.Before(have.renewAt) {
		seconds := int64(0)
		if source.ExpirationSeconds != nil {
			seconds = *source.ExpirationSeconds
		}
		token, expires, err := w.m.cfg.Contents.Token(ctx, pod, source.Audience, seconds)
		if err != nil {
			return err
		}
		have = heldToken{token, renewal(now, expires)}
		if w.tokens == nil {
			w.tokens = held{}
		}
		w.tokens[key] = have
	}
	w.refill(have.renewAt)
	files[source.Path] = credential(pod, []byte(have.token), mode)
	return nil
}

// credential is a file for the pod's own user alone, if it has one.
func credential(pod *corev1.Pod, data []byte, mode *int32) volume.File {
	file := volume.File{Data: data, Mode: modeOr(nil, mode)}
	if user := commonUser(pod); user != nil {
		file.Mode, file.User = 0o600, user
	} else if sc := pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		file.Mode = 0o600 // and the group may read it besides
	}
	return file
}

// renewal is when a token is to be replaced: when a fifth of its life is left,
// or after a day.
func renewal(now, expires time.Time) time.Time {
	life := expires.Sub(now)
	return now.Add(min(life*4/5, 24*time.Hour))
}

// commonUser is the user that all containers of a pod run as, if that is said.
func commonUser(pod *corev1.Pod) *int64 {
	var common *int64
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		var user *int64
		if sc := pod.Spec.SecurityContext; sc != nil {
			user = sc.RunAsUser
		}
		if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
			user = c.SecurityContext.RunAsUser
		}
		if user == nil || common != nil && *common != *user {
			return nil
		}
		common = user
	}
	return common
}
