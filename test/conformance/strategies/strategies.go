// Package strategies holds Muster's rules for writes against those that they
// were written after: the same objects and changes of them go through package
// resource and through upstream's strategies, and must come out alike or be
// refused in the same words. Upstream's packages bring the etcd client along, so
// this is a module of its own.
package strategies
