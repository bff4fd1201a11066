package resource

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// runningPod is one that serves, and is covered by budgets that select app=x.
func runningPod(t testing.TB, r *Registry, name string, ready corev1.ConditionStatus) {
	t.Helper()
	pod := newPod(name)
	pod.Labels = map[string]string{"app": "x"}
	pod.Spec.NodeName = "n1"
	must(t, r, Pods, "default", pod)
	change(t, r, Pods, "default", name, "status", func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: ready})
	})
}

// budget is one that its controller has seen, with so many disruptions left.
func budget(t testing.TB, r *Registry, name string, allowed int32, adjust ...func(*policyv1.PodDisruptionBudget)) {
	t.Helper()
	b := examples()[PodDisruptionBudgets].(*policyv1.PodDisruptionBudget)
	b.Name = name
	for _, f := range adjust {
		f(b)
	}
	status := b.Status
	must(t, r, PodDisruptionBudgets, "default", b)
	change(t, r, PodDisruptionBudgets, "default", name, "status", func(b *policyv1.PodDisruptionBudget) {
		b.Status = status
		b.Status.DisruptionsAllowed = allowed
		if status.ObservedGeneration == 0 {
			b.Status.ObservedGeneration = b.Generation
		}
	})
}

func evict(ctx context.Context, r *Registry, name string, options ...metav1.DeleteOptions) error {
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for i := range options {
		eviction.DeleteOptions = &options[i]
	}
	return r.Evict(ctx, "default", name, eviction, CreateOptions{})
}

func TestEvictionAsksTheBudget(t *testing.T) {
	type PDB = policyv1.PodDisruptionBudget
	healthy := func(current, desired int32) func(*PDB) {
		return func(b *PDB) { b.Status.CurrentHealthy, b.Status.DesiredHealthy = current, desired }
	}
	for _, test := range []struct {
		name    string
		ready   corev1.ConditionStatus
		prepare func(*testing.T, *Registry)
		code    int32  // 0: evicted
		cause   string // of the refusal
		left    int32  // of budget b
	}{
		{name: "no budget", ready: "True", prepare: func(*testing.T, *Registry) {}},
		{name: "another's budget", ready: "True", prepare: func(t *testing.T, r *Registry) {
			budget(t, r, "b", 0, func(b *PDB) { b.Spec.Selector.MatchLabels["app"] = "y" })
		}},
		{name: "one left", ready: "True", prepare: func(t *testing.T, r *Registry) { budget(t, r, "b", 1) }},
		{name: "two left", ready: "True", prepare: func(t *testing.T, r *Registry) { budget(t, r, "b", 2) }, left: 1},
		{
			name: "used up", ready: "True", prepare: func(t *testing.T, r *Registry) { budget(t, r, "b", 0, healthy(1, 2)) },
			code: 429, cause: "The disruption budget b needs 2 healthy pods and has 1 currently",
		},
		{
			name: "used up by others", ready: "True", prepare: func(t *testing.T, r *Registry) { budget(t, r, "b", 0, healthy(3, 2)) },
			code: 429, cause: "The disruption budget b does not allow evicting pods currently",
		},
		{
			name: "not counted yet", ready: "True",
			prepare: func(t *testing.T, r *Registry) {
				budget(t, r, "b", 1)
				change(t, r, PodDisruptionBudgets, "default", "b", "", func(b *PDB) {
					b.Spec.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpExists}}
				})
			},
			code: 429, cause: "The disruption budget b is still being processed by the server.", left: 1,
		},
		{
			name: "two budgets", ready: "True", prepare: func(t *testing.T, r *Registry) { budget(t, r, "b", 5); budget(t, r, "c", 5) },
			code: 500, left: 5,
		},
		{
			name: "not ready, and enough others are", ready: "False",
			prepare: func(t *testing.T, r *Registry) { budget(t, r, "b", 0, healthy(2, 2)) },
		},
		{
			name: "not ready, and too few others are", ready: "False",
			prepare: func(t *testing.T, r *Registry) { budget(t, r, "b", 0, healthy(1, 2)) },
			code:    429, cause: "The disruption budget b needs 2 healthy pods and has 1 currently",
		},
		{
			name: "not ready, and always allowed", ready: "False",
			prepare: func(t *testing.T, r *Registry) {
				budget(t, r, "b", 0, healthy(1, 2), func(b *PDB) { b.Spec.UnhealthyPodEvictionPolicy = new(policyv1.AlwaysAllow) })
			},
		},
		{
			name: "has ended", ready: "False",
			prepare: func(t *testing.T, r *Registry) {
				budget(t, r, "b", 0)
				change(t, r, Pods, "default", "web", "status", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRegistry(t)
			runningPod(t, r, "web", test.ready)
			test.prepare(t, r)
			err := evict(t.Context(), r, "web")
			pod := stored[*corev1.Pod](t, r, Pods, "default", "web")
			if test.code == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if pod != nil && (pod.DeletionTimestamp == nil || !disrupted(pod)) {
					t.Errorf("pod %+v, want it on its way out, and saying why", pod)
				}
			} else {
				status, ok := err.(apierrors.APIStatus)
				if !ok || status.Status().Code != test.code {
					t.Fatalf("error %v, want %d", err, test.code)
				}
				if test.cause != "" {
					if c := status.Status().Details.Causes; len(c) != 1 || c[0].Type != policyv1.DisruptionBudgetCause || c[0].Message != test.cause {
						t.Errorf("causes %+v, want %q", c, test.cause)
					}
				}
				if pod == nil || pod.DeletionTimestamp != nil || disrupted(pod) {
					t.Errorf("pod %+v after a refusal, want it untouched", pod)
				}
			}
			b := stored[*PDB](t, r, PodDisruptionBudgets, "default", "b")
			if b != nil && b.Status.DisruptionsAllowed != test.left {
				t.Errorf("%d disruptions left, want %d", b.Status.DisruptionsAllowed, test.left)
			}
		})
	}
}

