package main

import (
	"bytes"
	"compress/gzip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestContinueTokensAreFoundInTheHeadOfAList(t *testing.T) {
	items := make([]corev1.Pod, 100) // far more than a head
	for i := range items {
		items[i] = *pod(testOwner)
	}
	for _, media := range []string{inJSON, inProtobuf} {
		for _, want := range []string{"", "eyJydiI6MTJ9"} {
			body := listOf(t, media, &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "12", Continue: want}, Items: items})
			var compressed bytes.Buffer
			w := gzip.NewWriter(&compressed)
			_, _ = w.Write(body)
			_ = w.Close()
			for name, sent := range map[string][]byte{"plain": body, "compressed": compressed.Bytes()} {
				head, err := headOf(sent)
				if err != nil {
					t.Fatal(err)
				}
				if len(head) > headBytes {
					t.Errorf("%s %s: a head of %d bytes, want %d at most", media, name, len(head), headBytes)
				}
				if got, err := continueOf(head, media); err != nil || got != want {
					t.Errorf("%s %s: got %q, %v, want %q", media, name, got, err, want)
				}
			}
		}
	}
}

func TestWhatIsNoListIsRefused(t *testing.T) {
	for _, media := range []string{inJSON, inProtobuf} {
		if got, err := continueOf([]byte("<html>"), media); err == nil {
			t.Errorf("%s: got %q, want an error", media, got)
		}
	}
}

func TestStampsAreReadWhereverTheyAre(t *testing.T) {
	want := 1234567 * time.Microsecond
	if got, ok := stampOf([]byte(`{"status":{"message":"` + stamp(want) + `"}}`)); !ok || got != want {
		t.Errorf("got %v, %v, want %v", got, ok, want)
	}
	for _, frame := range []string{"", "no stamp", stampMark + "12"} {
		if got, ok := stampOf([]byte(frame)); ok {
			t.Errorf("%q: got %v, want none", frame, got)
		}
	}
}
