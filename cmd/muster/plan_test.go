package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestDifferenceNamesFields(t *testing.T) {
	read := func(text string) (object map[string]any) {
		t.Helper()
		if err := yaml.Unmarshal([]byte(text), &object); err != nil {
			t.Fatal(err)
		}
		return object
	}
	for _, test := range []struct {
		name, before, after, want string
	}{
		{"nothing", "{a: 1, b: {c: [1, {d: 2}]}}", "{b: {c: [1, {d: 2}]}, a: 1}", ""},
		{"a value", "{spec: {replicas: 2}}", "{spec: {replicas: 3}}", "~ spec.replicas: 2 → 3"},
		{"comes and goes", "{a: {x: 1}}", "{a: {z: [1]}}", "- a.x: 1|+ a.z: [1]"},
		{"items by name, in any order", "{c: [{name: x, image: a}, {name: z}]}", "{c: [{name: z}, {name: x, image: b}]}", `~ c[x].image: "a" → "b"`},
		{"an item", "{c: [{name: x}]}", "{c: [{name: x}, {name: z, p: 1}]}", `+ c[z]: {"name":"z","p":1}`},
		{"items by place", "{l: [1, 2]}", "{l: [1, 3, 4]}", "~ l[1]: 2 → 3|+ l[2]: 4"},
		{"names that are there twice", "{l: [{name: a, v: 1}, {name: a, v: 2}]}", "{l: [{name: a, v: 1}, {name: a, v: 3}]}", "~ l[1].v: 2 → 3"},
		{"keys with dots", "{m: {a.b/c: x}}", "{m: {a.b/c: z}}", `~ m[a.b/c]: "x" → "z"`},
		{"another kind of thing", "{a: 1}", "{a: {b: 1}}", `~ a: 1 → {"b":1}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var lines []string
			for _, change := range difference("", read(test.before), read(test.after)) {
				lines = append(lines, change.String())
			}
			if got := strings.Join(lines, "|"); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestPlanPrints(t *testing.T) {
	p := &plan{Revision: 7, Changes: true, Objects: []plannedObject{
		{Kind: "Deployment", Namespace: "shop", Name: "web", Action: "change", Fields: []fieldChange{{"spec.replicas", 2, 5}}, Pods: &plannedPods{
			Present: 2, Placed: map[string]uint32{"n2": 1, "n1": 1}, Waiting: 1, Why: "no room", Evicted: []explainedVictim{{"a", "low", -1}},
		}},
		{Kind: "StatefulSet", Namespace: "shop", Name: "db", Action: "change", Pods: &plannedPods{
			Present: 2, Leaving: 1, Waiting: 1, Why: "too large", Unmade: 1,
			Rollout: &plannedRollout{Replaced: 3, Unavailable: 1, Late: 1, WhyLate: "no room", Left: 2}, Notes: []string{"a note"},
		}},
		{Kind: "ClusterRole", Name: "r", Action: "none"},
	}}
	var out bytes.Buffer
	if err := p.print(&out); err != nil {
		t.Fatal(err)
	}
	want := `~ Deployment shop/web
    ~ spec.replicas: 2 → 5
    pods: 2 stay, 0 go, 3 come: 1 on n1, 1 on n2
    1 of them would wait: no room
    evicted for them: a/low (priority -1)
~ StatefulSet shop/db
    pods: 2 stay, 1 go, 2 come
    a note
    rollout: 3 replaced, at most 0 too many and 1 too few at a time
    1 of them would wait until others have gone: no room
    1 of them would wait: too large
    1 of them would not be made before that
    the rollout would stop: 2 of 3 old pods stay
  ClusterRole r

0 to create, 2 to change, 1 as they are
to apply just this: muster apply --check-revision 7 -f ...
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// Scripts tell "something would change" from "it can't be said" by the status.
func TestPlanWithoutFilesEndsWithStatus2(t *testing.T) {
	l := newLab(t, 1)
	_, _, err := l.muster("", "plan")
	var status exitStatus
	if !errors.As(err, &status) || status.code != planFailed || !strings.Contains(fmt.Sprint(err), "-f") {
		t.Errorf("got %v, want status 2 and what is missing", err)
	}
}

// A kind that nobody serves yet is waited for only if the files define it.
func TestFilesMayDefineKinds(t *testing.T) {
	read := func(text string) *manifest {
		t.Helper()
		given := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &given.Object); err != nil {
			t.Fatal(err)
		}
		return &manifest{given: given}
	}
	files := []*manifest{
		read("{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, spec: {group: sea.example.org, names: {kind: Boat}}}"),
		read("{apiVersion: v1, kind: ConfigMap}"),
	}
	for text, want := range map[string]bool{
		"{apiVersion: sea.example.org/v1, kind: Boat}": true, "{apiVersion: sea.example.org/v1, kind: Ship}": false, "{apiVersion: v1, kind: Boat}": false,
	} {
		if got := defined(files, read(text)); got != want {
			t.Errorf("%s: defined %t, want %t", text, got, want)
		}
	}
}
