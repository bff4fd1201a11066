package transcode

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/randfill"
)

type object interface {
	metav1.Object
	runtime.Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// objects are one of each kind that has metadata, in every version that
// client-go knows.
func objects(t testing.TB) (all []object) {
	t.Helper()
	for kind := range scheme.Scheme.AllKnownTypes() {
		made, err := scheme.Scheme.New(kind)
		if err != nil {
			t.Fatal(err)
		}
		if obj, ok := made.(object); ok && kind.Version != runtime.APIVersionInternal {
			all = append(all, obj)
		}
	}
	if len(all) < 60 {
		t.Fatalf("%d kinds, want all that there are", len(all))
	}
	return all
}

var strange = []string{
	"", "web", "a b", `quo"te`, `back\slash`, "<&>", "tab\tline\n", "ünïcödé", "\u2028\u2029", "bad\xff\xc0utf", "\x00\x1f\x7f", "null",
}

var quantities = []string{"0", "1", "100m", "1500m", "1Gi", "1536Mi", "2k", "0.5", "1.5Gi", "1e3", "12E", "-5", "100n", "123456789123456789"}

// filler fills objects at random, and leaves much empty.
func filler(seed uint64) *randfill.Filler {
	random := rand.New(rand.NewPCG(seed, 1))
	return randfill.NewWithSeed(int64(seed)).NilChance(.4).NumElements(0, 3).MaxDepth(12).Funcs(
		func(s *string, _ randfill.Continue) { *s = strange[random.IntN(len(strange))] },
		func(at *metav1.Time, _ randfill.Continue) {
			if random.IntN(3) > 0 {
				*at = metav1.Unix(random.Int64N(1<<33)-1<<31, 0)
			}
		},
		func(at *metav1.MicroTime, _ randfill.Continue) {
			if random.IntN(3) > 0 {
				*at = metav1.NewMicroTime(time.UnixMicro(random.Int64N(1 << 52)))
			}
		},
		func(q *resource.Quantity, _ randfill.Continue) {
			*q = resource.MustParse(quantities[random.IntN(len(quantities))])
		},
		func(v *intstr.IntOrString, c randfill.Continue) {
			if *v = intstr.FromInt32(int32(random.Int32() - 1<<30)); random.IntN(2) == 0 {
				*v = intstr.FromString(strange[random.IntN(len(strange))])
			}
		},
		func(f *metav1.FieldsV1, _ randfill.Continue) {
			fields := []string{``, `{}`, `{"f:metadata":{"f:labels":{".":{},"f:app":{}}}}`, `{"f:spec": {"k:{\"name\":\"<web>\"}":{}}}`, "{\"f:\u2028\":{}}", `{"f:\u003c":{}}`}
			f.SetRawBytes([]byte(fields[random.IntN(len(fields))]))
		},
		func(e *runtime.RawExtension, _ randfill.Continue) {
			e.Raw = [][]byte{nil, []byte(`{"a":1}`), []byte(` {"b" : "<"} `)}[random.IntN(3)]
		},
	)
}

// The promise is about what is stored, which is what Marshal made of something.
func check(t *testing.T, obj object, fill *randfill.Filler) {
	t.Helper()
	known, err := Of(obj)
	if err != nil {
		t.Errorf("%T: %v", obj, err)
		return
	}
	fill.Fill(obj)
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	raw, err := obj.Marshal()
	if err != nil {
		return // not to be stored, either
	}
	decoded := reflect.New(reflect.TypeOf(obj).Elem()).Interface().(object)
	if err := decoded.Unmarshal(raw); err != nil {
		return // quantities and the like that can't be read back
	}
	want, err := json.Marshal(decoded)
	if err != nil {
		return
	}
	got, err := known.Append(nil, "", "", raw)
	if err != nil {
		t.Errorf("%T: %v", obj, err)
	} else if !bytes.Equal(got, want) {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		from := max(0, at-80)
		t.Errorf("%T differs:\ngot  …%s\nwant …%s", obj, got[from:min(len(got), at+80)], want[from:min(len(want), at+80)])
	}
}

func TestEveryKindIsWrittenAsEncodingJSONWritesIt(t *testing.T) {
	for _, obj := range objects(t) {
		for seed := range uint64(6) {
			check(t, reflect.New(reflect.TypeOf(obj).Elem()).Interface().(object), filler(seed))
		}
	}
}

func FuzzPod(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { check(t, &corev1.Pod{}, filler(seed)) })
}

