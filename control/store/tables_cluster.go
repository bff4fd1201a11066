package store

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
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

	FlowSchemas                 = spec(flowcontrolv1.SchemeGroupVersion, "flowschemas", "FlowSchema", false, &flowcontrolv1.FlowSchema{}, &flowcontrolv1.FlowSchemaList{}, nil)
	PriorityLevelConfigurations = spec(flowcontrolv1.SchemeGroupVersion, "prioritylevelconfigurations", "PriorityLevelConfiguration", false, &flowcontrolv1.PriorityLevelConfiguration{}, &flowcontrolv1.PriorityLevelConfigurationList{}, nil)
)

var clusterSpecs = []*Spec{
	StorageClasses, VolumeAttachments, VolumeAttributesClasses, CSIDrivers, CSINodes, CSIStorageCapacities,
	PriorityClasses, RuntimeClasses,
	CertificateSigningRequests,
	FlowSchemas, PriorityLevelConfigurations,
}
