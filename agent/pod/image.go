package pod

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/musterhq/muster/agent/runtime"
)

// errImageShown is how long ErrImagePull is shown before the back-off is.
const errImageShown = 2 * time.Second

// ensureImage finds or pulls a container's image, as its pull policy says. The
// reasons and messages are kubelet's, since people search for them.
func (w *worker) ensureImage(ctx context.Context, pod *corev1.Pod, spec *corev1.Container) (runtime.Image, *trouble) {
	ref, rt := spec.Image, w.m.cfg.Runtime
	if _, err := reference.ParseDockerRef(ref); err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", ref, ref, err)
		w.event(pod, spec.Name, corev1.EventTypeWarning, "InspectFailed", message)
		return runtime.Image{}, w.again(spec, waiting{"InvalidImageName", message})
	}
	image, err := rt.Image(ctx, ref)
	present := err == nil
	if err != nil && !errors.Is(err, runtime.ErrNotFound) {
		message := fmt.Sprintf("Failed to inspect image %q: %v", ref, err)
		if ctx.Err() == nil {
			w.event(pod, spec.Name, corev1.EventTypeWarning, "InspectFailed", message)
		}
		return runtime.Image{}, w.again(spec, waiting{"ImageInspectError", message})
	}
	policy := pullPolicy(spec)
	if present && policy != corev1.PullAlways {
		w.event(pod, spec.Name, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine", ref))
		return image, nil
	}
	if policy == corev1.PullNever {
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", ref)
		w.event(pod, spec.Name, corev1.EventTypeWarning, "ErrImageNeverPull", message)
		w.event(pod, spec.Name, corev1.EventTypeWarning, "Failed", "Error: ErrImageNeverPull")
		return runtime.Image{}, w.again(spec, waiting{"ErrImageNeverPull", message})
	}
	return w.pull(ctx, pod, spec)
}

func (w *worker) pull(ctx context.Context, pod *corev1.Pod, spec *corev1.Container) (runtime.Image, *trouble) {
	ref := spec.Image
	before := w.memory.pulls[ref]
	if until := before.until(before.failed); !before.failed.IsZero() && time.Now().Before(until) {
		message := fmt.Sprintf("Back-off pulling image %q", ref)
		w.event(pod, spec.Name, corev1.EventTypeNormal, "BackOff", message)
		w.event(pod, spec.Name, corev1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
		return runtime.Image{}, &trouble{waiting: waiting{"ImagePullBackOff", message + ": ErrImagePull: " + before.message}, until: until}
	}
	w.event(pod, spec.Name, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", ref))
	began := time.Now()
	ring, missing := w.pullSecrets(pod)
	if len(missing) > 0 {
		w.event(pod, "", corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", fmt.Sprintf(
			"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", ")))
	}
	image, err := w.pullAs(ctx, ref, ring.of(ref))
	if err == nil {
		took := time.Since(began).Truncate(time.Millisecond)
		w.event(pod, spec.Name, corev1.EventTypeNormal, "Pulled", fmt.Sprintf(
			"Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.", ref, took, took, image.Size))
		delete(w.memory.pulls, ref)
		return image, nil
	}
	if ctx.Err() != nil {
		return runtime.Image{}, &trouble{}
	}
	now := time.Now()
	w.memory.pulls[ref] = pull{backOff: before.next(now, now), failed: now, message: err.Error()}
	w.event(pod, spec.Name, corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", ref, err))
	w.event(pod, spec.Name, corev1.EventTypeWarning, "Failed", "Error: ErrImagePull")
	return runtime.Image{}, &trouble{waiting: waiting{"ErrImagePull", err.Error()}, until: now.Add(errImageShown)}
}

// pullAs tries credentials one after another: some may have been replaced by
// others since.
func (w *worker) pullAs(ctx context.Context, ref string, credentials []runtime.Credentials) (runtime.Image, error) {
	if len(credentials) == 0 {
		return w.m.cfg.Runtime.PullImage(ctx, ref, nil)
	}
	var errs []error
	for i := range credentials {
		image, err := w.m.cfg.Runtime.PullImage(ctx, ref, &credentials[i])
		if err == nil || ctx.Err() != nil {
			return image, err
		}
		errs = append(errs, err)
	}
	return runtime.Image{}, utilerrors.NewAggregate(errs)
}

func (w *worker) again(spec *corev1.Container, why waiting) *trouble {
	t := w.memory.trouble[spec.Name].again(time.Now(), why)
	return &t
}

// pullPolicy is the container's, or what admission would have set.
func pullPolicy(spec *corev1.Container) corev1.PullPolicy {
	if spec.ImagePullPolicy != "" {
		return spec.ImagePullPolicy
	}
	if named, err := reference.ParseDockerRef(spec.Image); err == nil && strings.HasSuffix(named.String(), ":latest") {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}
