package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func ofClaim() corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}
}

func local(path string, directory bool) func(*corev1.Volume) (*Claimed, error) {
	return func(*corev1.Volume) (*Claimed, error) {
		return &Claimed{Directory: directory, Volume: &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "v"},
			Spec:       corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}}},
		}}, nil
	}
}

func TestDirectoryOutlivesItsPods(t *testing.T) {
	m := &Manager{Dir: t.TempDir(), Volumes: filepath.Join(t.TempDir(), "volumes")}
	path := filepath.Join(m.Volumes, "pvc-1")
	p := pod(volume("data", ofClaim()))
	paths, err := m.Setup(t.Context(), p, local(path, true))
	if err != nil || paths["data"] != path {
		t.Fatalf("at %q, %v, want %q", paths["data"], err, path)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("mode %v, %v, want anybody to write", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(path, "f"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	// An agent that starts anew finds it without asking.
	paths, err = m.Setup(t.Context(), p, func(*corev1.Volume) (*Claimed, error) { return nil, errors.New("nobody answers") })
	if err != nil || paths["data"] != path {
		t.Errorf("again at %q, %v, want %q", paths["data"], err, path)
	}
	if err := m.Reclaim(path); err == nil || read(t, path, "f") != "data" {
		t.Errorf("deleted under its pod: %v", err)
	}
	if err := m.Remove(p.UID); err != nil {
		t.Error(err)
	}
	if read(t, path, "f") != "data" {
		t.Error("gone with its pod")
	}
	// A pod that has finished keeps nothing from being deleted.
	if _, err := m.Setup(t.Context(), p, local(path, true)); err != nil {
		t.Error(err)
	}
	if err := m.Release(p.UID); err != nil || read(t, path, "f") != "data" {
		t.Errorf("%v, want the data there", err)
	}
	for range 2 { // the second time it is gone
		if err := m.Reclaim(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want it gone", err)
	}
}

// Paths come from objects that others may write: nothing outside the node's own
// volumes is made or deleted, whatever they say.
func TestNothingElseIsMadeOrDeleted(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "precious"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &Manager{Dir: t.TempDir(), Volumes: t.TempDir()}
	for _, path := range []string{
		outside, "/", "", "..", m.Volumes, m.Volumes + "/", m.Volumes + "/..", m.Volumes + "/.", m.Volumes + "/a/b", m.Volumes + "/a/..",
		m.Volumes + "/../" + filepath.Base(outside), filepath.Join("volumes", "a"), m.Volumes + "x/a", m.Volumes + "/.hidden",
	} {
		if err := m.Reclaim(path); err == nil {
			t.Errorf("%q was deleted", path)
		}
		if err := m.makeDirectory(path); err == nil {
			t.Errorf("%q was made", path)
		}
	}
	// A link in place of a volume goes, and not what it leads to.
	link := filepath.Join(m.Volumes, "link")
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(m.Volumes, "v")
	if err := errors.Join(os.Mkdir(inside, 0o755), os.Symlink(outside, filepath.Join(inside, "link"))); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, inside} {
		if err := m.Reclaim(path); err != nil {
			t.Error(err)
		}
	}
	if read(t, outside, "precious") != "data" {
		t.Error("what a link led to was deleted")
	}
}

func TestWhatIsMountedInAVolumeIsNotDeleted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	m := &Manager{Dir: t.TempDir(), Volumes: t.TempDir()}
	path := filepath.Join(m.Volumes, "v")
	disk := filepath.Join(path, "a disk")
	if err := os.MkdirAll(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, ""); err != nil {
		t.Skip(err)
	}
	err := m.Reclaim(path)
	if e := syscall.Unmount(disk, 0); e != nil {
		t.Fatal(e)
	}
	if err == nil || !strings.Contains(err.Error(), disk) {
		t.Errorf("%v, want it to say what is mounted where", err)
	}
	if err := m.Reclaim(path); err != nil {
		t.Error(err)
	}
}

func TestLocalVolumesOfOthersMustBeThere(t *testing.T) {
	m := &Manager{Dir: t.TempDir(), Volumes: t.TempDir()}
	disk := filepath.Join(t.TempDir(), "disk")
	p := pod(volume("data", ofClaim()))
	if _, err := m.Setup(t.Context(), p, local(disk, false)); err == nil || err.Error() != `volume "data": persistent volume "v": path "`+disk+`" does not exist` {
		t.Errorf("%v, want that it does not exist", err)
	}
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	paths, err := m.Setup(t.Context(), p, local(disk, false))
	if err != nil || paths["data"] != disk {
		t.Errorf("at %q, %v, want %q", paths["data"], err, disk)
	}
	if err := m.Remove(p.UID); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(disk); err != nil {
		t.Error(err)
	}
}

func TestOtherPersistentVolumesAreRefusedByName(t *testing.T) {
	m := &Manager{Dir: t.TempDir()}
	_, err := m.Setup(t.Context(), pod(volume("data", ofClaim())), func(*corev1.Volume) (*Claimed, error) {
		return &Claimed{Volume: &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "v"},
			Spec:       corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}},
		}}, nil
	})
	if !errors.Is(err, ErrUnsupported) || err.Error() != `volume "data": persistent volume "v": nfs volumes are not supported by this version of muster` {
		t.Errorf("got %v, want it to name the volume and its kind", err)
	}
}

func TestVolumeBelongsToThePodsGroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to give files away")
	}
	m := &Manager{Dir: t.TempDir(), Volumes: t.TempDir()}
	path := filepath.Join(m.Volumes, "v")
	if err := errors.Join(os.MkdirAll(filepath.Join(path, "dir"), 0o700), os.WriteFile(filepath.Join(path, "dir", "f"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	p := pod(volume("data", ofClaim()))
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](4242)}
	if _, err := m.Setup(t.Context(), p, local(path, true)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{path: 0o770 | fs.ModeSetgid, filepath.Join(path, "dir"): 0o770 | fs.ModeSetgid, filepath.Join(path, "dir", "f"): 0o660} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode() & (fs.ModePerm | fs.ModeSetgid); got&want != want || info.Sys().(*syscall.Stat_t).Gid != 4242 {
			t.Errorf("%s: mode %v, group %d, want %v of 4242", path, got, info.Sys().(*syscall.Stat_t).Gid, want)
		}
	}
}
