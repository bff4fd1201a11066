//go:build race

package wal

// raced: the race detector makes the exhaustive tests ten times slower and finds
// nothing in them, as they have one goroutine.
const raced = true
