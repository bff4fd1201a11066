// Package operator is an operator as its authors write them with
// controller-runtime: a kind of its own, whose objects it turns into others. Its
// managers, caches, leases, finalizers and applies are as they come.
package operator
