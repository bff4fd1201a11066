package dispatch

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

const mesh = "example.com/mesh"

// trusting is a pod on n1 with a certificate of mesh and what it takes to check
// others'.
func (n *controlNode) trusting(name string) *corev1.Pod {
	n.t.Helper()
	pod := n.mountingSources(name,
		corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: ptr.To("one"), Path: "one"}},
		corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{SignerName: ptr.To(mesh), Path: "none"}},
		corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{
			SignerName: ptr.To(mesh), LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"live": "yes"}}, Path: "live",
		}},
		corev1.VolumeProjection{PodCertificate: &corev1.PodCertificateProjection{SignerName: mesh, KeyType: "ED25519", CredentialBundlePath: "id"}},
	)
	return pod
}

func bundle(name, signer string, labels map[string]string, certificates ...string) *certificatesv1.ClusterTrustBundle {
	b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer}}
	for _, der := range certificates {
		b.Spec.TrustBundle += anchor(der)
	}
	return b
}

func anchor(der string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(der)}))
}

func TestAgentsAreToldTrustAnchors(t *testing.T) {
	n := newControlNodes(t, "c1")[0]
	bundles := store.Of[*certificatesv1.ClusterTrustBundle](n.store, store.ClusterTrustBundles)
	create := func(b *certificatesv1.ClusterTrustBundle) {
		t.Helper()
		if _, err := bundles.Create(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	live := map[string]string{"live": "yes"}
	create(bundle("a", mesh, live, "B", "A"))
	create(bundle("b", mesh, live, "C", "A"))
	create(bundle("old", mesh, nil, "D"))
	create(bundle("another", "example.com/another", live, "E"))
	n.trusting("web")
	agent := n.connect("n1")
	agent.keepBeating()
	n.givePodCIDR("n1")
	if agent.hear().GetWelcome() == nil {
		t.Fatal("no welcome")
	}
	hear := func(name, want string) {
		t.Helper()
		content := agent.hear().GetContent()
		if content.GetKind() != agentv1.Content_TRUST_ANCHORS || content.GetName() != name || string(content.GetObject()) != want {
			t.Fatalf("heard %v, want %s with\n%s", content, name, want)
		}
	}
	all := agentv1.SignersAnchors(mesh, "live=yes")
	hear(all, anchor("A")+anchor("B")+anchor("C"))
	hear("one", "")
	if secret := agent.hear().GetContent(); secret.GetKind() != agentv1.Content_SECRET {
		t.Fatalf("heard %v, want the secret", secret)
	}
	if agent.hear().GetPodPut() == nil || agent.hear().GetSynced() == nil {
		t.Fatal("the pod did not follow")
	}
	create(bundle("one", "", nil, "F", "F"))
	for heard := map[string]string{}; len(heard) < 2 || heard["one"] == ""; {
		content := agent.hear().GetContent()
		heard[content.GetName()] = string(content.GetObject())
		if want := anchor("F"); heard["one"] != "" && heard["one"] != want {
			t.Fatalf("heard of one %s, want %s", heard["one"], want)
		}
	}
}

func TestNodesGetCertificatesOfTheirPods(t *testing.T) {
	n := newControlNodes(t, "c1")[0]
	n.connect("n1").keepBeating() // so that there is such a node
	n.givePodCIDR("n1")
	if _, err := store.Of[*corev1.ServiceAccount](n.store, store.ServiceAccounts).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot", UID: "uid-of-robot"}}); err != nil {
		t.Fatal(err)
	}
	pod := n.trusting("web")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signingRequest, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	good := func() *agentv1.CertificateRequest {
		return &agentv1.CertificateRequest{Namespace: "default", Pod: "web", Uid: string(pod.UID), Volume: "v", Source: 3, SigningRequest: signingRequest}
	}
	ask := func(node string, r *agentv1.CertificateRequest) (*agentv1.CertificateResponse, error) {
		return agentv1.NewAgentClient(n.dial(node+"/")).Certificate(t.Context(), r)
	}
	for name, c := range map[string]struct {
		node   string
		change func(*agentv1.CertificateRequest)
		want   codes.Code
	}{
		"another node":                  {"n2", func(*agentv1.CertificateRequest) {}, codes.NotFound},
		"another pod of that name":      {"n1", func(r *agentv1.CertificateRequest) { r.Uid = "old" }, codes.NotFound},
		"a source that is none":         {"n1", func(r *agentv1.CertificateRequest) { r.Source = 2 }, codes.PermissionDenied},
		"a source that is not there":    {"n1", func(r *agentv1.CertificateRequest) { r.Source = 9 }, codes.PermissionDenied},
		"a volume that is not there":    {"n1", func(r *agentv1.CertificateRequest) { r.Volume = "w" }, codes.PermissionDenied},
		"a request that proves nothing": {"n1", func(r *agentv1.CertificateRequest) { r.SigningRequest = []byte("x") }, codes.InvalidArgument},
	} {
		r := good()
		c.change(r)
		if got, err := ask(c.node, r); status.Code(err) != c.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}

	// The signer answers while the agent waits, and who asks again has the same.
	requests := store.Of[*certificatesv1.PodCertificateRequest](n.store, store.PodCertificateRequests)
	go n.sign(t, requests, key)
	first, err := ask("n1", good())
	if err != nil || first.Outcome != agentv1.CertificateResponse_ISSUED || first.Chain == "" || first.NotAfter == 0 || first.BeginRefresh == 0 {
		t.Fatalf("got %v, %v", first, err)
	}
	if again, err := ask("n1", good()); err != nil || again.Chain != first.Chain {
		t.Errorf("asked again: %v, %v", again, err)
	}
	list, _, err := requests.List(t.Context(), store.ListOptions{})
	if err != nil || len(list) != 1 {
		t.Fatalf("%d requests, %v, want one", len(list), err)
	}
	spec := list[0].Spec
	if spec.SignerName != mesh || spec.PodUID != pod.UID || spec.NodeName != "n1" || spec.ServiceAccountName != "robot" || spec.ServiceAccountUID != "uid-of-robot" || *spec.MaxExpirationSeconds != 86400 {
		t.Errorf("requested %+v", spec)
	}
}

// sign issues what is requested first.
func (n *controlNode) sign(t *testing.T, requests store.Typed[*certificatesv1.PodCertificateRequest], key *ecdsa.PrivateKey) {
	for t.Context().Err() == nil {
		list, _, err := requests.List(t.Context(), store.ListOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		if len(list) == 0 {
			time.Sleep(time.Millisecond)
			continue
		}
		now := time.Now().Truncate(time.Second)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web"}, NotBefore: now, NotAfter: now.Add(24 * time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Error(err)
			return
		}
		_, _, err = n.registry.Update(t.Context(), n.registry.Kind(store.PodCertificateRequests.Resource), "default", list[0].Name, "status", func(current store.Object) (store.Object, error) {
			r := current.(*certificatesv1.PodCertificateRequest)
			r.Status = certificatesv1.PodCertificateRequestStatus{
				Conditions:       []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue, Reason: "Issued", Message: "as asked", LastTransitionTime: metav1.NewTime(now)}},
				CertificateChain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
				NotBefore:        ptr.To(metav1.NewTime(now)), NotAfter: ptr.To(metav1.NewTime(template.NotAfter)), BeginRefreshAt: ptr.To(metav1.NewTime(now.Add(12 * time.Hour))),
			}
			return r, nil
		}, resource.UpdateOptions{})
		if err != nil {
			t.Error(err)
		}
		return
	}
}