func disrupted(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == "EvictionByEvictionAPI" {
			return true
		}
	}
	return false
}

// Many pods are evicted at once under a budget of three. What could go wrong:
// two evictions spend the same disruption, or one is spent and no pod goes. The
// log takes its time, so that all look before the first of them has written.
func TestEvictionsTakeNoMoreThanTheBudget(t *testing.T) {
	synctest.Test(t, evictionsTakeNoMoreThanTheBudget)
}

func evictionsTakeNoMoreThanTheBudget(t *testing.T) {
	const pods, allowed = 12, 3
	_, log, machine := storetest.Open(t)
	r := New(store.New(slowLog{log}, machine), AdmitAll{})
	for i := range pods {
		runningPod(t, r, fmt.Sprint("web-", i), "True")
	}
	budget(t, r, "b", allowed)
	var (
		wait    sync.WaitGroup
		mu      sync.Mutex
		evicted int
	)
	for i := range pods {
		wait.Go(func() {
			err := evict(t.Context(), r, fmt.Sprint("web-", i))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				evicted++
			case !apierrors.IsTooManyRequests(err):
				t.Errorf("web-%d: %v, want it evicted or asked to wait", i, err)
			}
		})
	}
	wait.Wait()
	going := 0
	for i := range pods {
		if pod := stored[*corev1.Pod](t, r, Pods, "default", fmt.Sprint("web-", i)); pod.DeletionTimestamp != nil {
			going++
		}
	}
	b := stored[*policyv1.PodDisruptionBudget](t, r, PodDisruptionBudgets, "default", "b")
	if evicted != allowed || going != allowed || b.Status.DisruptionsAllowed != 0 || len(b.Status.DisruptedPods) != allowed {
		t.Errorf("%d evicted, %d going, %d left, %d noted; want %d, %d, 0, %d",
			evicted, going, b.Status.DisruptionsAllowed, len(b.Status.DisruptedPods), allowed, allowed, allowed)
	}
}

type slowLog struct{ *storetest.Log }

func (l slowLog) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	time.Sleep(time.Millisecond)
	return l.Log.Propose(ctx, cmd)
}

// The write is lost on its way: nothing is spent, and the client learns of it.
func TestAnEvictionThatFailsSpendsNothing(t *testing.T) {
	s, log, _ := storetest.Open(t)
	r := New(s, AdmitAll{})
	runningPod(t, r, "web", "True")
	budget(t, r, "b", 1)
	log.Refuse(errors.New("no quorum"))
	if err := evict(t.Context(), r, "web"); err == nil {
		t.Error("evicted without a log")
	}
	log.Refuse(nil)
	b := stored[*policyv1.PodDisruptionBudget](t, r, PodDisruptionBudgets, "default", "b")
	pod := stored[*corev1.Pod](t, r, Pods, "default", "web")
	if b.Status.DisruptionsAllowed != 1 || pod.DeletionTimestamp != nil {
		t.Errorf("%d disruptions left, pod deleted at %v; want 1 and never", b.Status.DisruptionsAllowed, pod.DeletionTimestamp)
	}
}

func TestEvictionsHonourTheirOptions(t *testing.T) {
	r := newRegistry(t)
	runningPod(t, r, "web", "True")
	budget(t, r, "b", 1)
	untouched := func(what string) {
		t.Helper()
		b := stored[*policyv1.PodDisruptionBudget](t, r, PodDisruptionBudgets, "default", "b")
		if pod := stored[*corev1.Pod](t, r, Pods, "default", "web"); pod.DeletionTimestamp != nil || b.Status.DisruptionsAllowed != 1 {
			t.Errorf("%s: pod deleted at %v, %d left; want nothing changed", what, pod.DeletionTimestamp, b.Status.DisruptionsAllowed)
		}
	}
	if err := evict(t.Context(), r, "web", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Errorf("dry run: %v", err)
	}
	untouched("dry run")
	if err := evict(t.Context(), r, "web", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("other")}); !apierrors.IsConflict(err) {
		t.Errorf("another uid: %v, want a conflict", err)
	}
	old := "1"
	if err := evict(t.Context(), r, "web", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &old}}); !apierrors.IsConflict(err) {
		t.Errorf("another version: %v, want a conflict", err)
	}
	if err := r.Evict(t.Context(), "default", "web", &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, CreateOptions{}); !apierrors.IsBadRequest(err) {
		t.Errorf("another name: %v, want a bad request", err)
	}
	if err := evict(t.Context(), r, "none"); !apierrors.IsNotFound(err) {
		t.Errorf("no such pod: %v, want it not found", err)
	}
	unsafe := metav1.DeleteOptions{IgnoreStoreReadErrorWithClusterBreakingPotential: new(true)}
	if err := evict(t.Context(), r, "web", unsafe); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "can not be set for pod eviction") {
		t.Errorf("unsafe: %v, want it refused", err)
	}
	untouched("refusals")
	if err := evict(t.Context(), r, "web", *metav1.NewDeleteOptions(7)); err != nil {
		t.Fatal(err)
	}
	if pod := stored[*corev1.Pod](t, r, Pods, "default", "web"); *pod.DeletionGracePeriodSeconds != 7 {
		t.Errorf("grace %d, want the 7 that were asked for", *pod.DeletionGracePeriodSeconds)
	}
}
