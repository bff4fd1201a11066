package bootstraptoken

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestBootstrapTokensAreUpstreams(t *testing.T) {
	s := storetest.New(t)
	tokens := New(s)
	add := func(id string, change func(*corev1.Secret)) {
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + id},
			Type:       "bootstrap.kubernetes.io/token",
			Data: map[string][]byte{
				"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true"),
			},
		}
		change(secret)
		if _, err := s.Table(store.Secrets).Create(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
	}
	add("aaaaaa", func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:bootstrappers:workers") })
	add("bbbbbb", func(s *corev1.Secret) {
		s.Data["expiration"] = []byte(time.Now().Add(-time.Second).Format(time.RFC3339))
	})
	add("cccccc", func(s *corev1.Secret) { delete(s.Data, "usage-bootstrap-authentication") })
	add("dddddd", func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque })
	add("eeeeee", func(s *corev1.Secret) { s.Namespace = "default" })
	add("ffffff", func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:masters") })
	add("abcabc", func(s *corev1.Secret) { s.Data["expiration"] = []byte(time.Now().Add(time.Hour).Format(time.RFC3339)) })
	for token, want := range map[string]bool{
		"aaaaaa.0123456789abcdef": true, "abcabc.0123456789abcdef": true,
		"aaaaaa.0123456789abcdee": false, "bbbbbb.0123456789abcdef": false, "cccccc.0123456789abcdef": false, "dddddd.0123456789abcdef": false,
		"eeeeee.0123456789abcdef": false, "ffffff.0123456789abcdef": false, "zzzzzz.0123456789abcdef": false, "../../.0123456789abcdef": false, "": false,
	} {
		who, ok, err := tokens.Lookup(t.Context(), token)
		if ok != want || err != nil {
			t.Errorf("%s: %t, %v, want %t", token, ok, err, want)
		}
		if token == "aaaaaa.0123456789abcdef" && ok {
			groups := who.GetGroups()
			slices.Sort(groups)
			if who.GetName() != "system:bootstrap:aaaaaa" || !slices.Equal(groups, []string{"system:bootstrappers", "system:bootstrappers:workers"}) {
				t.Errorf("the bearer is %s of %v", who.GetName(), groups)
			}
		}
	}
}
