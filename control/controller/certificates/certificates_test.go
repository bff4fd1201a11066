package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/utils/ptr"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var nodeUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}

// ca signs with a key of its own, and refuses the organization "never".
type ca struct{ key *ecdsa.PrivateKey }

func newCA(t *testing.T) ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ca{key}
}

func (ca) Refuse(r *x509.CertificateRequest) error {
	if slices.Contains(r.Subject.Organization, "never") {
		return errors.New("organization never")
	}
	return nil
}

func (c ca) Issue(r *x509.CertificateRequest, _ []certificatesv1.KeyUsage, lifetime time.Duration) ([]byte, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: r.Subject, NotAfter: time.Now().Add(lifetime)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, r.PublicKey, c.key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

// rights are the subresources that each user may create.
type rights map[string]string

func (r rights) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if r[a.GetUser().GetName()] == a.GetSubresource() && a.GetVerb() == "create" && a.GetResource() == "certificatesigningrequests" {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func request(t *testing.T, subject pkix.Name, hosts ...string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject, DNSNames: hosts}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func node(name string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}
}

// send stores a request as a user's.
func send(t *testing.T, m *test.Term, sender, name, signer string, pem []byte, usages []certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	ctx := genericrequest.WithUser(context.Background(), &user.DefaultInfo{Name: sender})
	csr := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Request: pem, Usages: usages},
	}
	made, err := m.Registry.Create(ctx, resource.CertificateSigningRequests, "", csr, resource.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made.(*certificatesv1.CertificateSigningRequest)
}

// decide does what kubectl certificate approve and deny do.
func decide(m *test.Term, name string, decision certificatesv1.RequestConditionType) {
	test.Change(m, resource.CertificateSigningRequests, "", name, "approval", func(csr *certificatesv1.CertificateSigningRequest) {
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: decision, Status: corev1.ConditionTrue, Reason: "KubectlDecided", LastUpdateTime: metav1.Now(),
		})
	})
}

// state words what a request has come to.
func state(m *test.Term, name string) string {
	csr, ok := test.Get[*certificatesv1.CertificateSigningRequest](m, store.CertificateSigningRequests, "", name)
	if !ok {
		return "gone"
	}
	words := ""
	for _, c := range csr.Status.Conditions {
		words += string(c.Type) + " " + c.Reason + ";"
	}
	if len(csr.Status.Certificate) > 0 {
		words += "issued"
	}
	return words
}

func TestRequestsAreAnsweredAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		may := rights{"system:node:one": "selfnodeclient", "bootstrap": "nodeclient", "system:node:two": "selfnodeclient"}
		m.Run(New(Config{Registry: m.Registry, Authority: newCA(t), Rights: may, Logger: m.Logger}).Run)
		const client, kubelet, serving = certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName
		servingUsages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
		for _, c := range []struct {
			name, sender, signer string
			request              []byte
			usages               []certificatesv1.KeyUsage
			decide               certificatesv1.RequestConditionType
			want                 string
			after                time.Duration // when it has gone
		}{
			{"renewal", "system:node:one", kubelet, request(t, node("one")), nodeUsages, "", "Approved AutoApproved;issued", time.Hour},
			{"of-another", "system:node:two", kubelet, request(t, node("one")), nodeUsages, "", "", 24 * time.Hour},
			{"first", "bootstrap", kubelet, request(t, node("new")), nodeUsages, "", "Approved AutoApproved;issued", time.Hour},
			{"no-rights", "somebody", kubelet, request(t, node("new")), nodeUsages, "", "", 24 * time.Hour},
			{"no-node", "bootstrap", kubelet, request(t, pkix.Name{CommonName: "x"}), nodeUsages, "", "", 24 * time.Hour},
			{"no-node-approved", "bootstrap", kubelet, request(t, pkix.Name{CommonName: "x"}), nodeUsages, certificatesv1.CertificateApproved, "Approved KubectlDecided;Failed SignerValidationFailure;", time.Hour},
			{"person", "jane", client, request(t, pkix.Name{CommonName: "jane"}), nodeUsages, certificatesv1.CertificateApproved, "Approved KubectlDecided;issued", time.Hour},
			{"person-pending", "bootstrap", client, request(t, node("new")), nodeUsages, "", "", 24 * time.Hour},
			{"person-serving", "jane", client, request(t, pkix.Name{CommonName: "jane"}), servingUsages, certificatesv1.CertificateApproved, "Approved KubectlDecided;Failed SignerValidationFailure;", time.Hour},
			{"never", "jane", client, request(t, pkix.Name{CommonName: "jane", Organization: []string{"never"}}), nodeUsages, certificatesv1.CertificateApproved, "Approved KubectlDecided;Failed SignerValidationFailure;", time.Hour},
			{"denied", "jane", client, request(t, pkix.Name{CommonName: "jane"}), nodeUsages, certificatesv1.CertificateDenied, "Denied KubectlDecided;", time.Hour},
			{"serving", "system:node:one", serving, request(t, node("one"), "one"), servingUsages, certificatesv1.CertificateApproved, "Approved KubectlDecided;issued", time.Hour},
			{"of-others", "jane", "example.com/signer", request(t, pkix.Name{CommonName: "jane"}), nodeUsages, certificatesv1.CertificateApproved, "Approved KubectlDecided;", 24 * time.Hour},
		} {
			send(t, m, c.sender, c.name, c.signer, c.request, c.usages)
			if c.decide != "" {
				decide(m, c.name, c.decide)
			}
			synctest.Wait()
			if got := state(m, c.name); got != c.want {
				t.Errorf("%s: %q, want %q", c.name, got, c.want)
			}
			time.Sleep(c.after - time.Minute)
			if got := state(m, c.name); got != c.want {
				t.Errorf("%s a minute before it goes: %q, want %q", c.name, got, c.want)
			}
			time.Sleep(2 * time.Minute)
			if got := state(m, c.name); got != "gone" {
				t.Errorf("%s after %v: %q, want it gone", c.name, c.after, got)
			}
		}

		// A right that is given later counts, and waiting for it writes nothing.
		send(t, m, "late", "late", kubelet, request(t, node("late")), nodeUsages)
		revision := m.Registry.Store().Revision()
		time.Sleep(time.Hour)
		if now := m.Registry.Store().Revision(); now != revision {
			t.Errorf("%d writes while a request waits, want none", now-revision)
		}
		may["late"] = "nodeclient"
		time.Sleep(lookAgainMax)
		if got, want := state(m, "late"), "Approved AutoApproved;issued"; got != want {
			t.Errorf("after the right was given: %q, want %q", got, want)
		}
		m.End()
	})
}

