package control

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/backup"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// Whatever a control node writes, to its log, to a snapshot of raft's or to a
// saved cluster, somebody may copy. The value and its base64 form, which JSON
// would have, are looked for in every file.
func TestNoSecretIsOnDiskInTheClear(t *testing.T) {
	cfg := fresh(t, "c1")
	server, stop := run(t, cfg)
	ctx := t.Context()
	const value = "correct-horse-battery-staple"
	secret := func() *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "password", Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: `{"data":"` + value + `"}`}},
			Data:       map[string][]byte{"password": []byte(value)}, StringData: map[string]string{"again": value},
		}
	}
	if _, err := server.registry.Create(ctx, resource.Secrets, "default", secret(), resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := server.store.Keyring().Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := server.store.Keyring().Rewrite(ctx, func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	file := saveTo(t, server, "")
	get := func(s *Server) {
		t.Helper()
		got, err := store.Of[*corev1.Secret](s.store, store.Secrets).Get(context.Background(), "default", "password")
		if err != nil || string(got.Data["password"]) != value || string(got.Data["again"]) != value {
			t.Errorf("the secret is %v, %v", got, err)
		}
	}
	get(server)
	stop()
	inTheClear := func(path string, text []byte) {
		t.Helper()
		for _, form := range []string{value, base64.StdEncoding.EncodeToString([]byte(value))} {
			if bytes.Contains(text, []byte(form)) {
				t.Errorf("%s holds the secret as %s", path, form)
			}
		}
	}
	files := 0
	err := filepath.WalkDir(cfg.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		files++
		inTheClear(path, text)
		return err
	})
	if err != nil || files < 5 {
		t.Errorf("looked into %d files, %v", files, err)
	}
	saved, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer saved.Close()
	_, err = backup.Read(saved, nil, func(state io.Reader) error {
		text, err := io.ReadAll(state)
		inTheClear("the saved state", text)
		if !bytes.Contains(text, []byte("secrets/default/password")) {
			return errors.New("the saved state lacks the secret")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}

	// After a restart, and in a cluster made of the file, it can be read.
	again, stopAgain := run(t, cfg)
	get(again)
	stopAgain()
	restored := fresh(t, "c1")
	restored.Restore = file
	other, _ := run(t, restored)
	get(other)
}
