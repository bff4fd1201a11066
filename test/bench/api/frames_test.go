package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"testing/iotest"
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

func TestFramesAreCutHoweverTheyArrive(t *testing.T) {
	want := []string{`{"type":"ADDED"}`, strings.Repeat("x", 100_000), "z"}
	var lines, prefixed bytes.Buffer
	for _, text := range want {
		lines.WriteString(text + "\n")
		_ = binary.Write(&prefixed, binary.BigEndian, uint32(len(text)))
		prefixed.WriteString(text)
	}
	for media, stream := range map[string]io.Reader{inJSON: &lines, inProtobuf: &prefixed} {
		f := newFrames(iotest.HalfReader(stream), media)
		for i, text := range want {
			frame, err := f.next()
			if got := strings.TrimSuffix(string(frame), "\n"); err != nil || got != text {
				t.Errorf("%s: frame %d is %.20q (%d bytes), %v, want %.20q", media, i, got, len(got), err, text)
			}
		}
		if _, err := f.next(); err != io.EOF {
			t.Errorf("%s: got %v at the end, want EOF", media, err)
		}
	}
}

func TestAFrameOfAnImpossibleSizeIsNotRead(t *testing.T) {
	if _, err := newFrames(strings.NewReader("\xff\xff\xff\xff"), inProtobuf).next(); err == nil {
		t.Error("a frame of 4 GiB was begun")
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
