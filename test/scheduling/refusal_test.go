package scheduling

import (
	"context"
	"flag"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/musterhq/muster/control/scheduler"
	"github.com/musterhq/muster/control/scheduler/configuration"
)

var files = flag.Int("files", 400, "how many random configuration files")

// starts says whether kube-scheduler would start with the file.
func starts(file []byte) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, err := ReadUpstream(file)
	if err != nil {
		return err
	}
	_, err = NewUpstream(ctx, scheduler.State{}, c.Profiles)
	return err
}

// namesField is what a refusal begins with.
var namesField = regexp.MustCompile(`^(profiles(\[\d+\]|:)|[a-zA-Z]+(\.[a-zA-Z]+|\[\d+\])*: |apiVersion "|.*unknown field "|.*duplicate field "|json: )`)

// What kube-scheduler refuses to start with is refused; what it starts with is taken,
// or the refusal names the field.
func TestRefusesAsUpstream(t *testing.T) {
	both, ours, neither := 0, 0, 0
	for seed := range uint64(*files) {
		m := &maker{Rand: rand.New(rand.NewPCG(seed, 2))}
		text := m.mutate(m.profiles().text())
		wrong := starts(text)
		_, err := configuration.Read(text)
		switch {
		case wrong == nil && err == nil:
			neither++
		case wrong != nil && err != nil:
			both++
		case wrong != nil:
			t.Errorf("%s\ntaken, want refused as upstream: %v", text, wrong)
		default:
			ours++
			for _, line := range strings.Split(err.Error(), "\n") {
				if !namesField.MatchString(line) {
					t.Errorf("%s\nrefused by %q, which names no field", text, line)
				}
			}
		}
	}
	t.Logf("%d taken by both, %d refused by both, %d by ours alone", neither, both, ours)
	if least := *files / 10; neither < least || both < least {
		t.Error("too few of either to have tested anything")
	}
}

// What is refused though kube-scheduler takes it, and what only looks as if it had to be.
func TestWhereRefusalsDiffer(t *testing.T) {
	const profile = "profiles: [{schedulerName: p, "
	for body, want := range map[string]string{
		// Taken by both: how upstream merges, and what it does not look at.
		"profiles: [{}]": "",
		profile + "plugins: {multiPoint: {disabled: [{name: GangScheduling}, {name: NodePorts}], enabled: [{name: NodePorts}]}}}]":                                  "",
		profile + "plugins: {score: {enabled: [{name: ImageLocality, weight: 0}, {name: TaintToleration}], disabled: [{name: ImageLocality}]}}}]":                   "",
		profile + "plugins: {score: {enabled: [{name: ImageLocality, weight: 2147483647}]}}}]":                                                                      "",
		profile + "pluginConfig: [{name: NodeResourcesFit, args: {}}]}]":                                                                                            "",
		profile + "pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: LeastAllocated, resources: [{name: cpu}, {name: cpu, weight: 100}]}}}]}]": "",
		profile + "pluginConfig: [{name: NodeResourcesFit, args: {ignoredResourceGroups: [hugepages-2Mi]}}]}]":                                                      "",
		profile + "pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List}}]}]":                                                                       "",
		profile + "pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}}]}]":                            "",
		profile + "pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 0}}]}]":                                                                    "",
		profile + "pluginConfig: [{name: DefaultPreemption, args: {minCandidateNodesPercentage: 0}}]}]":                                                             "",
		// Refused by ours alone, by the name of the field.
		"profiles: []": "profiles: ",
		profile + "plugins: {multiPoint: {disabled: [{name: VolumeBinding}]}}}]":                "profiles[0].plugins.filter: ",
		profile + "plugins: {multiPoint: {disabled: [{name: Coscheduling}]}}}]":                 "profiles[0].plugins.multiPoint.disabled[0].name: ",
		profile + "pluginConfig: [{name: VolumeBinding, args: {bindTimeoutSeconds: 0}}]}]":      "profiles[0].pluginConfig[0].args.bindTimeoutSeconds: ",
		profile + "pluginConfig: [{name: DynamicResources, args: {filterTimeout: 1s}}]}]":       "profiles[0].pluginConfig[0].name: ",
		profile + "pluginConfig: [{name: NodeResourcesFit, args: {ignoredResources: [cpu]}}]}]": "profiles[0].pluginConfig[0].args.ignoredResources[0]: ",
		"profiles: [{schedulerName: A_b}]":                                                      "profiles[0].schedulerName: ",
		"parallelism: 8\nprofiles: [{}]":                                                        "parallelism: ",
		"extenders: [{urlPrefix: 'http://x', filterVerb: f}]\nprofiles: [{}]":                   "extenders: ",
	} {
		text := []byte("apiVersion: " + configuration.APIVersion + "\nkind: " + configuration.Kind + "\n" + body)
		if err := starts(text); err != nil {
			t.Errorf("%s\nupstream refuses: %v", body, err)
		}
		switch _, err := configuration.Read(text); {
		case err == nil && want != "":
			t.Errorf("%s\ntaken, want a refusal of %s", body, want)
		case err != nil && (want == "" || !strings.Contains(err.Error(), want)):
			t.Errorf("%s\ngot %v\nwant %q", body, err, want)
		}
	}
}
