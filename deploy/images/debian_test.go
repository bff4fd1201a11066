package main

import "testing"

func TestPlaceKnowsOneFolderForDebiansTwo(t *testing.T) {
	for name, want := range map[string]string{
		"./usr/bin/curl":                       "bin/curl",
		"./bin/sh":                             "bin/sh",
		"./usr/lib/x86_64-linux-gnu/libc.so.6": "lib/x86_64-linux-gnu/libc.so.6",
		"./lib64/ld-linux-x86-64.so.2":         "lib64/ld-linux-x86-64.so.2",
		"./usr/share/nginx/html/index.html":    "usr/share/nginx/html/index.html",
		"./usr/libexec/x":                      "usr/libexec/x",
		"./usr/bin":                            "",
		"./":                                   "",
		"./../etc/passwd":                      "etc/passwd",
	} {
		if got := place(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestMergeKeepsWhatIsThere(t *testing.T) {
	files := merge([]file{{name: "etc/passwd", data: []byte("ours")}, {name: "tmp/"}}, []file{{name: "etc/passwd", data: []byte("theirs")}, {name: "tmp"}, {name: "bin/sh"}, {name: "bin/sh"}})
	if len(files) != 3 || string(files[0].data) != "ours" || files[2].name != "bin/sh" {
		t.Errorf("got %v, want ours, tmp/ and one bin/sh", files)
	}
}

func TestSuiteImagesHaveFilesOfTheirOwn(t *testing.T) {
	for name, want := range map[string]string{
		"registry.k8s.io/e2e-test-images/agnhost:2.66.1": "suite-agnhost_2.66.1.tar",
		"registry.k8s.io/pause:3.10.2":                   "suite-pause_3.10.2.tar",
	} {
		if got := archiveName(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}
