package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The modules that upstream's programs are built from.
const (
	suiteModule = "test/conformance"
	etcdModule  = "test/bench"
)

// buildSuite makes the images that upstream's end-to-end suite asks for by name:
// its own programs from its own module, the rest from Debian's packages. Those
// that it lists and this can't make are left out, and named.
func buildSuite(dir, program, busybox string) error {
	out, err := exec.Command(program, "--list-images").Output()
	if err != nil {
		return fmt.Errorf("%s --list-images: %w", program, err)
	}
	base, err := busyboxImage(busybox)
	if err != nil {
		return err
	}
	s := &suite{busybox: base, made: map[string]*image{}}
	var missing []string
	for name := range strings.FieldsSeq(string(out)) {
		img, err := s.image(name)
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		if img == nil {
			missing = append(missing, name)
			continue
		}
		img.names = []string{name}
		if err := save(img, filepath.Join(dir, archiveName(name))); err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
	}
	slices.Sort(missing)
	fmt.Fprintf(os.Stderr, "images that the suite lists and that can't be made here: %s\n", strings.Join(missing, " "))
	return nil
}

// archiveName is a file name for the image called name.
func archiveName(name string) string {
	return "suite-" + strings.NewReplacer("/", "_", ":", "_").Replace(name[strings.LastIndex(name, "/")+1:]) + ".tar"
}

// suite makes each part that several images share once.
type suite struct {
	busybox *image
	made    map[string]*image
}

// image makes the image called name, or returns nil for one that it can't make.
func (s *suite) image(name string) (*image, error) {
	short := name[strings.LastIndex(name, "/")+1:]
	kind, _, _ := strings.Cut(short, ":")
	registry := strings.TrimSuffix(name, "/"+short)
	if registry != "registry.k8s.io/e2e-test-images" && registry != "registry.k8s.io" {
		return nil, nil // made to be refused, or to be found nowhere
	}
	if img := s.made[kind]; img != nil {
		return clone(img), nil
	}
	img, err := s.make(kind)
	if err != nil || img == nil {
		return nil, err
	}
	s.made[kind] = img
	return clone(img), nil
}

func clone(img *image) *image {
	copied := *img
	return &copied
}

func (s *suite) make(kind string) (*image, error) {
	switch kind {
	case "pause":
		return goImage("pause")
	case "busybox":
		return clone(s.busybox), nil
	case "agnhost":
		return s.agnhost()
	case "nautilus", "kitten":
		return s.picture(kind)
	case "nginx":
		return debianImage([]string{"nginx-light"}, image{
			cmd:   []string{"/usr/sbin/nginx", "-g", "daemon off;"},
			ports: []string{"80/tcp"},
			files: []file{
				{name: "var/log/nginx/", mode: 0o755}, {name: "var/cache/nginx/", mode: 0o755}, {name: "var/lib/nginx/", mode: 0o755}, {name: "run/", mode: 0o755}, {name: "tmp/", mode: 0o1777},
				{name: "etc/nginx/sites-enabled/default", mode: 0o777, link: "/etc/nginx/sites-available/default"},
				{name: "etc/passwd", mode: 0o644, data: []byte("root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n")},
				{name: "etc/group", mode: 0o644, data: []byte("root:x:0:\nwww-data:x:33:\n")},
			},
		})
	case "sample-apiserver":
		program, err := programOf(suiteModule, "k8s.io/sample-apiserver")
		if err != nil {
			return nil, err
		}
		return &image{files: []file{{name: "sample-apiserver", mode: 0o755, data: program}}, entry: []string{"/sample-apiserver"}}, nil
	case "etcd": // what sample-apiserver keeps its objects in
		program, err := programOf(etcdModule, "go.etcd.io/etcd/server/v3")
		if err != nil {
			return nil, err
		}
		return &image{files: []file{{name: "usr/local/bin/etcd", mode: 0o755, data: program}}, cmd: []string{"/usr/local/bin/etcd"}}, nil
	}
	return nil, nil
}

// agnhost is the suite's own program for nearly everything, with the tools that
// its scripts call beside it.
func (s *suite) agnhost() (*image, error) {
	program, err := programOf(suiteModule, "k8s.io/kubernetes/test/images/agnhost")
	if err != nil {
		return nil, err
	}
	img, err := debianImage([]string{"curl", "bind9-dnsutils", "iproute2", "netcat-openbsd", "socat"}, image{
		env:   s.busybox.env,
		entry: []string{"/agnhost"},
		cmd:   []string{"pause"},
		ports: []string{"80/tcp", "8080/tcp", "8081/tcp", "9376/tcp", "5000/tcp"},
		files: []file{
			{name: "agnhost", mode: 0o755, data: program},
			{name: "agnhost-2", mode: 0o777, link: "agnhost"},
			{name: "uploads/", mode: 0o755},
			{name: "tmp/", mode: 0o1777}, {name: "var/tmp/", mode: 0o1777},
			{name: "root/", mode: 0o700},
			// Users that specs of supplemental groups look for.
			{name: "etc/passwd", mode: 0o644, data: []byte("root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")},
			{name: "etc/group", mode: 0o644, data: []byte("root:x:0:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\nnobody:x:65534:\n")},
		},
	})
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"localhost.crt", "localhost.key"} {
		data, err := suiteFile("agnhost/porter/" + name)
		if err != nil {
			return nil, err
		}
		img.files = append(img.files, file{name: name, mode: 0o644, data: data})
	}
	for _, f := range s.busybox.files {
		name := place(f.name)
		if strings.HasSuffix(f.name, "/") {
			name += "/"
		}
		if name != "" && name != "/" {
			img.files = merge(img.files, []file{{name: name, mode: f.mode, data: f.data, link: f.link}})
		}
	}
	return img, nil
}

// picture is agnhost as a web server with a picture.
func (s *suite) picture(kind string) (*image, error) {
	if s.made["agnhost"] == nil {
		img, err := s.agnhost()
		if err != nil {
			return nil, err
		}
		s.made["agnhost"] = img
	}
	img := clone(s.made["agnhost"])
	img.files = slices.Clone(img.files)
	for _, name := range []string{kind + ".jpg", "data.json"} {
		data, err := suiteFile(kind + "/html/" + name)
		if err != nil {
			return nil, err
		}
		img.files = append(img.files, file{name: name, mode: 0o644, data: data})
	}
	img.cmd = []string{"test-webserver"}
	return img, nil
}

// programOf builds a program as one of our modules requires it.
func programOf(module, pkg string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "muster-image")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "program")
	cmd := exec.Command("go", "-C", module, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", program, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(program)
}

// suiteFile reads a file below the suite's folder of images.
func suiteFile(name string) ([]byte, error) {
	out, err := exec.Command("go", "-C", suiteModule, "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		return nil, fmt.Errorf("find k8s.io/kubernetes: %w", err)
	}
	return os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "test", "images", name))
}
