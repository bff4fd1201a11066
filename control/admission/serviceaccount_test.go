package admission

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/resource"
)

func addAccount(t testing.TB, r *resource.Registry, name string, change func(*corev1.ServiceAccount)) {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	change(account)
	if _, err := r.Create(t.Context(), resource.ServiceAccounts, "default", account, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func tokenVolumes(pod *corev1.Pod) (volumes []corev1.Volume) {
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, tokenVolume) {
			volumes = append(volumes, v)
		}
	}
	return volumes
}

func TestPodsGetTheirAccountAndItsToken(t *testing.T) {
	r := newRegistry(t, Settings{})
	pod := newPod("web")
	pod.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "example.org/init:1"}}
	pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{
		Name: "own", Image: "example.org/own:1", VolumeMounts: []corev1.VolumeMount{{Name: "mine", MountPath: tokenPath}},
	})
	pod.Spec.Volumes = []corev1.Volume{{Name: "mine", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	got, err := create(t, r, "default", pod)
	if err != nil {
		t.Fatal(err)
	}
	volumes := tokenVolumes(got)
	if got.Spec.ServiceAccountName != "default" || got.Spec.DeprecatedServiceAccount != "default" || len(volumes) != 1 {
		t.Fatalf("account %q, volumes %v, want default and one for its token", got.Spec.ServiceAccountName, volumes)
	}
	projected := volumes[0].Projected
	if len(projected.Sources) != 3 || *projected.DefaultMode != 0o644 || projected.Sources[0].ServiceAccountToken.Path != "token" || *projected.Sources[0].ServiceAccountToken.ExpirationSeconds != 3607 ||
		projected.Sources[1].ConfigMap.Name != "kube-root-ca.crt" || projected.Sources[2].DownwardAPI.Items[0].FieldRef.FieldPath != "metadata.namespace" {
		t.Errorf("the volume holds %+v", projected)
	}
	mounts := func(c corev1.Container) bool {
		return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
			return m.Name == volumes[0].Name && m.ReadOnly && m.MountPath == tokenPath
		})
	}
	if !mounts(got.Spec.InitContainers[0]) || !mounts(got.Spec.Containers[0]) || mounts(got.Spec.Containers[1]) {
		t.Errorf("mounts %+v and %+v, want it in all but who has something there", got.Spec.InitContainers, got.Spec.Containers)
	}
}

func TestMountingTheTokenCanBeRefused(t *testing.T) {
	r := newRegistry(t, Settings{})
	addAccount(t, r, "quiet", func(a *corev1.ServiceAccount) {
		a.AutomountServiceAccountToken = ptr.To(false)
		a.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	})
	for _, c := range []struct {
		name, account string
		says          *bool
		want          int
	}{
		{"asked", "default", nil, 1}, {"pod-says-no", "default", ptr.To(false), 0}, {"account-says-no", "quiet", nil, 0}, {"pod-insists", "quiet", ptr.To(true), 1},
	} {
		pod := newPod(c.name)
		pod.Spec.ServiceAccountName, pod.Spec.AutomountServiceAccountToken = c.account, c.says
		got, err := create(t, r, "default", pod)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(tokenVolumes(got)); n != c.want {
			t.Errorf("%s: %d token volumes, want %d", c.name, n, c.want)
		}
		if pull := len(got.Spec.ImagePullSecrets); (pull == 1) != (c.account == "quiet") {
			t.Errorf("%s: %d pull secrets, want those of the account", c.name, pull)
		}
	}
}

func TestPodsOfNoAccountAreRefused(t *testing.T) {
	r := newRegistry(t, Settings{})
	pod := newPod("web")
	pod.Spec.ServiceAccountName = "nobody"
	if _, err := create(t, r, "default", pod); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `error looking up service account default/nobody: serviceaccounts "nobody" not found`) {
		t.Errorf("got %v, want 403 about the account", err)
	}
}

// A namespace that was made a moment ago has no account yet.
func TestPodsWaitForTheDefaultAccount(t *testing.T) {
	r := newRegistry(t, Settings{})
	if _, err := r.Create(t.Context(), resource.Namespaces, "", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "fresh"}}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := r.Create(t.Context(), resource.Pods, "fresh", newPod("web"), resource.CreateOptions{})
		done <- err
	}()
	time.Sleep(20 * time.Millisecond) // most likely it waits by then; it works either way
	if _, err := r.Create(t.Context(), resource.ServiceAccounts, "fresh", &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("got %v, want the pod created once the account is there", err)
	}
}

func TestMirrorPodsGetNoSecrets(t *testing.T) {
	r := newRegistry(t, Settings{})
	mirror := func(change func(*corev1.Pod)) *corev1.Pod {
		pod := newPod("mirror")
		pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		pod.Spec.NodeName = "n1"
		change(pod)
		return pod
	}
	for reason, change := range map[string]func(*corev1.Pod){
		"may not reference service accounts": func(p *corev1.Pod) { p.Spec.ServiceAccountName = "default" },
		"may not reference secrets": func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		},
	} {
		if _, err := create(t, r, "default", mirror(change)); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), reason) {
			t.Errorf("got %v, want 403: %s", err, reason)
		}
	}
	got, err := create(t, r, "default", mirror(func(*corev1.Pod) {}))
	if err != nil || got.Spec.ServiceAccountName != "" || len(got.Spec.Volumes) != 0 {
		t.Errorf("a plain one: %v, %v, want it left as it is", got, err)
	}
}

func TestAccountsMayLimitTheirSecrets(t *testing.T) {
	r := newRegistry(t, Settings{})
	addAccount(t, r, "strict", func(a *corev1.ServiceAccount) {
		a.Annotations = map[string]string{enforceMountableSecrets: "true"}
		a.Secrets = []corev1.ObjectReference{{Name: "allowed"}}
	})
	with := func(name, secret string, use func(*corev1.Pod, string)) *corev1.Pod {
		pod := newPod(name)
		pod.Spec.ServiceAccountName = "strict"
		use(pod, secret)
		return pod
	}
	uses := map[string]func(*corev1.Pod, string){
		"volume": func(p *corev1.Pod, s string) {
			p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: s}}}}
		},
		"env": func(p *corev1.Pod, s string) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: s}, Key: "k"}}}}
		},
		"from": func(p *corev1.Pod, s string) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: s}}}}
		},
	}
	for name, use := range uses {
		if _, err := create(t, r, "default", with(name+"-no", "other", use)); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "because service account strict does not reference that secret") {
			t.Errorf("%s: got %v, want 403", name, err)
		}
		if _, err := create(t, r, "default", with(name+"-yes", "allowed", use)); err != nil {
			t.Errorf("%s of an allowed one: %v", name, err)
		}
	}
	pull := with("pull", "", func(p *corev1.Pod, _ string) {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "allowed"}}
	})
	if _, err := create(t, r, "default", pull); !apierrors.IsForbidden(err) {
		t.Errorf("pull secrets: got %v, want 403", err)
	}
}
