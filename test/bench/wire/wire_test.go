package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	corev1 "k8s.io/api/core/v1"
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
	codec := scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion)
	pod, err := runtime.Encode(codec, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", ResourceVersion: "1234"}})
	if err != nil {
		t.Fatal(err)
	}
	frame, err := runtime.Encode(info.StreamSerializer.Serializer, &metav1.WatchEvent{Type: "MODIFIED", Object: runtime.RawExtension{Raw: pod}})
	if err != nil {
		t.Fatal(err)
	}
	kind, object, err := Event(frame)
	if err != nil || kind != "MODIFIED" {
		t.Errorf("got %q, %v, want MODIFIED", kind, err)
	}
	if version, err := Version(object); err != nil || version != "1234" {
		t.Errorf("got version %q, %v, want 1234", version, err)
	}
	if kind, _, err := Event([]byte("<html>")); err == nil {
		t.Errorf("got %q of what is no event, want an error", kind)
	}
}

// Muster appends the version to the stored bytes as a second part of metadata.
func TestTheVersionMayComeLast(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{NodeName: "n1"}}
	raw, err := pod.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	raw = append(raw, 0x0a, 4, 0x32, 2, '1', '2')
	unknown := &runtime.Unknown{TypeMeta: runtime.TypeMeta{Kind: "Pod", APIVersion: "v1"}, Raw: raw}
	envelope, err := unknown.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Version(append([]byte("k8s\x00"), envelope...)); err != nil || got != "12" {
		t.Errorf("got %q, %v, want 12", got, err)
	}
}
