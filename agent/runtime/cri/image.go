package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/distribution/reference"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/musterhq/muster/agent/runtime"
)

const (
	criNamespace = "k8s.io" // where containerd's CRI keeps what is its own
	// CRI learns of imported images from containerd's events, soon after.
	importSeen = 5 * time.Second
)

func (r *Runtime) Images(ctx context.Context) ([]runtime.Image, error) {
	answer, err := r.images.ListImages(ctx, &criv1.ListImagesRequest{})
	if err != nil {
		return nil, fault("list images", err)
	}
	images := make([]runtime.Image, len(answer.Images))
	for i, found := range answer.Images {
		images[i] = runtime.Image{ID: found.Id, Names: found.RepoTags, Digests: found.RepoDigests, Size: found.Size, User: found.Username, UID: -1}
		if found.Uid != nil {
			images[i].UID = found.Uid.Value
		}
	}
	return images, nil
}

func (r *Runtime) Image(ctx context.Context, ref string) (runtime.Image, error) {
	answer, err := r.images.ImageStatus(ctx, &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: ref}})
	if err != nil {
		return runtime.Image{}, fault("look up image "+ref, err)
	}
	found := answer.GetImage()
	if found == nil {
		return runtime.Image{}, fmt.Errorf("image %s: %w", ref, runtime.ErrNotFound)
	}
	image := runtime.Image{ID: found.Id, Digests: found.RepoDigests, Size: found.Size, User: found.Username, UID: -1}
	if found.Uid != nil {
		image.UID = found.Uid.Value
	}
	return image, nil
}

func (r *Runtime) PullImage(ctx context.Context, ref string, as *runtime.Credentials) (runtime.Image, error) {
	request := &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: ref, UserSpecifiedImage: ref}}
	if as != nil {
		request.Auth = &criv1.AuthConfig{Username: as.Username, Password: as.Password}
	}
	if _, err := r.images.PullImage(ctx, request); err != nil {
		if ctx.Err() != nil {
			return runtime.Image{}, ctx.Err()
		}
		return runtime.Image{}, errors.New(status.Convert(err).Message()) // it says what it is about
	}
	return r.Image(ctx, ref)
}

// ImportImages does nothing for a file that it has imported before and whose
// images are still there.
func (r *Runtime) ImportImages(ctx context.Context, path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if names := r.imported.of(path, info); names != nil && r.haveAll(ctx, names) {
		return names, nil
	}
	ctx = namespaces.WithNamespace(ctx, criNamespace)
	client, err := containerd.NewWithConn(r.conn, containerd.WithDefaultNamespace(criNamespace))
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	images, err := client.Import(ctx, file,
		containerd.WithImageLabels(map[string]string{"io.cri-containerd.image": "managed"}),
		containerd.WithImageRefTranslator(fullName))
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", path, err)
	}
	names := make([]string, 0, len(images))
	for _, image := range images {
		if err := containerd.NewImage(client, image).Unpack(ctx, snapshotter(r.cfg.Dir)); err != nil {
			return nil, fmt.Errorf("unpack %s from %s: %w", image.Name, path, err)
		}
		names = append(names, image.Name)
	}
	deadline := time.Now().Add(importSeen)
	for !r.haveAll(ctx, names) {
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("import %s: CRI does not see %v", path, names)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return names, r.imported.add(path, info, names)
}

func (r *Runtime) haveAll(ctx context.Context, names []string) bool {
	for _, name := range names {
		if _, err := r.Image(ctx, name); err != nil {
			return false
		}
	}
	return true
}

// fullName makes "hello:1" the "docker.io/library/hello:1" that CRI looks for.
func fullName(name string) string {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return name
	}
	return named.String()
}

// importRecord remembers which files were imported, so that a start is not
// held up by reading them all again.
type importRecord struct {
	path string
	mu   sync.Mutex
	Done map[string]importedFile
}

type importedFile struct {
	Size   int64
	Time   time.Time
	Images []string
}

func loadImportRecord(path string) *importRecord {
	record := &importRecord{path: path}
	// A lost or torn record costs one more import.
	if text, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(text, &record.Done)
	}
	if record.Done == nil {
		record.Done = map[string]importedFile{}
	}
	return record
}

func (i *importRecord) of(path string, info os.FileInfo) []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if was, ok := i.Done[path]; ok && was.Size == info.Size() && was.Time.Equal(info.ModTime()) {
		return was.Images
	}
	return nil
}

func (i *importRecord) add(path string, info os.FileInfo, names []string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.Done[path] = importedFile{Size: info.Size(), Time: info.ModTime(), Images: names}
	text, err := json.Marshal(i.Done)
	if err != nil {
		return err
	}
	return os.WriteFile(i.path, text, 0o600)
}
