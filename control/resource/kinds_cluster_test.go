package resource

import (
	"fmt"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/musterhq/muster/control/store"
)

func TestClusterKindsAreHeldToTheirRules(t *testing.T) {
	holdToRules(t, []ruleTest{
		{
			HorizontalPodAutoscalers,
			of(func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Spec.ScaleTargetRef.Kind = "" }),
			of(func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Spec.MaxReplicas = 0 }),
			of(func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Status.CurrentReplicas = -1 }),
			"spec.scaleTargetRef.kind", "spec.maxReplicas", "status.currentReplicas",
		},
		{
			StorageClasses,
			of(func(c *storagev1.StorageClass) { c.Provisioner = "" }),
			of(func(c *storagev1.StorageClass) { c.Provisioner = "example.org/other" }), nil,
			"provisioner", "provisioner", "",
		},
		{
			VolumeAttributesClasses,
			of(func(c *storagev1.VolumeAttributesClass) { c.DriverName = "" }),
			of(func(c *storagev1.VolumeAttributesClass) { c.Parameters["iops"] = "200" }), nil,
			"driverName", "parameters", "",
		},
		{
			VolumeAttachments,
			of(func(a *storagev1.VolumeAttachment) { a.Spec.NodeName = "" }),
			of(func(a *storagev1.VolumeAttachment) { a.Spec.NodeName = "other" }),
			of(func(a *storagev1.VolumeAttachment) {
				a.Status.AttachError = &storagev1.VolumeError{Message: strings.Repeat("x", 2000)}
			}),
			"spec.nodeName", "spec", "status.attachError.message",
		},
		{
			CSIDrivers,
			of(func(d *storagev1.CSIDriver) {
				d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{"Sometimes"}
			}),
			of(func(d *storagev1.CSIDriver) { d.Spec.AttachRequired = new(false) }), nil,
			"spec.volumeLifecycleModes", "spec.attachedRequired", "",
		},
		{
			CSINodes,
			of(func(n *storagev1.CSINode) { n.Spec.Drivers[0].NodeID = "" }),
			of(func(n *storagev1.CSINode) { n.Spec.Drivers[0].NodeID = "other" }), nil,
			"spec.drivers[0].nodeID", "spec.drivers", "",
		},
		{
			CSIStorageCapacities,
			of(func(c *storagev1.CSIStorageCapacity) { c.StorageClassName = "" }),
			of(func(c *storagev1.CSIStorageCapacity) { c.StorageClassName = "other" }), nil,
			"storageClassName", "storageClassName", "",
		},
		{
			PriorityClasses,
			of(func(c *schedulingv1.PriorityClass) { c.Value = 2_000_000_000 }),
			of(func(c *schedulingv1.PriorityClass) { c.Value = 1 }), nil,
			"value", "value", "",
		},
		{
			RuntimeClasses,
			of(func(c *nodev1.RuntimeClass) { c.Handler = "No" }),
			of(func(c *nodev1.RuntimeClass) { c.Handler = "other" }), nil,
			"handler", "handler", "",
		},
		{
			CertificateSigningRequests,
			of(func(c *certificatesv1.CertificateSigningRequest) { c.Spec.Request = []byte("no") }),
			of(func(c *certificatesv1.CertificateSigningRequest) { c.Annotations = map[string]string{"no slash/": ""} }),
			of(func(c *certificatesv1.CertificateSigningRequest) { c.Status.Certificate = []byte("no") }),
			"spec.request", "metadata.annotations", "status.certificate",
		},
		{
			FlowSchemas,
			of(func(s *flowcontrolv1.FlowSchema) { s.Spec.PriorityLevelConfiguration.Name = "" }),
			of(func(s *flowcontrolv1.FlowSchema) { s.Spec.MatchingPrecedence = -1 }),
			of(func(s *flowcontrolv1.FlowSchema) { s.Status.Conditions = []flowcontrolv1.FlowSchemaCondition{{}} }),
			"spec.priorityLevelConfiguration.name", "spec.matchingPrecedence", "status.conditions[0].type",
		},
		{
			PriorityLevelConfigurations,
			of(func(l *flowcontrolv1.PriorityLevelConfiguration) { l.Spec.Type = "Endless" }),
			of(func(l *flowcontrolv1.PriorityLevelConfiguration) {
				l.Spec.Limited.NominalConcurrencyShares = new(int32(-1))
			}),
			of(func(l *flowcontrolv1.PriorityLevelConfiguration) {
				l.Status.Conditions = []flowcontrolv1.PriorityLevelConfigurationCondition{{}}
			}),
			"spec.type", "spec.limited.nominalConcurrencyShares", "status.conditions[0].type",
		},
	})
}

