// Package version says which build this is.
package version

import (
	"runtime/debug"
)

// Muster is the version of this build, set by the linker (make build); "dev" otherwise.
var Muster = "dev"

// Kubernetes is the version whose API this build serves, taken from the linked
// module so that the two can't drift.
func Kubernetes() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "k8s.io/kubernetes" {
				return m.Version
			}
		}
	}
	return "v1.37.1"
}
