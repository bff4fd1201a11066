package resource

import (
	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// ClusterTrustBundles are the certificates by which a signer's are checked. Who
// may say so for a signer is package admission's business.
var ClusterTrustBundles = &Kind{
	Spec:     store.ClusterTrustBundles,
	Singular: "clustertrustbundle",
	Strategy: strategy(store.ClusterTrustBundles, "", Rules[*certificatesv1.ClusterTrustBundle]{
		Validate:       kube.ValidateClusterTrustBundle,
		ValidateUpdate: kube.ValidateClusterTrustBundleUpdate,
		Conditional:    true,
	}),
}
