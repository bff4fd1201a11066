// Command images makes the sample images as OCI archives that containerd
// imports, so that a cluster runs pods on a machine that reaches no registry:
//
//	muster.local/pause:1     the process that holds a pod together
//	muster.local/hello:1     a small web server that says where it runs
//	muster.local/busybox:1   a shell and the usual tools, from Debian's
//	                         busybox-static; also docker.io/library/busybox:latest
//
// It needs nothing but the Go tool chain and a static busybox.
//
//	go run ./deploy/images [-busybox FILE] [-suite PROGRAM] DIR
//
// With -suite it also makes the images that upstream's end-to-end suite, a
// program built from test/conformance, asks for; that needs Debian's packages.
package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	busybox := flag.String("busybox", "/bin/busybox", "a static busybox for muster.local/busybox:1")
	program := flag.String("suite", "", "upstream's end-to-end suite, to make its images too")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: images [-busybox FILE] [-suite PROGRAM] DIR")
		os.Exit(2)
	}
	err := build(flag.Arg(0), *busybox)
	if err == nil && *program != "" {
		err = buildSuite(flag.Arg(0), *program, *busybox)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func build(dir, busybox string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, make := range map[string]func() (*image, error){
		"pause":   func() (*image, error) { return goImage("pause") },
		"hello":   func() (*image, error) { return goImage("hello") },
		"busybox": func() (*image, error) { return busyboxImage(busybox) },
	} {
		img, err := make()
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		if err := save(img, filepath.Join(dir, name+".tar")); err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
	}
	return nil
}

// save replaces the archive only when its bytes differ, so that nothing that
// depends on it is made again for nothing.
func save(img *image, name string) error {
	var archive bytes.Buffer
	if err := img.write(&archive); err != nil {
		return err
	}
	if have, err := os.ReadFile(name); err == nil && bytes.Equal(have, archive.Bytes()) {
		return nil
	}
	if err := os.WriteFile(name+".partial", archive.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(name+".partial", name)
}

// goImage is an image of one of the programs in the folders beside this one.
func goImage(name string) (*image, error) {
	dir, err := os.MkdirTemp("", "muster-image")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", program, "github.com/musterhq/muster/deploy/images/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	img := &image{
		names: []string{"muster.local/" + name + ":1"},
		files: []file{{name: name, mode: 0o755, data: data}},
		entry: []string{"/" + name},
	}
	if name == "hello" {
		img.ports = []string{"8080/tcp"}
		img.files = append(img.files, file{name: "etc/passwd", mode: 0o644, data: []byte("root:x:0:0:root:/:/hello\n")})
	}
	return img, nil
}

// busyboxImage is a busybox with a link for each of its applets.
func busyboxImage(program string) (*image, error) {
	data, err := os.ReadFile(program)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w (apt-get install busybox-static)", err)
	}
	if err != nil {
		return nil, err
	}
	if err := checkStatic(data); err != nil {
		return nil, fmt.Errorf("%s: %w (apt-get install busybox-static)", program, err)
	}
	out, err := exec.Command(program, "--list-full").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list-full: %w", program, err)
	}
	img := &image{
		names: []string{"muster.local/busybox:1", "docker.io/library/busybox:latest"},
		env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		cmd:   []string{"sh"},
		files: []file{
			{name: "bin/busybox", mode: 0o755, data: data},
			{name: "etc/passwd", mode: 0o644, data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")},
			{name: "etc/group", mode: 0o644, data: []byte("root:x:0:\nnobody:x:65534:\n")},
			{name: "root/", mode: 0o700},
			{name: "home/", mode: 0o755},
			{name: "tmp/", mode: 0o1777}, {name: "var/tmp/", mode: 0o1777},
		},
	}
	for applet := range strings.FieldsSeq(string(out)) {
		if applet != "bin/busybox" && applet != "linuxrc" {
			img.files = append(img.files, file{name: applet, mode: 0o777, link: "/bin/busybox"})
		}
	}
	return img, nil
}

// checkStatic refuses a program that needs libraries, which the image lacks.
func checkStatic(data []byte) error {
	program, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return err
	}
	libraries, err := program.ImportedLibraries()
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, elf.ErrNoSymbols) {
		return err
	}
	if len(libraries) > 0 {
		return fmt.Errorf("is not static, it needs %s", strings.Join(libraries, ", "))
	}
	return nil
}