func TestClusterKindsKeepStatusAndSpecApart(t *testing.T) {
	for _, test := range []struct {
		kind         *Kind
		spec, status edit
	}{
		{HorizontalPodAutoscalers,
			of(func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Spec.MaxReplicas = 9 }),
			of(func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Status.DesiredReplicas = 3 })},
		{FlowSchemas,
			of(func(s *flowcontrolv1.FlowSchema) { s.Spec.MatchingPrecedence = 9 }),
			of(func(s *flowcontrolv1.FlowSchema) {
				s.Status.Conditions = []flowcontrolv1.FlowSchemaCondition{{Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionTrue}}
			})},
		{PriorityLevelConfigurations,
			of(func(l *flowcontrolv1.PriorityLevelConfiguration) {
				l.Spec.Limited.NominalConcurrencyShares = new(int32(9))
			}),
			of(func(l *flowcontrolv1.PriorityLevelConfiguration) {
				l.Status.Conditions = []flowcontrolv1.PriorityLevelConfigurationCondition{{Type: flowcontrolv1.PriorityLevelConfigurationConditionConcurrencyShared, Status: flowcontrolv1.ConditionTrue}}
			})},
	} {
		t.Run(test.kind.Singular, func(t *testing.T) { keepsStatusAndSpecApart(t, test.kind, test.spec, test.status) })
	}
}

// A driver reports through the status, and changes neither what was asked for
// nor the metadata.
func TestAttachersReportAndNothingElse(t *testing.T) {
	r := newRegistry(t)
	a := examples()[VolumeAttachments].(*storagev1.VolumeAttachment)
	a.Status.Attached = true
	if a = must(t, r, VolumeAttachments, "", a); a.Status.Attached {
		t.Error("created attached, want it to be reported")
	}
	reported := change(t, r, VolumeAttachments, "", "x", "status", func(a *storagev1.VolumeAttachment) {
		a.Spec.NodeName, a.Labels = "other", map[string]string{"a": "b"}
		a.Status.Attached = true
	})
	if !reported.Status.Attached || reported.Spec.NodeName != "n" || reported.Labels != nil {
		t.Errorf("%+v, want it attached and nothing else changed", reported)
	}
	if updated := change(t, r, VolumeAttachments, "", "x", "", func(a *storagev1.VolumeAttachment) { a.Status.Attached = false }); !updated.Status.Attached {
		t.Error("an update changed the status")
	}
}

// A certificate request says who made it, whatever its sender wrote there; the
// path for approval takes conditions, the one for the status the certificate,
// and neither what is the other's.
func TestCertificateRequestsAreApprovedAndSignedApart(t *testing.T) {
	r := newRegistry(t)
	ctx := genericrequest.WithUser(t.Context(), &user.DefaultInfo{Name: "ann", Groups: []string{"staff"}, Extra: map[string][]string{"k": {"v"}}})
	forged := examples()[CertificateSigningRequests].(*certificatesv1.CertificateSigningRequest)
	forged.Spec.Username, forged.Spec.Groups = "root", []string{"system:masters"}
	approved := certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Fine"}
	forged.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{approved}
	created, err := r.Create(ctx, CertificateSigningRequests, "", forged, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	csr := created.(*certificatesv1.CertificateSigningRequest)
	if got := fmt.Sprint(csr.Spec.Username, csr.Spec.Groups, csr.Spec.Extra); got != "ann[staff] map[k:[v]]" || len(csr.Status.Conditions) != 0 {
		t.Errorf("asked for by %s with %v, want ann and no conditions", got, csr.Status.Conditions)
	}
	type CSR = certificatesv1.CertificateSigningRequest
	csr = change(t, r, CertificateSigningRequests, "", "x", "", func(c *CSR) { c.Spec.Username, c.Status.Certificate = "root", []byte("x") })
	if csr.Spec.Username != "ann" || csr.Status.Certificate != nil {
		t.Errorf("%+v after an update, want it as it was", csr)
	}
	_, _, err = r.Update(t.Context(), CertificateSigningRequests, "", "x", "status", func(o store.Object) (store.Object, error) {
		o.(*CSR).Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{approved}
		return o, nil
	}, UpdateOptions{})
	if !named422(err, "status.conditions") {
		t.Errorf("approved through the status: %v, want it refused", err)
	}
	csr = change(t, r, CertificateSigningRequests, "", "x", "approval", func(c *CSR) {
		c.Spec.Username, c.Status.Certificate = "root", []byte("x")
		c.Status.Conditions = append(c.Status.Conditions, approved)
	})
	if csr.Spec.Username != "ann" || csr.Status.Certificate != nil || len(csr.Status.Conditions) != 1 || csr.Status.Conditions[0].LastTransitionTime.IsZero() {
		t.Errorf("%+v after approval, want one dated condition and nothing else", csr)
	}
	since := csr.Status.Conditions[0].LastTransitionTime
	csr = change(t, r, CertificateSigningRequests, "", "x", "status", func(c *CSR) {
		c.Status.Conditions[0].Reason = "Changed"
		c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue})
	})
	if got := csr.Status.Conditions; len(got) != 2 || got[0].Reason != "Fine" || got[0].LastTransitionTime.Unix() != since.Unix() {
		t.Errorf("conditions %+v, want the approval as it was and a failure", got)
	}
}

