package scheduling

import (
	"encoding/json"
	"maps"
	"slices"
)

// mutate changes a file at one place, seldom at more, as somebody who writes it may err.
func (m *maker) mutate(text []byte) []byte {
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		panic(err)
	}
	for more := true; more; more = m.sometimes() {
		places := placesOf(tree)
		m.change(places[m.IntN(len(places))])
	}
	raw, err := json.Marshal(tree)
	if err != nil {
		panic(err)
	}
	return raw
}

// place is a member of an object or an element of a list.
type place struct {
	object map[string]any
	key    string
	list   *[]any // as it is held by parent
	index  int
	parent func([]any)
}

func (p place) get() any {
	if p.object != nil {
		return p.object[p.key]
	}
	return (*p.list)[p.index]
}

func (p place) set(value any) {
	if p.object != nil {
		p.object[p.key] = value
		return
	}
	(*p.list)[p.index] = value
}

func placesOf(tree any) (all []place) {
	var walk func(value any, set func([]any))
	walk = func(value any, set func([]any)) {
		switch v := value.(type) {
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(v)) {
				all = append(all, place{object: v, key: key})
				walk(v[key], func(list []any) { v[key] = list })
			}
		case []any:
			for i := range v {
				all = append(all, place{list: &v, index: i, parent: set})
				walk(v[i], func(list []any) { v[i] = list })
			}
		}
	}
	walk(tree, nil)
	return all
}

// What else there could be, in the place of words and numbers.
var (
	words = []string{
		"", "x", "A_b", "a.b/c", "a/b/c", "*", "kubernetes.io/hostname", "cpu", "hugepages-2Mi", "List", "System", "DoNotSchedule", "In", "Exists",
		"LeastAllocated", "RequestedToCapacityRatio", "NodeResourcesFitArgs", "kubescheduler.config.k8s.io/v1", "kubescheduler.config.k8s.io/v1beta3",
		"NodeName", "NodePorts", "VolumeBinding", "PrioritySort", "DefaultBinder", "SchedulingGates", "DefaultPreemption", "ImageLocality", "EBSLimits", "default-scheduler",
	}
	numbers = []float64{-1, 0, 1, 2, 10, 11, 100, 101, 1 << 31, 1 << 40, 0.5}
	members = map[string][]any{
		"percentageOfNodesToScore": {-1, 0, 100, 101}, "labelSelector": {map[string]any{}}, "minDomains": {-1, 0, 3}, "nodeTaintsPolicy": {"Honor", "x"},
		"matchLabelKeys": {[]any{"app"}}, "weight": {0, 7, -7}, "args": {map[string]any{}, map[string]any{"kind": "NodeAffinityArgs"}}, "name": {"x"},
		"disabled": {[]any{map[string]any{"name": "*"}}}, "enabled": {[]any{map[string]any{"name": "NodeName"}}}, "nothing": {1},
		"requestedToCapacityRatio": {map[string]any{}, map[string]any{"shape": []any{map[string]any{"utilization": 0, "score": 0}}}},
		"hardPodAffinityWeight":    {101}, "defaultingType": {"List", "x"}, "Weight": {1}, "schedulerName": {"a", "default-scheduler"}, "kind": {"NodeResourcesFitArgs", "x"},
	}
)

func (m *maker) change(p place) {
	switch m.IntN(8) {
	case 0:
		if p.object != nil {
			delete(p.object, p.key)
		} else {
			p.parent(slices.Delete(slices.Clone(*p.list), p.index, p.index+1))
		}
		return
	case 1:
		if p.list != nil {
			p.parent(append(slices.Clone(*p.list), p.get()))
			return
		}
	case 2:
		p.set([]any{nil, "x", 1, []any{}, map[string]any{}, true}[m.IntN(6)])
		return
	}
	switch v := p.get().(type) {
	case map[string]any:
		key := m.one(slices.Sorted(maps.Keys(members))...)
		v[key] = members[key][m.IntN(len(members[key]))]
	case string:
		p.set(m.one(words...))
	case bool:
		p.set(!v)
	case float64:
		p.set(numbers[m.IntN(len(numbers))])
	}
}
