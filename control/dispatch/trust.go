package dispatch

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// newAnchors follows trust bundles. What pods refer to is one bundle, or those of
// a signer that a label selector matches, and is sent as the anchors in them.
func newAnchors(s *store.Store) *contents {
	c := newContents(s, store.ClusterTrustBundles, agentv1.Content_TRUST_ANCHORS)
	c.joined = true
	bundles := store.Of[*certificatesv1.ClusterTrustBundle](s, store.ClusterTrustBundles)
	c.read = func(_, name string) ([]byte, error) {
		signer, selector, several := strings.Cut(name, "?")
		if !several {
			bundle, err := bundles.Get(context.Background(), "", name)
			if errors.Is(err, store.ErrNotFound) {
				return nil, nil
			} else if err != nil {
				return nil, err
			}
			return anchorsOf(bundle), nil
		}
		matching, err := labels.Parse(selector)
		if err != nil {
			return nil, fmt.Errorf("label selector %q: %w", selector, err)
		}
		list, _, err := bundles.List(context.Background(), store.ListOptions{Labels: matching, Fields: fields.OneTermEqualSelector("spec.signerName", signer)})
		if err != nil {
			return nil, err
		}
		return anchorsOf(list...), nil
	}
	return c
}

// anchorsOf are the certificates in bundles, each once, in an order that does not
// depend on theirs.
func anchorsOf(bundles ...*certificatesv1.ClusterTrustBundle) []byte {
	set := map[string]bool{}
	for _, b := range bundles {
		for rest := []byte(b.Spec.TrustBundle); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			set[string(block.Bytes)] = true
		}
	}
	var anchors []byte
	for _, der := range slices.Sorted(maps.Keys(set)) {
		anchors = append(anchors, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(der)})...)
	}
	return anchors
}

// anchors refers to what a projection selects; no label selector selects nothing.
func (r *references) anchors(source *corev1.ClusterTrustBundleProjection) {
	spec := store.ClusterTrustBundles
	switch {
	case source.Name != nil:
		if key, err := spec.Key("", *source.Name); err == nil {
			r.keys = append(r.keys, key)
		}
	case source.SignerName != nil && source.LabelSelector != nil:
		if selector, err := metav1.LabelSelectorAsSelector(source.LabelSelector); err == nil {
			r.keys = append(r.keys, spec.Prefix("")+agentv1.SignersAnchors(*source.SignerName, selector.String()))
		}
	}
}