func TestSystemPriorityClassesStay(t *testing.T) {
	r := newRegistry(t)
	if err := EnsureBootstrap(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"system-cluster-critical", "system-node-critical"} {
		if _, _, err := r.Delete(t.Context(), PriorityClasses, "", name, nil); !apierrors.IsForbidden(err) {
			t.Errorf("delete %s: %v, want it forbidden", name, err)
		}
	}
	must(t, r, PriorityClasses, "", examples()[PriorityClasses])
	if _, _, err := r.Delete(t.Context(), PriorityClasses, "", "x", nil); err != nil {
		t.Error(err)
	}
}

// Releases may change what is mandatory and what is suggested, and operators
// what is suggested: the next leader must undo the one and keep the other.
func TestFlowControlFollowsReleasesUntilAnOperatorDoesNot(t *testing.T) {
	r := newRegistry(t)
	if err := EnsureBootstrap(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	type level = flowcontrolv1.PriorityLevelConfiguration
	exempt := stored[*level](t, r, PriorityLevelConfigurations, "", "exempt")
	low := stored[*level](t, r, PriorityLevelConfigurations, "", "workload-low")
	if exempt == nil || low == nil || low.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] != "true" {
		t.Fatalf("exempt %v, workload-low %v; want both, following releases", exempt, low)
	}
	shares := func(n int32) func(*level) {
		return func(l *level) { l.Spec.Limited.NominalConcurrencyShares = &n }
	}
	was := low.DeepCopy()
	change(t, r, PriorityLevelConfigurations, "", "workload-low", "", shares(7))
	change(t, r, PriorityLevelConfigurations, "", "workload-high", "", func(l *level) {
		shares(7)(l)
		l.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] = "false"
	})
	change(t, r, PriorityLevelConfigurations, "", "exempt", "", func(l *level) {
		l.Spec.Exempt = &flowcontrolv1.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: new(int32(3))}
	})
	if _, _, err := r.Delete(t.Context(), FlowSchemas, "", "probes", nil); err != nil {
		t.Fatal(err)
	}
	if err := EnsureBootstrap(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if got := stored[*level](t, r, PriorityLevelConfigurations, "", "workload-low"); !apiequality.Semantic.DeepEqual(got.Spec, was.Spec) {
		t.Errorf("workload-low %+v, want it as it was", got.Spec)
	}
	if got := stored[*level](t, r, PriorityLevelConfigurations, "", "exempt"); !apiequality.Semantic.DeepEqual(got.Spec, exempt.Spec) {
		t.Errorf("exempt %+v, want it as it was", got.Spec)
	}
	if got := *stored[*level](t, r, PriorityLevelConfigurations, "", "workload-high").Spec.Limited.NominalConcurrencyShares; got != 7 {
		t.Errorf("workload-high has %d shares, want the operator's 7", got)
	}
	if stored[*flowcontrolv1.FlowSchema](t, r, FlowSchemas, "", "probes") == nil {
		t.Error("probes is still gone")
	}
	before := r.store.Revision()
	if err := EnsureBootstrap(t.Context(), r); err != nil || r.store.Revision() != before {
		t.Errorf("wrote revision %d, %v; want nothing after %d", r.store.Revision(), err, before)
	}
}
