package store

import (
	resourcev1 "k8s.io/api/resource/v1"
)

// The kinds of devices and of claims to them.
var (
	DeviceClasses          = spec(resourcev1.SchemeGroupVersion, "deviceclasses", "DeviceClass", false, &resourcev1.DeviceClass{}, &resourcev1.DeviceClassList{}, nil)
	DeviceTaintRules       = spec(resourcev1.SchemeGroupVersion, "devicetaintrules", "DeviceTaintRule", false, &resourcev1.DeviceTaintRule{}, &resourcev1.DeviceTaintRuleList{}, nil)
	ResourceClaims         = spec(resourcev1.SchemeGroupVersion, "resourceclaims", "ResourceClaim", true, &resourcev1.ResourceClaim{}, &resourcev1.ResourceClaimList{}, nil)
	ResourceClaimTemplates = spec(resourcev1.SchemeGroupVersion, "resourceclaimtemplates", "ResourceClaimTemplate", true, &resourcev1.ResourceClaimTemplate{}, &resourcev1.ResourceClaimTemplateList{}, nil)
	ResourceSlices         = spec(resourcev1.SchemeGroupVersion, "resourceslices", "ResourceSlice", false, &resourcev1.ResourceSlice{}, &resourcev1.ResourceSliceList{}, func(s *resourcev1.ResourceSlice) map[string]string {
		node := ""
		if s.Spec.NodeName != nil {
			node = *s.Spec.NodeName
		}
		return map[string]string{
			resourcev1.ResourceSliceSelectorNodeName: node,
			resourcev1.ResourceSliceSelectorDriver:   s.Spec.Driver,
			resourcev1.ResourceSliceSelectorPoolName: s.Spec.Pool.Name,
		}
	})
)

var deviceSpecs = []*Spec{DeviceClasses, DeviceTaintRules, ResourceClaims, ResourceClaimTemplates, ResourceSlices}
