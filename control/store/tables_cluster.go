package store

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
)

// The kinds of volumes.
var (
	StorageClasses          = spec(storagev1.SchemeGroupVersion, "storageclasses", "StorageClass", false, &storagev1.StorageClass{}, &storagev1.StorageClassList{}, nil)
	VolumeAttachments       = spec(storagev1.SchemeGroupVersion, "volumeattachments", "VolumeAttachment", false, &storagev1.VolumeAttachment{}, &storagev1.VolumeAttachmentList{}, nil)
	VolumeAttributesClasses = spec(storagev1.SchemeGroupVersion, "volumeattributesclasses", "VolumeAttributesClass", false, &storagev1.VolumeAttributesClass{}, &storagev1.VolumeAttributesClassList{}, nil)
	CSIDrivers              = spec(storagev1.SchemeGroupVersion, "csidrivers", "CSIDriver", false, &storagev1.CSIDriver{}, &storagev1.CSIDriverList{}, nil)
	CSINodes                = spec(storagev1.SchemeGroupVersion, "csinodes", "CSINode", false, &storagev1.CSINode{}, &storagev1.CSINodeList{}, nil)
	CSIStorageCapacities    = spec(storagev1.SchemeGroupVersion, "csistoragecapacities", "CSIStorageCapacity", true, &storagev1.CSIStorageCapacity{}, &storagev1.CSIStorageCapacityList{}, nil)
)

// The kinds that a cluster is run by.
var (
	PriorityClasses = spec(schedulingv1.SchemeGroupVersion, "priorityclasses", "PriorityClass", false, &schedulingv1.PriorityClass{}, &schedulingv1.PriorityClassList{}, nil)
	RuntimeClasses  = spec(nodev1.SchemeGroupVersion, "runtimeclasses", "RuntimeClass", false, &nodev1.RuntimeClass{}, &nodev1.RuntimeClassList{}, nil)

	CertificateSigningRequests = spec(certificatesv1.SchemeGroupVersion, "certificatesigningrequests", "CertificateSigningRequest", false, &certificatesv1.CertificateSigningRequest{}, &certificatesv1.CertificateSigningRequestList{}, func(csr *certificatesv1.CertificateSigningRequest) map[string]string {
		return map[string]string{"spec.signerName": csr.Spec.SignerName}
	})
	ClusterTrustBundles = spec(certificatesv1.SchemeGroupVersion, "clustertrustbundles", "ClusterTrustBundle", false, &certificatesv1.ClusterTrustBundle{}, &certificatesv1.ClusterTrustBundleList{}, func(b *certificatesv1.ClusterTrustBundle) map[string]string {
		return map[string]string{"spec.signerName": b.Spec.SignerName}
	})
	PodCertificateRequests = spec(certificatesv1.SchemeGroupVersion, "podcertificaterequests", "PodCertificateRequest", true, &certificatesv1.PodCertificateRequest{}, &certificatesv1.PodCertificateRequestList{}, func(r *certificatesv1.PodCertificateRequest) map[string]string {
		return map[string]string{"spec.signerName": r.Spec.SignerName, "spec.podName": r.Spec.PodName, "spec.nodeName": string(r.Spec.NodeName)}
	})

	FlowSchemas                 = spec(flowcontrolv1.SchemeGroupVersion, "flowschemas", "FlowSchema", false, &flowcontrolv1.FlowSchema{}, &flowcontrolv1.FlowSchemaList{}, nil)
	PriorityLevelConfigurations = spec(flowcontrolv1.SchemeGroupVersion, "prioritylevelconfigurations", "PriorityLevelConfiguration", false, &flowcontrolv1.PriorityLevelConfiguration{}, &flowcontrolv1.PriorityLevelConfigurationList{}, nil)

	StorageVersionMigrations = spec(storagemigrationv1.SchemeGroupVersion, "storageversionmigrations", "StorageVersionMigration", false, &storagemigrationv1.StorageVersionMigration{}, &storagemigrationv1.StorageVersionMigrationList{}, nil)
)

var clusterSpecs = []*Spec{
	StorageClasses, VolumeAttachments, VolumeAttributesClasses, CSIDrivers, CSINodes, CSIStorageCapacities,
	PriorityClasses, RuntimeClasses,
	CertificateSigningRequests, ClusterTrustBundles, PodCertificateRequests,
	FlowSchemas, PriorityLevelConfigurations,
	StorageVersionMigrations,
}
