package audit

import (
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	upstream "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, policy string, change ...func(*Config)) (*Log, string) {
	t.Helper()
	dir := t.TempDir()
	cfg := Config{PolicyFile: filepath.Join(dir, "policy.yaml"), Path: filepath.Join(dir, "log", "audit.log")}
	if err := os.WriteFile(cfg.PolicyFile, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\n"+policy), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(&cfg)
	}
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, cfg.Path
}

func events(t *testing.T, path string) []auditv1.Event {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []auditv1.Event
	for line := range strings.Lines(string(text)) {
		var e auditv1.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in line %.200s", err, line)
		}
		all = append(all, e)
	}
	return all
}

func wants(verb, resource, namespace string) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: "alice", Groups: []string{"dev"}}, Verb: verb, Resource: resource, Namespace: namespace, Name: "x",
		APIVersion: "v1", ResourceRequest: true,
	}
}

func secret() *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "x", UID: "u-1", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}},
		Data:       map[string][]byte{"password": []byte("hunter2")},
	}
}

func ask(l *Log, wants authorizer.AttributesRecord) {
	e := l.Begin(httptest.NewRequest("POST", "/api/v1/namespaces/default/secrets?x=y", nil), "id-1", wants, time.Now())
	e.Decided(true, "because")
	e.Sent(secret(), corev1.SchemeGroupVersion.WithKind("Secret"))
	e.Answered(secret(), corev1.SchemeGroupVersion.WithKind("Secret"))
	e.Ended(201)
}

func TestThePolicySaysHowMuchIsWritten(t *testing.T) {
	l, path := open(t, `
omitStages: [RequestReceived]
rules:
- level: None
  users: [robot]
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
- level: Request
  resources: [{group: "", resources: [configmaps]}]
- level: RequestResponse
  verbs: [create]
  omitManagedFields: true
  resources: [{group: "", resources: [pods]}]
`)
	robot := wants("create", "secrets", "default")
	robot.User = &user.DefaultInfo{Name: "robot"}
	for _, request := range []authorizer.AttributesRecord{
		wants("create", "secrets", "default"), robot, wants("create", "configmaps", "default"), wants("create", "pods", "default"), wants("get", "nodes", ""),
	} {
		ask(l, request)
	}
	got := events(t, path)
	if len(got) != 3 {
		t.Fatalf("%d events, want 3: of secrets, config maps and pods", len(got))
	}
	meta, request, all := got[0], got[1], got[2]
	if meta.Level != "Metadata" || meta.Stage != "ResponseComplete" || meta.Verb != "create" || meta.AuditID != "id-1" || meta.User.Username != "alice" ||
		meta.ResponseStatus.Code != 201 || meta.RequestURI != "/api/v1/namespaces/default/secrets?x=y" || meta.Kind != "Event" ||
		meta.ObjectRef.Resource != "secrets" || meta.ObjectRef.UID != "u-1" || meta.Annotations["authorization.k8s.io/decision"] != "allow" {
		t.Errorf("event %+v", meta)
	}
	if meta.RequestObject != nil || meta.ResponseObject != nil {
		t.Errorf("at Metadata: objects %v and %v, want none", meta.RequestObject, meta.ResponseObject)
	}
	if request.RequestObject == nil || request.ResponseObject != nil {
		t.Errorf("at Request: objects %v and %v, want the first", request.RequestObject, request.ResponseObject)
	}
	if all.RequestObject == nil || all.ResponseObject == nil || !strings.Contains(string(all.ResponseObject.Raw), `"kind":"Secret"`) {
		t.Errorf("at RequestResponse: objects %v and %v, want both", all.RequestObject, all.ResponseObject)
	}
	if strings.Contains(string(all.RequestObject.Raw), "managedFields") || !strings.Contains(string(request.RequestObject.Raw), "managedFields") {
		t.Errorf("managedFields are left out where the rule says so alone: %s, %s", all.RequestObject.Raw, request.RequestObject.Raw)
	}
}

