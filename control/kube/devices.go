package kube

import (
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
	"k8s.io/kubernetes/pkg/apis/resource/validation"
	"k8s.io/kubernetes/pkg/features"
)

// Upstream's rules for resource.k8s.io that depend on nothing but the object.
var (
	ValidateDeviceClass                 = onCreate[*resourcev1.DeviceClass](validation.ValidateDeviceClass)
	ValidateDeviceClassUpdate           = onUpdate[*resourcev1.DeviceClass](validation.ValidateDeviceClassUpdate)
	ValidateDeviceTaintRule             = onCreate[*resourcev1.DeviceTaintRule](validation.ValidateDeviceTaintRule)
	ValidateDeviceTaintRuleUpdate       = onUpdate[*resourcev1.DeviceTaintRule](validation.ValidateDeviceTaintRuleUpdate)
	ValidateDeviceTaintRuleStatusUpdate = onUpdate[*resourcev1.DeviceTaintRule](validation.ValidateDeviceTaintRuleStatusUpdate)
	ValidateResourceClaim               = onCreate[*resourcev1.ResourceClaim](validation.ValidateResourceClaim)
	ValidateResourceClaimUpdate         = onUpdate[*resourcev1.ResourceClaim](validation.ValidateResourceClaimUpdate)
	ValidateResourceClaimStatusUpdate   = onUpdate[*resourcev1.ResourceClaim](validation.ValidateResourceClaimStatusUpdate)
	ValidateResourceClaimTemplate       = onCreate[*resourcev1.ResourceClaimTemplate](validation.ValidateResourceClaimTemplate)
	ValidateResourceClaimTemplateUpdate = onUpdate[*resourcev1.ResourceClaimTemplate](validation.ValidateResourceClaimTemplateUpdate)
	ValidateResourceSlice               = onCreate[*resourcev1.ResourceSlice](validation.ValidateResourceSlice)
	ValidateResourceSliceUpdate         = onUpdate[*resourcev1.ResourceSlice](validation.ValidateResourceSliceUpdate)
)

// DevicePaths are the fields of devices that hand-written and declarative rules
// call by different paths.
var DevicePaths = validation.ResourceNormalizationRules

// ResourceSliceOptions are what the declarative rules of slices ask about.
func ResourceSliceOptions() map[string]bool {
	return map[string]bool{string(features.DRAPartitionableDevicesType): utilfeature.DefaultFeatureGate.Enabled(features.DRAPartitionableDevicesType)}
}

// off says that a feature is disabled and old does not use it.
func off(feature featuregate.Feature, used bool) bool {
	return !used && !utilfeature.DefaultFeatureGate.Enabled(feature)
}

// DropDisabledClaimFields drops what a claim asks for by features that are off in
// this version and old, which is nil for a new one, did not.
func DropDisabledClaimFields(spec, old *resourcev1.ResourceClaimSpec) {
	derives := func(r resourcev1.DeviceRequest) bool {
		return r.Exactly != nil && len(r.Exactly.DerivedAttributes) > 0 ||
			slices.ContainsFunc(r.FirstAvailable, func(s resourcev1.DeviceSubRequest) bool { return len(s.DerivedAttributes) > 0 })
	}
	if !off(features.DRADerivedAttributes, old != nil && slices.ContainsFunc(old.Devices.Requests, derives)) {
		return
	}
	for i := range spec.Devices.Requests {
		r := &spec.Devices.Requests[i]
		if r.Exactly != nil {
			r.Exactly.DerivedAttributes = nil
		}
		for j := range r.FirstAvailable {
			r.FirstAvailable[j].DerivedAttributes = nil
		}
	}
}

// DropDisabledClaimStatusFields does the same for what was allocated.
func DropDisabledClaimStatusFields(status, old *resourcev1.ResourceClaimStatus) {
	skips := func(r resourcev1.DeviceRequestAllocationResult) bool { return len(r.SkipNodeOperations) > 0 }
	used := old.Allocation != nil && slices.ContainsFunc(old.Allocation.Devices.Results, skips)
	if !off(features.DRAOptionalNodeOperations, used) || status.Allocation == nil {
		return
	}
	for i := range status.Allocation.Devices.Results {
		status.Allocation.Devices.Results[i].SkipNodeOperations = nil
	}
}

// DropDisabledSliceFields does the same for the devices of a slice.
func DropDisabledSliceFields(spec, old *resourcev1.ResourceSliceSpec) {
	var was resourcev1.ResourceSliceSpec
	if old != nil {
		was = *old
	}
	used := func(by func(*resourcev1.Device) bool) bool {
		return slices.ContainsFunc(was.Devices, func(d resourcev1.Device) bool { return by(&d) })
	}
	if off(features.DRAPartitionableDevicesType, was.PartitionTypeAttribute != nil) {
		spec.PartitionTypeAttribute = nil
	}
	if off(features.DRAOptionalNodeOperations, len(was.SkipNodeOperations) > 0) {
		spec.SkipNodeOperations = nil
	}
	noGroups := off(features.DRADeviceCompatibilityGroups, used(func(d *resourcev1.Device) bool {
		return slices.ContainsFunc(d.ConsumesCounters, func(c resourcev1.DeviceCounterConsumption) bool { return len(c.CompatibilityGroups) > 0 })
	}))
	noNodeResources := off(features.DRANodeAllocatableResources, used(func(d *resourcev1.Device) bool { return len(d.NodeAllocatableResources) > 0 }))
	noLists := off(features.DRAListTypeAttributes, used(hasListAttributes))
	for i := range spec.Devices {
		d := &spec.Devices[i]
		if noGroups {
			for j := range d.ConsumesCounters {
				d.ConsumesCounters[j].CompatibilityGroups = nil
			}
		}
		if noNodeResources {
			d.NodeAllocatableResources = nil
		}
		if noLists && hasListAttributes(d) {
			for name, attribute := range d.Attributes {
				attribute.BoolValues, attribute.IntValues, attribute.StringValues, attribute.VersionValues = nil, nil, nil, nil
				d.Attributes[name] = attribute
			}
		}
	}
}

func hasListAttributes(d *resourcev1.Device) bool {
	for _, a := range d.Attributes {
		if a.BoolValues != nil || a.IntValues != nil || a.StringValues != nil || a.VersionValues != nil {
			return true
		}
	}
	return false
}
