package admission

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/kube"
)

// refersToSecrets says whether a pod names any secret.
func refersToSecrets(pod *corev1.Pod) bool { return len(kube.PodSecrets(pod)) > 0 }

// checkSecrets holds a pod to the secrets that its account lists, for accounts
// that ask for it. With ephemeral, only the ephemeral containers are looked at:
// the rest was allowed before.
func checkSecrets(account *corev1.ServiceAccount, pod *corev1.Pod, ephemeral bool) error {
	mountable := func(name string) bool {
		return slices.ContainsFunc(account.Secrets, func(s corev1.ObjectReference) bool { return s.Name == name })
	}
	if ephemeral {
		for _, c := range pod.Spec.EphemeralContainers {
			if err := checkEnvironment("ephemeral container", c.Name, c.Env, c.EnvFrom, account, mountable); err != nil {
				return err
			}
		}
		return nil
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil && !mountable(v.Secret.SecretName) {
			return fmt.Errorf("volume with secret.secretName=\"%s\" is not allowed because service account %s does not reference that secret", v.Secret.SecretName, account.Name)
		}
	}
	for _, c := range pod.Spec.InitContainers {
		if err := checkEnvironment("init container", c.Name, c.Env, c.EnvFrom, account, mountable); err != nil {
			return err
		}
	}
	for _, c := range pod.Spec.Containers {
		if err := checkEnvironment("container", c.Name, c.Env, c.EnvFrom, account, mountable); err != nil {
			return err
		}
	}
	for i, pull := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(account.ImagePullSecrets, pull) {
			return fmt.Errorf(`imagePullSecrets[%d].name="%s" is not allowed because service account %s does not reference that imagePullSecret`, i, pull.Name, account.Name)
		}
	}
	return nil
}

func checkEnvironment(kind, container string, env []corev1.EnvVar, from []corev1.EnvFromSource, account *corev1.ServiceAccount, mountable func(string) bool) error {
	for _, e := range env {
		if e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil {
			continue
		}
		if name := e.ValueFrom.SecretKeyRef.Name; !mountable(name) {
			return fmt.Errorf("%s %s with envVar %s referencing secret.secretName=\"%s\" is not allowed because service account %s does not reference that secret", kind, container, e.Name, name, account.Name)
		}
	}
	for _, f := range from {
		if f.SecretRef != nil && !mountable(f.SecretRef.Name) {
			return fmt.Errorf("%s %s with envFrom referencing secret.secretName=\"%s\" is not allowed because service account %s does not reference that secret", kind, container, f.SecretRef.Name, account.Name)
		}
	}
	return nil
}
