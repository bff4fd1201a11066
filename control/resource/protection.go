package resource

// Finalizers that keep storage while it is used: admission sets them, and a
// controller takes them off.
const (
	ClaimProtection           = "kubernetes.io/pvc-protection"
	VolumeProtection          = "kubernetes.io/pv-protection"
	AttributesClassProtection = "kubernetes.io/vac-protection"
)
