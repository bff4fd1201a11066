package resource

import (
	"context"
	"fmt"
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// deviceKinds are those of resource.k8s.io: which devices there are, and who has
// been given which. Package admission says who may see to that.
var deviceKinds = []*Kind{DeviceClasses, DeviceTaintRules, ResourceClaims, ResourceClaimTemplates, ResourceSlices}

// DeviceClasses are sorts of devices that claims name.
var DeviceClasses = &Kind{
	Spec:                store.DeviceClasses,
	Singular:            "deviceclass",
	ReturnDeletedObject: true,
	Strategy: strategy(store.DeviceClasses, "", Rules[*resourcev1.DeviceClass]{
		PrepareForCreate: func(_ context.Context, class *resourcev1.DeviceClass) { class.Generation = 1 },
		Validate:         kube.ValidateDeviceClass,
		PrepareForUpdate: func(_ context.Context, class, old *resourcev1.DeviceClass) {
			if !apiequality.Semantic.DeepEqual(class.Spec, old.Spec) {
				class.Generation = old.Generation + 1
			}
		},
		ValidateUpdate: kube.ValidateDeviceClassUpdate,
	}),
}

// DeviceTaintRules keep claims away from devices.
var DeviceTaintRules = &Kind{
	Spec:     store.DeviceTaintRules,
	Singular: "devicetaintrule",
	Strategy: strategy(store.DeviceTaintRules, "", Rules[*resourcev1.DeviceTaintRule]{
		PrepareForCreate: func(_ context.Context, rule *resourcev1.DeviceTaintRule) {
			rule.Status = resourcev1.DeviceTaintRuleStatus{}
			rule.Generation = 1
		},
		Validate: kube.ValidateDeviceTaintRule,
		PrepareForUpdate: func(_ context.Context, rule, old *resourcev1.DeviceTaintRule) {
			rule.Status = old.Status
			// How long a claim tolerates a taint counts from when it got this effect,
			// not from when the rule was made.
			if taint, was := &rule.Spec.Taint, &old.Spec.Taint; taint.Effect != was.Effect && taint.TimeAdded.Equal(was.TimeAdded) {
				taint.TimeAdded = &metav1.Time{Time: time.Now().Truncate(time.Second)}
			}
			if !apiequality.Semantic.DeepEqual(rule.Spec, old.Spec) {
				rule.Generation = old.Generation + 1
			}
		},
		ValidateUpdate: kube.ValidateDeviceTaintRuleUpdate,
		Conditional:    true,
	}),
	Subresources: []*Subresource{status(store.DeviceTaintRules, Rules[*resourcev1.DeviceTaintRule]{
		PrepareForUpdate: func(_ context.Context, rule, old *resourcev1.DeviceTaintRule) {
			rule.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&rule.ObjectMeta, &old.ObjectMeta)
		},
		ValidateUpdate: kube.ValidateDeviceTaintRuleStatusUpdate,
		Conditional:    true,
	})},
}

// ResourceSlices are the devices that a driver offers, of a node or of none.
var ResourceSlices = &Kind{
	Spec:                store.ResourceSlices,
	Singular:            "resourceslice",
	ReturnDeletedObject: true,
	Strategy: strategy(store.ResourceSlices, "", Rules[*resourcev1.ResourceSlice]{
		PrepareForCreate: func(_ context.Context, slice *resourcev1.ResourceSlice) {
			slice.Generation = 1
			kube.DropDisabledSliceFields(&slice.Spec, nil)
		},
		Validate:         kube.ValidateResourceSlice,
		WarningsOnCreate: func(_ context.Context, slice *resourcev1.ResourceSlice) []string { return driverWarnings(slice) },
		PrepareForUpdate: func(_ context.Context, slice, old *resourcev1.ResourceSlice) {
			if !apiequality.Semantic.DeepEqual(slice.Spec, old.Spec) {
				slice.Generation = old.Generation + 1
			}
			kube.DropDisabledSliceFields(&slice.Spec, &old.Spec)
		},
		ValidateUpdate:   kube.ValidateResourceSliceUpdate,
		WarningsOnUpdate: func(_ context.Context, slice, _ *resourcev1.ResourceSlice) []string { return driverWarnings(slice) },
		Options:          kube.ResourceSliceOptions,
		Paths:            kube.DevicePaths,
	}),
}

func driverWarnings(slice *resourcev1.ResourceSlice) []string {
	if driver := slice.Spec.Driver; driver != strings.ToLower(driver) {
		return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", driver)}
	}
	return nil
}