func TestARequestGoesWhenNobodyNeedsIt(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration) metav1.Time { return metav1.NewTime(begin.Add(d)) }
	condition := func(t certificatesv1.RequestConditionType, updated metav1.Time) certificatesv1.CertificateSigningRequestCondition {
		return certificatesv1.CertificateSigningRequestCondition{Type: t, Status: corev1.ConditionTrue, LastUpdateTime: updated}
	}
	key := newCA(t)
	short := func(end time.Time) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: end}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.key.PublicKey, key.key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	approved, denied, failed := certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed
	for name, c := range map[string]struct {
		conditions  []certificatesv1.CertificateSigningRequestCondition
		certificate []byte
		want        time.Duration // -1 for never
	}{
		"pending":             {nil, nil, keepPending},
		"denied":              {[]certificatesv1.CertificateSigningRequestCondition{condition(denied, at(time.Minute))}, nil, time.Minute + keepDecided},
		"failed":              {[]certificatesv1.CertificateSigningRequestCondition{condition(approved, at(0)), condition(failed, at(time.Minute))}, nil, time.Minute + keepDecided},
		"approved":            {[]certificatesv1.CertificateSigningRequestCondition{condition(approved, at(time.Minute))}, nil, time.Minute + keepPending},
		"issued":              {[]certificatesv1.CertificateSigningRequestCondition{condition(approved, at(time.Minute))}, short(begin.Add(9 * time.Hour)), time.Minute + keepDecided},
		"issued and expired":  {[]certificatesv1.CertificateSigningRequestCondition{condition(approved, at(time.Minute))}, short(begin.Add(20 * time.Minute)), 20 * time.Minute},
		"issued, unreadable":  {[]certificatesv1.CertificateSigningRequestCondition{condition(approved, at(time.Minute))}, []byte("x"), time.Minute + keepDecided},
		"denied with no time": {[]certificatesv1.CertificateSigningRequestCondition{condition(denied, metav1.Time{})}, nil, -1},
	} {
		csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: at(0)}}
		csr.Status.Conditions, csr.Status.Certificate = c.conditions, c.certificate
		got := goesAt(csr)
		if c.want < 0 && !got.IsZero() || c.want >= 0 && !got.Equal(begin.Add(c.want)) {
			t.Errorf("%s: goes at %v, want %v after %v", name, got, c.want, begin)
		}
	}
	for seconds, want := range map[*int32]time.Duration{
		nil: lifetimeMax, ptr.To[int32](1): lifetimeMin, ptr.To[int32](3600): time.Hour, ptr.To[int32](1 << 30): lifetimeMax,
	} {
		if got := lifetime(seconds); got != want {
			t.Errorf("lifetime of %v s: %v, want %v", ptr.Deref(seconds, -1), got, want)
		}
	}
}

func TestANewLeaderSignsWhatTheOldOneApproved(t *testing.T) {
	test.LeaderDiesAtAnyWrite(t, 4, func(t *testing.T, user *test.Term) {
		send(t, user, "system:node:one", "renewal", certificatesv1.KubeAPIServerClientKubeletSignerName, request(t, node("one")), nodeUsages)
		send(t, user, "jane", "jane", certificatesv1.KubeAPIServerClientSignerName, request(t, pkix.Name{CommonName: "jane"}), nodeUsages)
		decide(user, "jane", certificatesv1.CertificateApproved)
	}, func(m *test.Term) {
		m.Run(New(Config{Registry: m.Registry, Authority: newCA(t), Rights: rights{"system:node:one": "selfnodeclient"}, Logger: m.Logger}).Run)
	}, func(t *testing.T, m *test.Term) {
		if got, want := state(m, "renewal"), "Approved AutoApproved;issued"; got != want {
			t.Errorf("the node's: %q, want %q", got, want)
		}
		if got, want := state(m, "jane"), "Approved KubectlDecided;issued"; got != want {
			t.Errorf("jane's: %q, want %q", got, want)
		}
	})
}

func TestRequestsForPodsGoAfterAQuarterOfAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		put := func(name string) {
			key := newCA(t).key
			stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
			if err != nil {
				t.Fatal(err)
			}
			test.Create(m, resource.PodCertificateRequests, &certificatesv1.PodCertificateRequest{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec: certificatesv1.PodCertificateRequestSpec{
					SignerName: "example.com/signer", PodName: "pod", PodUID: "1", ServiceAccountName: "default", ServiceAccountUID: "2",
					NodeName: "node", NodeUID: "3", MaxExpirationSeconds: ptr.To[int32](86400), StubPKCS10Request: stub,
				},
			})
		}
		count := func() int {
			return len(test.List[*certificatesv1.PodCertificateRequest](m, store.PodCertificateRequests))
		}
		put("early")
		m.Run(NewCleaner(m.Registry, m.Logger).Run)
		time.Sleep(10 * time.Minute)
		put("late")
		time.Sleep(4 * time.Minute)
		if got := count(); got != 2 {
			t.Errorf("%d requests after 14 minutes, want 2", got)
		}
		time.Sleep(2 * time.Minute)
		if got := count(); got != 1 {
			t.Errorf("%d requests after 16 minutes, want 1", got)
		}
		time.Sleep(10 * time.Minute)
		if got := count(); got != 0 {
			t.Errorf("%d requests in the end, want none", got)
		}
		m.End()
	})
}
