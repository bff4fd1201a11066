package resource

import (
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/musterhq/muster/control/store"
)

func appsExamples() map[*Kind]store.Object {
	// Functions, because what is created belongs to the registry.
	selector := func() *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
	}
	template := func() corev1.PodTemplateSpec { return *newRC("x", 1).Spec.Template }
	job := func() batchv1.JobSpec {
		job := batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: newPod("").Spec}}
		job.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
		return job
	}
	return map[*Kind]store.Object{
		Deployments: &appsv1.Deployment{ObjectMeta: named("x"), Spec: appsv1.DeploymentSpec{Selector: selector(), Template: template()}},
		ReplicaSets: &appsv1.ReplicaSet{ObjectMeta: named("x"), Spec: appsv1.ReplicaSetSpec{Selector: selector(), Template: template()}},
		StatefulSets: &appsv1.StatefulSet{ObjectMeta: named("x"), Spec: appsv1.StatefulSetSpec{
			Selector: selector(), Template: template(), ServiceName: "x",
		}},
		DaemonSets: &appsv1.DaemonSet{ObjectMeta: named("x"), Spec: appsv1.DaemonSetSpec{Selector: selector(), Template: template()}},
		ControllerRevisions: &appsv1.ControllerRevision{
			ObjectMeta: named("x"), Revision: 1, Data: runtime.RawExtension{Raw: []byte(`{"spec":{}}`)},
		},
		Jobs: &batchv1.Job{ObjectMeta: named("x"), Spec: job()},
		CronJobs: &batchv1.CronJob{ObjectMeta: named("x"), Spec: batchv1.CronJobSpec{
			Schedule: "@hourly", JobTemplate: batchv1.JobTemplateSpec{Spec: job()},
		}},
		PodDisruptionBudgets: &policyv1.PodDisruptionBudget{ObjectMeta: named("x"), Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector()}},
		HorizontalPodAutoscalers: &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: named("x"), Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "x"}, MaxReplicas: 5,
		}},
		Leases: &coordinationv1.Lease{ObjectMeta: named("x"), Spec: coordinationv1.LeaseSpec{
			HolderIdentity: new("me"), LeaseDurationSeconds: new(int32(15)),
		}},
	}
}

func clusterExamples() map[*Kind]store.Object {
	return map[*Kind]store.Object{
		StorageClasses: &storagev1.StorageClass{ObjectMeta: named("x"), Provisioner: "example.org/disks"},
		VolumeAttachments: &storagev1.VolumeAttachment{ObjectMeta: named("x"), Spec: storagev1.VolumeAttachmentSpec{
			Attacher: "example.org", NodeName: "n", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: new("v")},
		}},
		VolumeAttributesClasses: &storagev1.VolumeAttributesClass{
			ObjectMeta: named("x"), DriverName: "example.org", Parameters: map[string]string{"iops": "100"},
		},
		CSIDrivers: &storagev1.CSIDriver{ObjectMeta: named("x")},
		CSINodes: &storagev1.CSINode{ObjectMeta: named("x"), Spec: storagev1.CSINodeSpec{
			Drivers: []storagev1.CSINodeDriver{{Name: "example.org", NodeID: "n"}},
		}},
		CSIStorageCapacities: &storagev1.CSIStorageCapacity{ObjectMeta: named("x"), StorageClassName: "x", NodeTopology: &metav1.LabelSelector{}},
		PriorityClasses:      &schedulingv1.PriorityClass{ObjectMeta: named("x"), Value: 1000},
		RuntimeClasses:       &nodev1.RuntimeClass{ObjectMeta: named("x"), Handler: "runc"},
		CertificateSigningRequests: &certificatesv1.CertificateSigningRequest{ObjectMeta: named("x"), Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: newRequest(), SignerName: "example.org/signer", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature},
		}},
		FlowSchemas: &flowcontrolv1.FlowSchema{ObjectMeta: named("x"), Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "x"}, MatchingPrecedence: 500,
		}},
		PriorityLevelConfigurations: &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: named("x"), Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: new(int32(10)), LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
			},
		}},
	}
}

// newRequest is a certificate request in PEM.
func newRequest() []byte {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	der, err := x509.CreateCertificateRequest(nil, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}
