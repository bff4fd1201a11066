package resource

import (
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

func TestDeviceKindsAreHeldToTheirRules(t *testing.T) {
	holdToRules(t, []ruleTest{
		{
			DeviceClasses,
			of(func(c *resourcev1.DeviceClass) { c.Spec.Selectors[0].CEL.Expression = "1" }),
			of(func(c *resourcev1.DeviceClass) { c.Spec.Selectors[0].CEL.Expression = "1" }), nil,
			"spec.selectors[0].cel.expression", "spec.selectors[0].cel.expression", "",
		},
		{
			DeviceTaintRules,
			of(func(r *resourcev1.DeviceTaintRule) { r.Spec.Taint.Effect = "Annoy" }),
			of(func(r *resourcev1.DeviceTaintRule) { r.Spec.Taint.Key = "no slash/" }),
			of(func(r *resourcev1.DeviceTaintRule) { r.Status.Conditions = []metav1.Condition{{}} }),
			"spec.taint.effect", "spec.taint.key", "status.conditions[0].type",
		},
		{
			ResourceClaims,
			of(func(c *resourcev1.ResourceClaim) { c.Spec.Devices.Requests[0].Name = "No" }),
			of(func(c *resourcev1.ResourceClaim) { c.Spec.Devices.Requests[0].Name = "other" }),
			of(func(c *resourcev1.ResourceClaim) {
				c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: "1"}}
			}),
			"spec.devices.requests[0].name", "spec", "status.reservedFor",
		},
		{
			ResourceClaimTemplates,
			of(func(c *resourcev1.ResourceClaimTemplate) { c.Spec.Spec.Devices.Requests[0].Name = "No" }),
			of(func(c *resourcev1.ResourceClaimTemplate) { c.Spec.Labels = map[string]string{"a": "b"} }), nil,
			"spec.spec.devices.requests[0].name", "spec", "",
		},
		{
			ResourceSlices,
			of(func(s *resourcev1.ResourceSlice) { s.Spec.Devices[0].Name = "No" }),
			of(func(s *resourcev1.ResourceSlice) { s.Spec.NodeName = new("other") }), nil,
			"spec.devices[0].name", "spec.nodeName", "",
		},
		{
			ClusterTrustBundles,
			of(func(b *certificatesv1.ClusterTrustBundle) { b.Spec.TrustBundle = "no" }),
			of(func(b *certificatesv1.ClusterTrustBundle) { b.Spec.SignerName = "example.org/signer" }), nil,
			"spec.trustBundle", "spec.signerName", "",
		},
		{
			PodCertificateRequests,
			of(func(r *certificatesv1.PodCertificateRequest) { r.Spec.StubPKCS10Request = []byte("no") }),
			of(func(r *certificatesv1.PodCertificateRequest) { r.Spec.PodName = "other" }),
			of(func(r *certificatesv1.PodCertificateRequest) {
				r.Status.Conditions = []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: "True", Reason: "A", LastTransitionTime: metav1.Unix(1, 0)}}
			}),
			"spec.stubPKCS10Request", "spec", "status.certificateChain",
		},
		{
			StorageVersionMigrations,
			of(func(m *storagemigrationv1.StorageVersionMigration) { m.Spec.Resource.Resource = "No" }),
			of(func(m *storagemigrationv1.StorageVersionMigration) { m.Spec.Resource.Resource = "pods" }),
			of(func(m *storagemigrationv1.StorageVersionMigration) { m.Status.ResourceVersion = "x" }),
			"spec.resource.resource", "spec", "status.resourceVersion",
		},
	})
}

func TestDeviceTaintRulesKeepStatusAndSpecApart(t *testing.T) {
	keepsStatusAndSpecApart(t, DeviceTaintRules,
		of(func(r *resourcev1.DeviceTaintRule) { r.Spec.Taint.Value = "2" }),
		of(func(r *resourcev1.DeviceTaintRule) {
			r.Status.Conditions = []metav1.Condition{{Type: "Done", Status: "True", Reason: "Done", LastTransitionTime: metav1.Unix(1, 0)}}
		}))
}

// Claims tolerate an effect for a while, which must not have passed before the
// effect was there.
func TestATaintCountsFromItsNewEffect(t *testing.T) {
	r := newRegistry(t)
	rule := examples()[DeviceTaintRules].(*resourcev1.DeviceTaintRule)
	rule.Spec.Taint.TimeAdded = new(metav1.Unix(1, 0))
	must(t, r, DeviceTaintRules, "", rule)
	changed := change(t, r, DeviceTaintRules, "", "x", "", func(r *resourcev1.DeviceTaintRule) { r.Spec.Taint.Value = "2" })
	if got := changed.Spec.Taint.TimeAdded.Unix(); got != 1 {
		t.Errorf("added at %d after another value, want 1", got)
	}
	changed = change(t, r, DeviceTaintRules, "", "x", "", func(r *resourcev1.DeviceTaintRule) {
		r.Spec.Taint.Effect = resourcev1.DeviceTaintEffectNoExecute
	})
	if got := changed.Spec.Taint.TimeAdded.Unix(); got == 1 {
		t.Error("added when it had another effect, want now")
	}
}

