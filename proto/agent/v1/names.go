package agentv1

// SignersAnchors is the Content.name of the trust anchors in those bundles of a
// signer that a label selector matches, in the selector's canonical form. No
// bundle's own name has such a form.
func SignersAnchors(signer, selector string) string { return signer + "?" + selector }
