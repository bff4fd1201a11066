package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

func TestFramesAreCutHoweverTheyArrive(t *testing.T) {
	want := []string{`{"type":"ADDED"}`, strings.Repeat("x", 100_000), "z"}
	var lines, prefixed bytes.Buffer
	for _, text := range want {
		lines.WriteString(text + "\n")
		_ = binary.Write(&prefixed, binary.BigEndian, uint32(len(text)))
		prefixed.WriteString(text)
	}
	for media, stream := range map[string]io.Reader{"json": &lines, "protobuf": &prefixed} {
		f := NewFrames(iotest.HalfReader(stream), media == "json")
		for i, text := range want {
			frame, err := f.Next()
			if got := strings.TrimSuffix(string(frame), "\n"); err != nil || got != text {
				t.Errorf("%s: frame %d is %.20q (%d bytes), %v, want %.20q", media, i, got, len(got), err, text)
			}
		}
		if _, err := f.Next(); err != io.EOF {
			t.Errorf("%s: got %v at the end, want EOF", media, err)
		}
	}
}

func TestAFrameOfAnImpossibleSizeIsNotRead(t *testing.T) {
	if _, err := NewFrames(strings.NewReader("\xff\xff\xff\xff"), false).Next(); err == nil {
		t.Error("a frame of 4 GiB was begun")
	}
}

func TestEventsAreToldApart(t *testing.T) {
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	frame, err := runtime.Encode(info.StreamSerializer.Serializer, &metav1.WatchEvent{Type: "MODIFIED", Object: runtime.RawExtension{Raw: []byte("a pod")}})
	if err != nil {
		t.Fatal(err)
	}
	if kind, object, err := Event(frame); err != nil || kind != "MODIFIED" || !bytes.Contains(object, []byte("a pod")) {
		t.Errorf("got %q of %q, %v, want MODIFIED of a pod", kind, object, err)
	}
	if kind, _, err := Event([]byte("<html>")); err == nil {
		t.Errorf("got %q of what is no event, want an error", kind)
	}
}
