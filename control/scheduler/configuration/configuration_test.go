package configuration

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

func one(t *testing.T, body string) Profile {
	t.Helper()
	profiles, err := Read([]byte(head + "profiles:\n- schedulerName: p\n" + body))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(profiles, func(p Profile) bool { return p.SchedulerName == "p" })
	return profiles[i]
}

func TestDefaultSchedulerIsAlwaysThere(t *testing.T) {
	profiles, err := Read([]byte(head + "profiles:\n- schedulerName: zzz\n- schedulerName: aaa\n"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range profiles {
		names = append(names, p.SchedulerName)
		if d := p.Differences(); len(d) > 0 {
			t.Errorf("%s differs: %q, want nothing", p.SchedulerName, d)
		}
	}
	if want := []string{"aaa", corev1.DefaultSchedulerName, "zzz"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

func TestPluginsAsUpstreamHasThem(t *testing.T) {
	all := Standard("p")
	without := func(name string) []string {
		return slices.DeleteFunc(slices.Clone(all.Filters), func(s string) bool { return s == name })
	}
	for name, c := range map[string]struct {
		body    string
		filters []string
		scores  []Score
	}{
		"nothing said":   {"", all.Filters, all.Scores},
		"off everywhere": {"  plugins: {multiPoint: {disabled: [{name: NodePorts}]}}", without("NodePorts"), all.Scores},
		"off at a point": {"  plugins: {filter: {disabled: [{name: NodePorts}]}}", without("NodePorts"), all.Scores},
		"a point names its scores alone, and gives no weight": {
			"  plugins: {score: {disabled: [{name: '*'}], enabled: [{name: ImageLocality, weight: 7}, {name: TaintToleration}]}}", all.Filters,
			[]Score{{"ImageLocality", 7}, {"TaintToleration", 1}},
		},
		"a weight at a point comes first and counts more than multiPoint": {
			"  plugins: {multiPoint: {enabled: [{name: ImageLocality, weight: 5}]}, score: {enabled: [{name: ImageLocality, weight: 7}]}}", all.Filters,
			append([]Score{{"ImageLocality", 7}}, all.Scores[:len(all.Scores)-1]...),
		},
		"multiPoint changes a weight in its place": {
			"  plugins: {multiPoint: {enabled: [{name: ImageLocality, weight: 5}]}}", all.Filters,
			append(slices.Clone(all.Scores[:len(all.Scores)-1]), Score{"ImageLocality", 5}),
		},
		"multiPoint has only what it names": {
			"  plugins: {multiPoint: {disabled: [{name: '*'}], enabled: [{name: SchedulingGates}, {name: PrioritySort}, {name: DefaultBinder}, {name: VolumeBinding}, {name: DynamicResources}, {name: NodeResourcesFit, weight: 4}, {name: NodeName}]}}",
			[]string{"VolumeBinding", "DynamicResources", "NodeResourcesFit", "NodeName"}, []Score{{"VolumeBinding", 1}, {"NodeResourcesFit", 4}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := one(t, c.body)
			if !slices.Equal(p.Filters, c.filters) {
				t.Errorf("filters %q, want %q", p.Filters, c.filters)
			}
			if !reflect.DeepEqual(p.Scores, c.scores) {
				t.Errorf("scores %v, want %v", p.Scores, c.scores)
			}
		})
	}
}

func TestSaysWhatDiffers(t *testing.T) {
	p := one(t, `
  percentageOfNodesToScore: 50
  plugins:
    multiPoint: {disabled: [{name: NodePorts}, {name: DefaultPreemption}], enabled: [{name: ImageLocality, weight: 9}]}
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      ignoredResources: [example.com/a]
      ignoredResourceGroups: [example.org]
      scoringStrategy: {type: MostAllocated, resources: [{name: cpu}, {name: example.com/gpu, weight: 5}]}
  - name: PodTopologySpread
    args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]}
  - {name: InterPodAffinity, args: {hardPodAffinityWeight: 7, ignorePreferredTermsOfExistingPods: true}}
  - {name: DefaultPreemption, args: {minCandidateNodesAbsolute: 5}}
`)
	want := []string{
		"scores 50 % of the nodes", "no filter NodePorts", "score ImageLocality × 9 instead of 1", "evicts nobody",
		"MostAllocated of cpu, example.com/gpu × 5", "ignores example.com/a, example.org/*", "spreads by default over zone by at most 1 (DoNotSchedule)",
		"hardPodAffinityWeight 7", "ignores what other pods prefer", "tries 10 % of the nodes, at least 5, before it evicts",
	}
	if got := p.Differences(); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What the scheduler would not do as written is refused, by the name of the field.
func TestRefusesWhatItCantDo(t *testing.T) {
	for body, want := range map[string]string{
		"profiles: []": "profiles: Required value",
		"profiles: [{schedulerName: a}, {schedulerName: a}]":                                                                                                    "profiles[1].schedulerName: Duplicate value",
		"profiles: [{}, {schedulerName: a}]":                                                                                                                    "profiles[0].schedulerName: Required value",
		"profiles: [{schedulerName: A_b}]":                                                                                                                      "profiles[0].schedulerName: Invalid value",
		"profiles: [{schedulerNames: a}]":                                                                                                                       `unknown field "profiles[0].schedulerNames"`,
		"extenders: [{urlPrefix: 'http://x'}]\nprofiles: [{}]":                                                                                                  "extenders: Forbidden: remove them",
		"leaderElection: {leaderElect: true}\nprofiles: [{}]":                                                                                                   "leaderElection: Forbidden: remove it",
		"podMaxBackoffSeconds: 3\nprofiles: [{}]":                                                                                                               "podMaxBackoffSeconds: Forbidden",
		"percentageOfNodesToScore: 101\nprofiles: [{}]":                                                                                                         "percentageOfNodesToScore: Invalid value: 101",
		"profiles: [{plugins: {queueSort: {enabled: [{name: Mine}], disabled: [{name: '*'}]}}}]":                                                                `profiles[0].plugins.queueSort.enabled[0].name: Unsupported value: "Mine"`,
		"profiles: [{plugins: {queueSort: {disabled: [{name: '*'}]}}}]":                                                                                         "profiles[0].plugins.queueSort: Forbidden: want PrioritySort alone",
		"profiles: [{plugins: {multiPoint: {disabled: [{name: '*'}]}}}]":                                                                                        "profiles[0].plugins.bind: Forbidden: want DefaultBinder",
		"profiles: [{plugins: {filter: {disabled: [{name: NodePort}]}}}]":                                                                                       `disabled[0].name: Unsupported value: "NodePort"`,
		"profiles: [{plugins: {filter: {disabled: [{name: VolumeBinding}]}}}]":                                                                                  "want VolumeBinding",
		"profiles: [{plugins: {multiPoint: {disabled: [{name: DynamicResources}]}}}]":                                                                           "want DynamicResources",
		"profiles: [{plugins: {preFilter: {disabled: [{name: NodePorts}]}}}]":                                                                                   "profiles[0].plugins.preFilter: Forbidden: want NodePorts, or disable it in filter too",
		"profiles: [{plugins: {filter: {disabled: [{name: NodeAffinity}]}}}]":                                                                                   "want NodeAffinity, or disable it in preFilter too",
		"profiles: [{plugins: {preScore: {disabled: [{name: TaintToleration}]}}}]":                                                                              "want TaintToleration, or disable it in score too",
		"profiles: [{plugins: {score: {enabled: [{name: NodePorts}]}}}]":                                                                                        "takes no part in score",
		"profiles: [{plugins: {score: {enabled: [{name: ImageLocality, weight: -1}]}}}]":                                                                        "enabled[0].weight: Invalid value: -1",
		"profiles: [{plugins: {filter: {enabled: [{name: NodePorts, weight: 1}]}}}]":                                                                            "only scores have weights",
		"profiles: [{pluginConfig: [{name: Coscheduling, args: {}}]}]":                                                                                          `profiles[0].pluginConfig[0].name: Unsupported value: "Coscheduling"`,
		"profiles: [{pluginConfig: [{name: NodeAffinity, args: {kind: NodeResourcesFitArgs}}]}]":                                                                "want kubescheduler.config.k8s.io/v1 NodeAffinityArgs",
		"profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrateg: {}}}]}]":                                                                    `profiles[0].pluginConfig[0].args: Invalid value: unknown field "scoringStrateg"`,
		"profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Most}}}]}]":                                                         `args.scoringStrategy.type: Unsupported value: "Most"`,
		"profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {ignoredResources: [cpu]}}]}]":                                                               "args.ignoredResources[0]: Invalid value",
		"profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio}}}]}]":                                     "requestedToCapacityRatio: Required value",
		"profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule}]}}]}]": "args.defaultingType: Invalid value",
		"profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]":                                                            "hardPodAffinityWeight: Invalid value: 101",
		"profiles: [{pluginConfig: [{name: VolumeBinding, args: {shape: [{utilization: 0, score: 11}]}}]}]":                                                     "args.shape[0].score: Invalid value: 11",
		"profiles: [{pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Is}]}]}}}}]}]": "addedAffinity.requiredDuringSchedulingIgnoredDuringExecution",
	} {
		if _, err := Read([]byte(head + body)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot %v\nwant %s", body, err, want)
		}
	}
	if _, err := Read([]byte("kind: KubeSchedulerConfiguration\napiVersion: kubescheduler.config.k8s.io/v1beta3\n")); err == nil {
		t.Error("v1beta3 is read, want it refused")
	}
}
