package apiserver

import (
	"testing"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store/storetest"
)

// unlearned are the kinds that are decoded for each answer in JSON.
var unlearned = map[string]bool{
	"customresourcedefinitions.apiextensions.k8s.io": true, // schemas have floating point numbers
}

// A kind whose type is not understood would be served all the same, only slowly.
func TestStoredBytesOfEveryKindBecomeJSON(t *testing.T) {
	for _, kind := range resource.New(storetest.New(t), resource.AdmitAll{}).Catalog().Kinds() {
		if kind.Spec.Codec != nil {
			continue
		}
		if known := learn(kind.Spec) != nil; known == unlearned[kind.Spec.Resource.String()] {
			t.Errorf("%s: written from stored bytes: %v, want the contrary", kind.Spec.Resource, known)
		}
	}
}
