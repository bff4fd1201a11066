// Package helm takes a chart through its life with the real Helm: custom kinds,
// hooks, waiting, server-side and client-side apply, failed upgrades, rollbacks.
//
// Helm is built by its own module, cli, which takes minutes the first time:
// make clients does it, and without bin/helm the test is skipped.
package helm
