// Package informers holds client-go's informers and leader election against
// control nodes that are killed: whatever way of asking an informer has, it
// hears of every acknowledged write, once and in order, and ends with what a
// quorum has.
package informers
