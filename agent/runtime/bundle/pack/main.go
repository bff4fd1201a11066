// Command pack writes the archive that package bundle embeds.
//
//	go run ./agent/runtime/bundle/pack DIR FILE
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/musterhq/muster/agent/runtime/bundle"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: pack DIR FILE")
		os.Exit(2)
	}
	if err := pack(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

// pack replaces the file only once the archive is whole, so that an
// interrupted build does not embed half of one.
func pack(dir, name string) error {
	file, err := os.Create(name + ".partial")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if err := errors.Join(bundle.Pack(file, dir), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), name)
}