func TestSecretsAreNeverWrittenAtMetadata(t *testing.T) {
	l, path := open(t, "rules: [{level: Metadata}]")
	ask(l, wants("create", "secrets", "default"))
	e := l.Begin(httptest.NewRequest("PATCH", "/x", nil), "id", wants("patch", "secrets", "default"), time.Now())
	e.SentPatch([]byte(`{"data":{"password":"hunter2"}}`))
	e.Ended(200)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"hunter2", "aHVudGVyMg"} {
		if strings.Contains(string(text), s) {
			t.Errorf("the log holds %q: %s", s, text)
		}
	}
	if n := len(events(t, path)); n != 4 {
		t.Errorf("%d events, want two stages of two requests", n)
	}
}

func TestStagesOfWhatLastsAndWhatFails(t *testing.T) {
	l, path := open(t, "rules: [{level: RequestResponse}]")
	request := httptest.NewRequest("GET", "/x", nil)
	watch := l.Begin(request, "watch", wants("watch", "pods", ""), time.Now())
	watch.Began(200)
	watch.Ended(200)
	failed := l.Begin(request, "failed", wants("get", "pods", ""), time.Now())
	failed.Answered(&metav1.Status{Status: "Failure", Reason: "NotFound", Message: "gone", Code: 404}, metav1.SchemeGroupVersion.WithKind("Status"))
	failed.Panicked(500, "oh")
	patch := l.Begin(request, "patch", wants("patch", "pods", ""), time.Now())
	patch.SentPatch([]byte("spec: {a: 1}"))
	patch.Impersonated(&user.DefaultInfo{Name: "bob"})
	patch.Ended(200)
	var got []string
	for _, e := range events(t, path) {
		got = append(got, string(e.AuditID)+" "+string(e.Stage))
		if e.AuditID == "patch" && e.Stage == "ResponseComplete" && (e.RequestObject == nil || string(e.RequestObject.Raw) != `{"spec":{"a":1}}` || e.ImpersonatedUser.Username != "bob") {
			t.Errorf("a patch in YAML as bob: %+v", e)
		}
	}
	want := []string{"watch RequestReceived", "watch ResponseStarted", "watch ResponseComplete", "failed RequestReceived", "failed Panic", "patch RequestReceived", "patch ResponseComplete"}
	if !slices.Equal(got, want) {
		t.Errorf("stages %q, want %q", got, want)
	}
}