// What a driver said of a device would be taken for what it says of it now, when
// the claim is given another device of that name later.
func TestAClaimForgetsWhatDriversSaidOfReturnedDevices(t *testing.T) {
	r := newRegistry(t)
	must(t, r, ResourceClaims, "default", examples()[ResourceClaims])
	result := func(device string) resourcev1.DeviceRequestAllocationResult {
		return resourcev1.DeviceRequestAllocationResult{Request: "gpu", Driver: "example.org", Pool: "n", Device: device}
	}
	said := func(device string) resourcev1.AllocatedDeviceStatus {
		return resourcev1.AllocatedDeviceStatus{Driver: "example.org", Pool: "n", Device: device}
	}
	claim := change(t, r, ResourceClaims, "default", "x", "status", func(c *resourcev1.ResourceClaim) {
		c.Spec.Devices.Requests[0].Name = "other"
		c.Labels = map[string]string{"a": "b"}
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{result("gpu-0")}}}
		c.Status.Devices = []resourcev1.AllocatedDeviceStatus{said("gpu-0")}
	})
	if claim.Spec.Devices.Requests[0].Name != "gpu" || claim.Labels != nil || len(claim.Status.Devices) != 1 {
		t.Fatalf("%+v, want a device and nothing else changed", claim)
	}
	claim = change(t, r, ResourceClaims, "default", "x", "status", func(c *resourcev1.ResourceClaim) { c.Status.Allocation = nil })
	if claim.Status.Devices != nil {
		t.Errorf("%+v is still said of a device that was returned", claim.Status.Devices)
	}
}

// A field of a feature that is off must not be stored: the feature would find it
// when it comes.
func TestFieldsOfDisabledFeaturesAreDropped(t *testing.T) {
	r := newRegistry(t)
	slice := examples()[ResourceSlices].(*resourcev1.ResourceSlice)
	slice.Spec.Devices[0].Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"a": {StringValue: new("x"), IntValues: []int64{1}}}
	slice.Spec.PartitionTypeAttribute = new(resourcev1.FullyQualifiedName("example.org/type"))
	slice.Spec.SkipNodeOperations = []resourcev1.SkipNodeOperation{"NodePrepareResources"}
	slice = must(t, r, ResourceSlices, "", slice)
	if a := slice.Spec.Devices[0].Attributes["a"]; a.IntValues != nil || a.StringValue == nil || slice.Spec.PartitionTypeAttribute != nil || slice.Spec.SkipNodeOperations != nil {
		t.Errorf("stored %+v", slice.Spec)
	}
	claim := examples()[ResourceClaims].(*resourcev1.ResourceClaim)
	claim.Spec.Devices.Requests[0].Exactly.DerivedAttributes = []resourcev1.DeviceDerivedAttribute{{Name: "a", Expression: "1"}}
	if claim = must(t, r, ResourceClaims, "default", claim); claim.Spec.Devices.Requests[0].Exactly.DerivedAttributes != nil {
		t.Errorf("stored %+v", claim.Spec)
	}
	if got := claim.Spec.Devices.Requests[0].Exactly; got.Count != 1 || got.AllocationMode != resourcev1.DeviceAllocationModeExactCount {
		t.Errorf("%+v, want one device by default", got)
	}
}

// A signer answers in the status, where the request itself can't be changed.
func TestSignersAnswerPodsInTheStatus(t *testing.T) {
	r := newRegistry(t)
	request := examples()[PodCertificateRequests].(*certificatesv1.PodCertificateRequest)
	denied := metav1.Condition{Type: certificatesv1.PodCertificateRequestConditionTypeDenied, Status: "True", Reason: "No", LastTransitionTime: metav1.Unix(1, 0)}
	request.Status.Conditions = []metav1.Condition{denied}
	if request = must(t, r, PodCertificateRequests, "default", request); len(request.Status.Conditions) != 0 {
		t.Errorf("created with %v", request.Status.Conditions)
	}
	if *request.Spec.MaxExpirationSeconds != 86400 {
		t.Errorf("asks for %d s, want a day by default", *request.Spec.MaxExpirationSeconds)
	}
	request = change(t, r, PodCertificateRequests, "default", "x", "status", func(r *certificatesv1.PodCertificateRequest) {
		r.Spec.PodName = "other"
		r.Status.Conditions = []metav1.Condition{denied}
	})
	if request.Spec.PodName != "p" || len(request.Status.Conditions) != 1 {
		t.Errorf("%+v, want it denied and nothing else changed", request)
	}
	if _, _, err := r.Update(t.Context(), PodCertificateRequests, "default", "x", "status", func(current store.Object) (store.Object, error) {
		current.(*certificatesv1.PodCertificateRequest).Status.Conditions = nil
		return current, nil
	}, UpdateOptions{}); !named422(err, "status.conditions") && !named422(err, "status") {
		t.Errorf("taking back a denial: %v, want it refused", err)
	}
}
