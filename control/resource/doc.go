// Package resource is the life of a write: an object that was decoded and
// allowed is defaulted, admitted, prepared, validated and stored here, and
// deletion takes its course. The API server calls it for requests, controllers
// and the scheduler for their own writes; both get the same rules and the same
// errors (apierrors, with upstream's reasons and messages). Reading and watching
// go to package store directly.
//
// Each kind has a file of its own that says how it differs from others. See
// DESIGN.md for the order of steps and for how a kind is added.
package resource
