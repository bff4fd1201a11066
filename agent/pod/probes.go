package pod

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/agent/runtime"
)

// probes knows how a pod's running containers fare, and keeps asking them.
type probes struct {
	mu      sync.Mutex
	running map[string]*probed // by container ID
	group   sync.WaitGroup
}

type probed struct {
	cancel    context.CancelFunc
	isStarted bool
	isReady   bool
	condemned string // the probe that failed for good: "liveness" or "startup"
}

func newProbes() *probes { return &probes{running: map[string]*probed{}} }

// started says whether a running container's startup probe, if it has one, has succeeded.
func (p *probes) started(spec *corev1.Container, run *runtime.Container) bool {
	if spec.StartupProbe == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.running[run.ID]
	return now != nil && now.isStarted
}

func (p *probes) ready(spec *corev1.Container, run *runtime.Container) bool {
	if !p.started(spec, run) {
		return false
	}
	if spec.ReadinessProbe == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.running[run.ID]
	return now != nil && now.isReady
}

// condemned names the probe a container must be stopped for, if any.
func (p *probes) condemned(run *runtime.Container) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.running[run.ID]; now != nil {
		return now.condemned
	}
	return ""
}

// question is one probe of one container, and whom to tell of its answers.
type question struct {
	kind    string // Liveness, Readiness, Startup: as events name them
	probe   *corev1.Probe
	began   time.Time
	ask     func(context.Context, *corev1.Probe) (ok bool, message string)
	settled func(ok bool, message string) // after the threshold was reached
	failed  func(message string)          // each time
}

// watch begins to ask a container, if it is not asked already. was tells how it
// was known to be before the agent restarted; changed is called without locks
// whenever an answer matters.
func (p *probes) watch(ctx context.Context, spec *corev1.Container, run *runtime.Container, wasStarted, wasReady bool,
	ask func(context.Context, *corev1.Probe) (bool, string), unhealthy func(kind, message string), changed func()) {
	if spec.StartupProbe == nil && spec.ReadinessProbe == nil && spec.LivenessProbe == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running[run.ID] != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	state := &probed{cancel: cancel, isStarted: spec.StartupProbe == nil || wasStarted, isReady: wasReady}
	p.running[run.ID] = state
	base := question{began: run.StartedAt, ask: ask}
	p.group.Go(func() {
		if spec.StartupProbe != nil && !state.isStarted {
			q := base
			q.kind, q.probe = "Startup", spec.StartupProbe
			q.failed = func(m string) { unhealthy(q.kind, m) }
			if !p.startup(ctx, q, state, changed) {
				return
			}
		}
		var both sync.WaitGroup
		defer both.Wait()
		if spec.ReadinessProbe != nil {
			q := base
			q.kind, q.probe = "Readiness", spec.ReadinessProbe
			q.failed = func(m string) { unhealthy(q.kind, m) }
			q.settled = func(ok bool, _ string) {
				p.mu.Lock()
				was := state.isReady
				state.isReady = ok
				p.mu.Unlock()
				if was != ok {
					changed()
				}
			}
			both.Go(func() { q.repeat(ctx) })
		}
		if spec.LivenessProbe != nil {
			q := base
			q.kind, q.probe = "Liveness", spec.LivenessProbe
			q.failed = func(m string) { unhealthy(q.kind, m) }
			q.settled = func(ok bool, _ string) {
				if ok {
					return
				}
				p.mu.Lock()
				state.condemned = "liveness"
				p.mu.Unlock()
				changed()
			}
			both.Go(func() { q.repeat(ctx) })
		}
	})
}

// startup asks until the container has started, or is condemned.
func (p *probes) startup(ctx context.Context, q question, state *probed, changed func()) bool {
	ctx, done := context.WithCancel(ctx)
	defer done()
	ok := false
	q.settled = func(succeeded bool, _ string) {
		ok = succeeded
		p.mu.Lock()
		if succeeded {
			state.isStarted = true
		} else {
			state.condemned = "startup"
		}
		p.mu.Unlock()
		changed()
		done()
	}
	q.repeat(ctx)
	return ok
}

// repeat asks each period until ctx ends, and settles when as many answers in a
// row are alike as the probe's threshold wants.
func (q question) repeat(ctx context.Context) {
	period := time.Duration(max(q.probe.PeriodSeconds, 1)) * time.Second
	first := time.Until(q.began.Add(time.Duration(q.probe.InitialDelaySeconds) * time.Second))
	if first <= 0 && time.Since(q.began) > period {
		// A container found after a restart of the agent: not all at once.
		first = rand.N(period)
	}
	timer := time.NewTimer(max(first, 0))
	defer timer.Stop()
	last, inARow := false, int32(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		asked := time.Now()
		limit, cancel := context.WithTimeout(ctx, time.Duration(max(q.probe.TimeoutSeconds, 1))*time.Second)
		ok, message := q.ask(limit, q.probe)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if !ok {
			q.failed(message)
		}
		if ok != last {
			inARow = 0
		}
		last = ok
		inARow++
		if ok && inARow >= max(q.probe.SuccessThreshold, 1) || !ok && inARow >= max(q.probe.FailureThreshold, 1) {
			q.settled(ok, message)
		}
		timer.Reset(max(period-time.Since(asked), 0))
	}
}

// keep stops asking all containers but these.
func (p *probes) keep(ids map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, state := range p.running {
		if !ids[id] {
			state.cancel()
			delete(p.running, id)
		}
	}
}

// end stops asking, and waits for questions that are under way.
func (p *probes) end() {
	p.keep(nil)
	p.group.Wait()
}
