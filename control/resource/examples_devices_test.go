package resource

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"

	certificatesv1 "k8s.io/api/certificates/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

func deviceExamples() map[*Kind]store.Object {
	asked := resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
		Name: "gpu", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "x"},
	}}}}
	return map[*Kind]store.Object{
		DeviceClasses: &resourcev1.DeviceClass{ObjectMeta: named("x"), Spec: resourcev1.DeviceClassSpec{
			Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.driver == "example.org"`}}},
		}},
		DeviceTaintRules: &resourcev1.DeviceTaintRule{ObjectMeta: named("x"), Spec: resourcev1.DeviceTaintRuleSpec{
			DeviceSelector: &resourcev1.DeviceTaintSelector{Driver: new("example.org")},
			Taint:          resourcev1.DeviceTaint{Key: "example.org/broken", Effect: resourcev1.DeviceTaintEffectNoSchedule},
		}},
		ResourceClaims:         &resourcev1.ResourceClaim{ObjectMeta: named("x"), Spec: asked},
		ResourceClaimTemplates: &resourcev1.ResourceClaimTemplate{ObjectMeta: named("x"), Spec: resourcev1.ResourceClaimTemplateSpec{Spec: *asked.DeepCopy()}},
		ResourceSlices: &resourcev1.ResourceSlice{ObjectMeta: named("x"), Spec: resourcev1.ResourceSliceSpec{
			Driver: "example.org", Pool: resourcev1.ResourcePool{Name: "n", ResourceSliceCount: 1}, NodeName: new("n"),
			Devices: []resourcev1.Device{{Name: "gpu-0"}},
		}},

		ClusterTrustBundles: &certificatesv1.ClusterTrustBundle{ObjectMeta: named("x"), Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: newAuthority()}},
		PodCertificateRequests: &certificatesv1.PodCertificateRequest{ObjectMeta: named("x"), Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.org/signer", PodName: "p", PodUID: "1", ServiceAccountName: "default", ServiceAccountUID: "2", NodeName: "n", NodeUID: "3",
			StubPKCS10Request: newStub(),
		}},
		StorageVersionMigrations: &storagemigrationv1.StorageVersionMigration{ObjectMeta: named("x"), Spec: storagemigrationv1.StorageVersionMigrationSpec{
			Resource: metav1.GroupResource{Resource: "secrets"},
		}},
	}
}

// newAuthority is a CA's certificate in PEM.
func newAuthority() string {
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// newStub is the empty certificate request of an agent.
func newStub() []byte {
	block, _ := pem.Decode(newRequest())
	return block.Bytes
}
