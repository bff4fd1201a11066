// Package audit writes down who asked for what and how it was answered, as the
// policy says: upstream's audit.k8s.io/v1, one JSON object on each line of a
// file. The API server tells it what happens to a request; what a policy means
// is upstream's evaluator's business.
//
// A stage of a request is in the file before the request goes on. The file is
// written directly, so nothing is buffered that a crash could lose, and a disk
// that is slow slows requests down. One that takes nothing does not stop them:
// the loss is counted and logged.
package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	upstream "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Config says what is written where.
type Config struct {
	// PolicyFile holds an audit.k8s.io/v1 Policy.
	PolicyFile string
	// Path of the log; "-" is standard output.
	Path string
	// MaxSize is how many megabytes the file grows to before it is set aside, 0:
	// 100. MaxBackups is how many files that were set aside are kept, MaxAge for
	// how many days; 0: all, for ever.
	MaxSize, MaxBackups, MaxAge int
	Logger                      *slog.Logger
	Registerer                  prometheus.Registerer
}

// Enabled says whether anything is to be written.
func (c Config) Enabled() bool { return c.PolicyFile != "" || c.Path != "" }

// Log is where events go. It may be used from any goroutine.
type Log struct {
	policy  upstream.PolicyRuleEvaluator
	log     *slog.Logger
	written prometheus.Counter
	lost    prometheus.Counter

	mu       sync.Mutex
	out      io.WriteCloser
	lastLoss time.Time
}

// Open reads the policy and opens the file. Close must be called.
func Open(cfg Config) (*Log, error) {
	if cfg.PolicyFile == "" || cfg.Path == "" {
		return nil, errors.New("audit: give both a policy and a path: without a policy nothing is written, without a path nowhere")
	}
	rules, err := policy.LoadPolicyFromFile(cfg.PolicyFile)
	if err != nil {
		return nil, fmt.Errorf("audit policy: %w", err)
	}
	l := &Log{
		policy: policy.NewPolicyRuleEvaluator(rules), log: cfg.Logger,
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "apiserver_audit_event_total", Help: "Counter of audit events generated and sent to the audit backend.",
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "apiserver_audit_error_total", Help: "Counter of audit events that could not be written.",
		}),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Registerer != nil {
		for _, c := range []prometheus.Collector{l.written, l.lost} {
			if err := cfg.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("audit metrics: %w", err)
			}
		}
	}
	if cfg.Path == "-" {
		l.out = keepOpen{os.Stdout}
		return l, nil
	}
	l.out, err = openRotated(cfg)
	return l, err
}

type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// Close closes the file. Nothing may be written afterwards.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Close()
}

// Begin is called for every request once it is known who sends it, who is nil if
// nobody can be told, and what it wants. It returns nil when the policy does not
// want the request written down; all methods of a nil Event do nothing.
func (l *Log) Begin(r *http.Request, id string, wants authorizer.AttributesRecord, received time.Time) *Event {
	how := l.policy.EvaluatePolicyRule(&wants)
	if how.Level == auditinternal.LevelNone {
		return nil
	}
	e := &Event{log: l, how: how, entry: auditv1.Event{
		TypeMeta:                 metav1.TypeMeta{Kind: "Event", APIVersion: auditv1.SchemeGroupVersion.String()},
		Level:                    auditv1.Level(how.Level),
		AuditID:                  types.UID(id),
		RequestURI:               r.URL.RequestURI(),
		Verb:                     wants.Verb,
		UserAgent:                shortened(r.UserAgent()),
		RequestReceivedTimestamp: metav1.NewMicroTime(received),
	}}
	if wants.User != nil {
		e.entry.User = info(wants.User)
	}
	for _, ip := range utilnet.SourceIPs(r) {
		e.entry.SourceIPs = append(e.entry.SourceIPs, ip.String())
	}
	if wants.ResourceRequest {
		e.entry.ObjectRef = &auditv1.ObjectReference{
			Namespace: wants.Namespace, Name: wants.Name, Resource: wants.Resource, Subresource: wants.Subresource,
			APIGroup: wants.APIGroup, APIVersion: wants.APIVersion,
		}
	}
	e.write(auditinternal.StageRequestReceived)
	return e
}

func info(u user.Info) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for key, values := range u.GetExtra() {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[key] = values
	}
	return out
}

// shortened bounds what a client says of itself.
func shortened(agent string) string {
	const most = 1024
	if len(agent) > most {
		return agent[:most] + "...TRUNCATED"
	}
	return agent
}

// put writes one event.
func (l *Log) put(entry *auditv1.Event) {
	line, err := json.Marshal(entry)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		_, err = l.out.Write(append(line, '\n'))
	}
	if err == nil {
		l.written.Inc()
		return
	}
	l.lost.Inc()
	if now := time.Now(); now.Sub(l.lastLoss) > time.Minute {
		l.lastLoss = now
		l.log.Error("audit events are being lost", "error", err)
	}
}