func TestAnObjectThatIsTooLargeIsLeftOut(t *testing.T) {
	l, path := open(t, "rules: [{level: Request}]")
	e := l.Begin(httptest.NewRequest("POST", "/x", nil), "id", wants("create", "configmaps", "a"), time.Now())
	e.Sent(&corev1.ConfigMap{Data: map[string]string{"a": strings.Repeat("x", objectMax)}}, corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	e.Ended(201)
	last := events(t, path)[1]
	if last.RequestObject != nil || last.Annotations["audit.k8s.io/truncated"] != "true" {
		t.Errorf("object of %d bytes, annotations %v; want none and a note", len(last.RequestObject.Raw), last.Annotations)
	}
}

func TestNobodyHasToAsk(t *testing.T) {
	var e *Event
	e.Decided(true, "")
	e.Sent(secret(), corev1.SchemeGroupVersion.WithKind("Secret"))
	e.SentPatch(nil)
	e.Answered(secret(), corev1.SchemeGroupVersion.WithKind("Secret"))
	e.Began(200)
	e.Ended(200)
	e.Panicked(500, "")
	e.Impersonated(nil)
	if e.WantsAnswer() || From(With(t.Context(), e)) != nil {
		t.Error("a nil event wants something")
	}
}

func TestLogsAreSetAsideWholeLineByLine(t *testing.T) {
	dir := t.TempDir()
	clock := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &rotated{path: filepath.Join(dir, "audit.log"), maxBytes: 10, maxBackups: 2, maxAge: time.Hour, now: func() time.Time { return clock }}
	if err := os.WriteFile(filepath.Join(dir, "audit-mine.log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	write := func(line string) {
		t.Helper()
		clock = clock.Add(time.Minute)
		if _, err := r.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{"one\n", "two\n", "three\n", "more than ten bytes\n", "five\n", "six\n"} {
		write(line)
	}
	files := func() map[string]string {
		all := map[string]string{}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			all[e.Name()] = string(text)
		}
		return all
	}
	got := files()
	want := map[string]string{
		"audit.log": "five\nsix\n", "audit-2026-01-02T03-08-05.000000000.log": "three\n",
		"audit-2026-01-02T03-09-05.000000000.log": "more than ten bytes\n", "audit-mine.log": "",
	}
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s holds %q, want %q", name, got[name], text)
		}
	}
	if len(got) != len(want) {
		t.Errorf("files %v, want two set aside and what is not the log's", got)
	}
	clock = clock.Add(2 * time.Hour)
	write("later\n")
	write("later still\n")
	if got := files(); len(got) != 4 || got["audit-2026-01-02T03-09-05.000000000.log"] != "" {
		t.Errorf("files %v after two hours, want the old ones gone", got)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// broken takes nothing.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }
func (broken) Close() error              { return nil }

func TestALogThatTakesNothingIsCounted(t *testing.T) {
	metrics := prometheus.NewRegistry()
	l, _ := open(t, "rules: [{level: Metadata}]", func(c *Config) { c.Registerer = metrics })
	_ = l.out.Close()
	l.out = broken{}
	ask(l, wants("get", "pods", ""))
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if got := family.GetMetric()[0].GetCounter().GetValue(); family.GetName() == "apiserver_audit_error_total" && got != 2 {
			t.Errorf("%v events lost, want 2", got)
		}
	}
}

func TestManyAtOnceWriteWholeLines(t *testing.T) {
	l, path := open(t, "omitStages: [RequestReceived]\nrules: [{level: Request}]", func(c *Config) { c.MaxSize = 1 })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 50 {
				ask(l, wants("create", "pods", "default"))
			}
		})
	}
	wg.Wait()
	if got := len(events(t, path)); got != 1000 {
		t.Errorf("%d events, want 1000", got)
	}
}

func TestAPolicyAndAPathAreBothNeeded(t *testing.T) {
	for _, cfg := range []Config{{PolicyFile: "p"}, {Path: "-"}, {PolicyFile: "/does/not/exist", Path: "-"}} {
		if _, err := Open(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// Hooks and upstream's libraries know nothing of this package: they leave what
// they have to say with the request, from several goroutines.
func TestWhatLibrariesSayOfARequestIsWrittenDown(t *testing.T) {
	l, path := open(t, "rules: [{level: Metadata}]\nomitStages: [RequestReceived]\n")
	r := httptest.NewRequest("POST", "/api/v1/namespaces/default/pods", nil)
	e := l.Begin(r, "1", wants("create", "pods", "default"), time.Now())
	ctx := With(r.Context(), e)
	e.Decided(true, "because")
	var said sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		said.Go(func() { upstream.AddAuditAnnotation(ctx, name+".example.org/seen", "yes") })
	}
	said.Wait()
	if got := upstream.AuditContextFrom(ctx).GetEventLevel(); got != "Metadata" {
		t.Errorf("libraries are told of the level %q", got)
	}
	e.Ended(201)
	got := events(t, path)[0].Annotations
	for key, want := range map[string]string{
		"a.example.org/seen": "yes", "b.example.org/seen": "yes", "c.example.org/seen": "yes", "authorization.k8s.io/decision": "allow",
	} {
		if got[key] != want {
			t.Errorf("annotation %s is %q, want %q", key, got[key], want)
		}
	}
}