func TestMetadataInTwoPartsIsOne(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{"b": "2", "a": "1"}}}
	raw, err := pod.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	raw = append(raw, 1<<3|2, 4, 6<<3|2, 2, '1', '7') // the resourceVersion as package store appends it
	known, err := Of(pod)
	if err != nil {
		t.Fatal(err)
	}
	got, err := known.Append(nil, "v1", "Pod", raw)
	if err != nil {
		t.Fatal(err)
	}
	pod.ResourceVersion = "17"
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	want, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// What is cut off or of a strange form is an error, whatever else it is.
func TestBrokenBytesAreAnError(t *testing.T) {
	pod := &corev1.Pod{}
	filler(3).Fill(pod)
	raw, err := pod.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	known, err := Of(pod)
	if err != nil {
		t.Fatal(err)
	}
	whole, failed := 0, 0
	for cut := range len(raw) {
		decoded := &corev1.Pod{}
		if _, err := known.Append(nil, "", "", raw[:cut]); err != nil {
			failed++
		} else if err := decoded.Unmarshal(raw[:cut]); err != nil {
			t.Errorf("%d of %d bytes were written as JSON, but can't be decoded: %v", cut, len(raw), err)
		} else {
			whole++
		}
	}
	if failed == 0 || whole == 0 {
		t.Errorf("%d prefixes failed and %d did not, want some of each", failed, whole)
	}
	if _, err := known.Append(nil, "", "", []byte{1<<3 | 5, 0, 0, 0, 0}); !errors.Is(err, errForm) {
		t.Errorf("got %v for a kind of field that the API does not have, want %v", err, errForm)
	}
}

func TestTypesThatAreNotKnownAreRefused(t *testing.T) {
	type inner struct {
		Name string `json:"name"`
	}
	for name, obj := range map[string]any{
		"no pointer":      inner{},
		"not in protobuf": &inner{},
		"a name twice": &struct {
			corev1.VolumeSource `json:",inline" protobuf:"bytes,1,opt,name=a"`
			HostPath            string `json:"hostPath" protobuf:"bytes,2,opt,name=b"`
		}{},
		"a number as a string": &struct {
			N int64 `json:"n,string" protobuf:"varint,1,opt,name=n"`
		}{},
		"a float": &struct {
			N float64 `json:"n" protobuf:"fixed64,1,opt,name=n"`
		}{},
	} {
		if _, err := Of(obj); !errors.Is(err, errUnknown) {
			t.Errorf("%s: got %v, want %v", name, err, errUnknown)
		}
	}
}

func testPod() *corev1.Pod {
	pod := &corev1.Pod{}
	err := json.Unmarshal([]byte(podJSON), pod)
	if err != nil {
		panic(err)
	}
	return pod
}

const podJSON = `{"metadata":{"name":"web-7d4b9c6f5d-x2x7k","generateName":"web-7d4b9c6f5d-","namespace":"shop","uid":"0a1f6b1e-7f67-4b9b-9c7e-6a1b3f6a2b11","creationTimestamp":"2026-01-02T03:04:05Z","labels":{"app.kubernetes.io/name":"web","pod-template-hash":"7d4b9c6f5d","tier":"frontend"},"annotations":{"prometheus.io/scrape":"true"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-7d4b9c6f5d","uid":"2c1f6b1e-7f67-4b9b-9c7e-6a1b3f6a2b11","controller":true,"blockOwnerDeletion":true}],"managedFields":[{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1","time":"2026-01-02T03:04:05Z","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:generateName":{},"f:labels":{".":{},"f:tier":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:image":{},"f:name":{}}}}}}]},"spec":{"containers":[{"name":"web","image":"registry.example.com/shop/web:v2.14.3","args":["--listen=:8080"],"ports":[{"name":"http","containerPort":8080,"protocol":"TCP"}],"env":[{"name":"POD_NAME","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"metadata.name"}}}],"resources":{"limits":{"cpu":"250m","memory":"256Mi"},"requests":{"cpu":"250m","memory":"256Mi"}},"livenessProbe":{"httpGet":{"path":"/healthz","port":"http","scheme":"HTTP"},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3},"terminationMessagePath":"/dev/termination-log","imagePullPolicy":"IfNotPresent"}],"volumes":[{"name":"config","configMap":{"name":"web","defaultMode":420}}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","nodeName":"n1","securityContext":{},"schedulerName":"default-scheduler"},"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-01-02T03:04:05Z"}],"podIP":"10.42.7.19","podIPs":[{"ip":"10.42.7.19"}],"startTime":"2026-01-02T03:04:05Z"}}`

func BenchmarkPod(b *testing.B) {
	raw, err := testPod().Marshal()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("transcode", func(b *testing.B) {
		known, err := Of(&corev1.Pod{})
		if err != nil {
			b.Fatal(err)
		}
		var out []byte
		b.ReportAllocs()
		for b.Loop() {
			if out, err = known.Append(out[:0], "v1", "Pod", raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode and encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			pod := &corev1.Pod{}
			if err := pod.Unmarshal(raw); err != nil {
				b.Fatal(err)
			}
			if _, err := json.Marshal(pod); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestTheBenchmarksPodIsWhole(t *testing.T) {
	raw, err := testPod().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	known, err := Of(&corev1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := known.Append(nil, "", "", raw)
	if err != nil || !strings.Contains(string(got), `"k:{\"name\":\"web\"}"`) {
		t.Errorf("got %s, %v, want it with its managed fields", got, err)
	}
}
