package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// debianImage is img on top of Debian packages and all that they depend on.
// Nothing is installed on this machine, and no script of a package runs. Where
// img and a package have the same file, img's counts.
func debianImage(packages []string, img image) (*image, error) {
	needed, err := withDependencies(packages)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "muster-debian")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// apt drops its rights for the download and would complain about the folder.
	download := exec.Command("apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, needed...)...)
	download.Dir = dir
	if out, err := download.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("download Debian packages: %w: %s (apt-get update?)", err, out)
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, err
	}
	slices.Sort(archives)
	for _, archive := range archives {
		files, err := packageFiles(archive)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(archive), err)
		}
		img.files = merge(img.files, files)
	}
	for _, top := range merged {
		img.files = merge(img.files, []file{{name: "usr/" + top, mode: 0o777, link: "/" + top}})
	}
	return &img, nil
}

// merged are the folders that Debian has twice, as links to one another.
var merged = []string{"bin", "sbin", "lib", "lib64"}

// withDependencies lists packages and what they depend on, without those that are
// only there to configure a system.
func withDependencies(packages []string) ([]string, error) {
	args := []string{"depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"}
	out, err := exec.Command("apt-cache", append(args, packages...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("apt-cache depends %s: %w", strings.Join(packages, " "), err)
	}
	skip := []string{"debconf", "dpkg", "tar", "perl-base", "init-system-helpers", "adduser", "passwd", "lsb-base", "libpam", "libaudit", "cdebconf"}
	var needed []string
	for line := range strings.Lines(string(out)) {
		name := strings.TrimSpace(line)
		// Packages stand at the margin; virtual ones are in angle brackets.
		if line[0] == ' ' || line[0] == '<' || name == "" || slices.ContainsFunc(skip, func(s string) bool { return strings.HasPrefix(name, s) }) {
			continue
		}
		needed = append(needed, name)
	}
	slices.Sort(needed)
	return slices.Compact(needed), nil
}

// packageFiles reads what a package would put on a disk, without documents.
func packageFiles(archive string) ([]file, error) {
	out, err := exec.Command("dpkg-deb", "--fsys-tarfile", archive).Output()
	if err != nil {
		return nil, fmt.Errorf("dpkg-deb: %w", err)
	}
	var files []file
	byName := map[string][]byte{}
	for entries := tar.NewReader(bytes.NewReader(out)); ; {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		name := place(header.Name)
		if name == "" || strings.HasPrefix(name, "usr/share/doc/") || strings.HasPrefix(name, "usr/share/man/") || strings.HasPrefix(name, "usr/share/locale/") {
			continue
		}
		f := file{name: name, mode: header.Mode & 0o7777}
		switch header.Typeflag {
		case tar.TypeDir:
			f.name += "/"
		case tar.TypeSymlink:
			f.link = header.Linkname
		case tar.TypeLink:
			f.data = byName[place(header.Linkname)]
		case tar.TypeReg:
			if f.data, err = io.ReadAll(entries); err != nil {
				return nil, err
			}
			byName[name] = f.data
		default:
			continue
		}
		files = append(files, f)
	}
}

// place is where a package's file lies in an image. Debian's /lib and the like
// are links into /usr; an image has one folder for both, below the root, and the
// links that debianImage adds.
func place(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	for _, top := range merged {
		if rest, ok := strings.CutPrefix(name, "usr/"+top+"/"); ok {
			return top + "/" + rest
		}
		if name == "usr/"+top || name == top {
			return ""
		}
	}
	return name
}

// merge adds those of more that files does not have.
func merge(files, more []file) []file {
	have := map[string]bool{}
	for _, f := range files {
		have[strings.TrimSuffix(f.name, "/")] = true
	}
	for _, f := range more {
		if name := strings.TrimSuffix(f.name, "/"); !have[name] {
			have[name] = true
			files = append(files, f)
		}
	}
	return files
}
