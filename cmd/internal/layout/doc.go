// Package layout holds the shape of the repository as a test: which package may
// import which. It has no code of its own. A new package gets a row in the
// matrix in layout_test.go before it compiles into anything.
package layout
