package volumebinding

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// pretended is a cluster in memory, with plans carried out at once.
type pretended struct {
	claims  map[string]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
	byName  map[string]*storagev1.StorageClass
	events  []string
}

func newPretended() *pretended {
	return &pretended{claims: map[string]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{}, byName: map[string]*storagev1.StorageClass{}}
}

func (c *pretended) claim(_, name string) *corev1.PersistentVolumeClaim { return c.claims[name] }
func (c *pretended) volume(name string) *corev1.PersistentVolume        { return c.volumes[name] }
func (c *pretended) class(name string) *storagev1.StorageClass          { return c.byName[name] }
func (c *pretended) waiting(*corev1.PersistentVolumeClaim) []string     { return nil }
func (c *pretended) node(name string) *corev1.Node {
	if name == "" {
		return nil
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name},
		Annotations: map[string]string{"muster.dev/local-volumes": "/volumes"}}}
}

func (c *pretended) classes() (all []*storagev1.StorageClass) {
	for _, class := range c.byName {
		all = append(all, class)
	}
	return all
}

func (c *pretended) candidates(*corev1.PersistentVolumeClaim) (all []*corev1.PersistentVolume) {
	for _, v := range c.volumes {
		all = append(all, v)
	}
	return all
}

// settle looks at everything until nothing is to be done.
func (c *pretended) settle(t *testing.T) {
	t.Helper()
	for range 20 {
		before := fmt.Sprint(c.claims, c.volumes)
		for _, claim := range c.claims {
			p, err := planClaim(c, claim)
			if err != nil {
				t.Fatal(err)
			}
			c.carryOut(p)
		}
		for _, v := range c.volumes {
			c.carryOut(planVolume(c, v))
		}
		if fmt.Sprint(c.claims, c.volumes) == before {
			return
		}
	}
	t.Fatal("there is always something more to do")
}

func (c *pretended) carryOut(p plan) {
	if p.volume != nil {
		if p.volume.UID == "" {
			p.volume.UID = types.UID(p.volume.Name)
		}
		c.volumes[p.volume.Name] = p.volume
	}
	if p.claim != nil {
		c.claims[p.claim.Name] = p.claim
	}
	for _, s := range p.said {
		c.events = append(c.events, s.reason+": "+s.message)
	}
}

func (c *pretended) add(objects ...any) {
	for _, obj := range objects {
		switch o := obj.(type) {
		case *corev1.PersistentVolumeClaim:
			c.claims[o.Name] = o
		case *corev1.PersistentVolume:
			c.volumes[o.Name] = o
		case *storagev1.StorageClass:
			c.byName[o.Name] = o
		}
	}
}

func aClaim(name, class, size string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To(class),
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, f := range change {
		f(claim)
	}
	return claim
}

func aVolume(name, class, size string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName:              class,
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, f := range change {
		f(v)
	}
	return v
}

func aClass(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode, ReclaimPolicy: ptr.To(corev1.PersistentVolumeReclaimDelete)}
}

func modes(m ...corev1.PersistentVolumeAccessMode) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) { v.Spec.AccessModes = m }
}

func forClaim(name string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: name}
	}
}

func asksFor(v string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = v }
}

func annotated(pairs ...string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		for i := 0; i < len(pairs); i += 2 {
			metav1.SetMetaDataAnnotation(&c.ObjectMeta, pairs[i], pairs[i+1])
		}
	}
}

func TestClaimsGetWhatFits(t *testing.T) {
	const waits, immediate = storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate
	for _, test := range []struct {
		name   string
		given  []any
		volume string // that claim c has in the end
		phase  corev1.PersistentVolumeClaimPhase
		event  string // the first
	}{
		{"the smallest that is large enough", []any{aClaim("c", "", "2Gi"), aVolume("s", "", "1Gi"), aVolume("m", "", "3Gi"), aVolume("l", "", "9Gi")}, "m", corev1.ClaimBound, ""},
		{"none is large enough", []any{aClaim("c", "", "2Gi"), aVolume("s", "", "1Gi")}, "", corev1.ClaimPending, "FailedBinding: no persistent volumes available for this claim and no storage class is set"},
		{"one of its class", []any{aClaim("c", "fast", "1Gi"), aVolume("a", "slow", "1Gi"), aVolume("b", "fast", "5Gi")}, "b", corev1.ClaimBound, ""},
		{"fewest access modes before size", []any{aClaim("c", "", "1Gi"), aVolume("many", "", "1Gi", modes(corev1.ReadWriteOnce, corev1.ReadWriteMany)), aVolume("one", "", "5Gi")}, "one", corev1.ClaimBound, ""},
		{"all access modes", []any{aClaim("c", "", "1Gi", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadWriteMany}
		}), aVolume("one", "", "1Gi")}, "", corev1.ClaimPending, "FailedBinding: no persistent volumes available for this claim and no storage class is set"},
		{"by selector", []any{aClaim("c", "", "1Gi", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "ssd"}}
		}), aVolume("a", "", "1Gi"), aVolume("b", "", "5Gi", func(v *corev1.PersistentVolume) { v.Labels = map[string]string{"disk": "ssd"} })}, "b", corev1.ClaimBound, ""},
		{"not of another mode", []any{aClaim("c", "", "1Gi"), aVolume("b", "", "1Gi", func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) })}, "", corev1.ClaimPending, "FailedBinding: no persistent volumes available for this claim and no storage class is set"},
		{"the one that was made for it", []any{aClaim("c", "", "1Gi"), aVolume("a", "", "1Gi"), aVolume("b", "", "9Gi", forClaim("c"))}, "b", corev1.ClaimBound, ""},
		{"not what is for another", []any{aClaim("c", "", "1Gi"), aVolume("b", "", "1Gi", forClaim("d"))}, "", corev1.ClaimPending, "FailedBinding: no persistent volumes available for this claim and no storage class is set"},
		{"the one that it asks for", []any{aClaim("c", "", "1Gi", asksFor("b")), aVolume("a", "", "1Gi"), aVolume("b", "", "9Gi")}, "b", corev1.ClaimBound, ""},
		{"what it asks for is too small", []any{aClaim("c", "", "2Gi", asksFor("b")), aVolume("b", "", "1Gi")}, "b", corev1.ClaimPending, `VolumeMismatch: Cannot bind to requested volume "b": requested PV is too small`},
		{"what it asks for is another's", []any{aClaim("c", "", "1Gi", asksFor("b")), aVolume("b", "", "1Gi", forClaim("d"))}, "b", corev1.ClaimPending, `FailedBinding: volume "b" already bound to a different claim.`},
		{"the scheduler chooses first", []any{aClaim("c", "w", "1Gi"), aVolume("a", "w", "1Gi"), aClass("w", "kubernetes.io/no-provisioner", waits)}, "", corev1.ClaimPending, "WaitForFirstConsumer: waiting for first consumer to be created before binding"},
		{"what the scheduler chose", []any{aClaim("c", "w", "1Gi"), aVolume("a", "w", "1Gi", forClaim("c")), aClass("w", "kubernetes.io/no-provisioner", waits)}, "a", corev1.ClaimBound, ""},
		{"no such class", []any{aClaim("c", "w", "1Gi")}, "", corev1.ClaimPending, `ProvisioningFailed: storageclass.storage.k8s.io "w" not found`},
		{"of another provisioner", []any{aClaim("c", "x", "1Gi"), aClass("x", "example.org/disks", immediate)}, "", corev1.ClaimPending, "ExternalProvisioning: Waiting for a volume to be created either by the external provisioner 'example.org/disks' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."},
		{"a directory", []any{aClaim("c", "l", "1Gi", annotated(volume.AnnSelectedNode, "n1")), aClass("l", "muster.dev/local-path", waits)}, "pvc-uid-c", corev1.ClaimBound, "ProvisioningSucceeded: Successfully provisioned volume pvc-uid-c using muster.dev/local-path"},
		{"a directory of no node", []any{aClaim("c", "l", "1Gi"), aClass("l", "muster.dev/local-path", immediate)}, "", corev1.ClaimPending, `ProvisioningFailed: Failed to provision volume with StorageClass "l": muster.dev/local-path needs a StorageClass with volumeBindingMode WaitForFirstConsumer: a directory is on the node of the pod that uses it first`},
		{"its volume is gone", []any{aClaim("c", "", "1Gi", asksFor("v"), annotated(volume.AnnBindCompleted, "yes"))}, "v", corev1.ClaimLost, "ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newPretended()
			c.add(test.given...)
			c.settle(t)
			claim := c.claims["c"]
			if claim.Spec.VolumeName != test.volume || claim.Status.Phase != test.phase {
				t.Errorf("claim has %q and is %s, want %q and %s; events %q", claim.Spec.VolumeName, claim.Status.Phase, test.volume, test.phase, c.events)
			}
			if len(c.events) > 0 != (test.event != "") || test.event != "" && c.events[0] != test.event {
				t.Errorf("events %q, want %q", c.events, test.event)
			}
		})
	}
}

func TestClaimsWithoutAClassGetTheStandardOneLater(t *testing.T) {
	c := newPretended()
	claim := aClaim("c", "", "1Gi")
	claim.Spec.StorageClassName = nil
	c.add(claim)
	c.settle(t)
	class := aClass("w", "example.org/disks", storagev1.VolumeBindingWaitForFirstConsumer)
	class.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	c.add(class)
	c.settle(t)
	if got := ptr.Deref(c.claims["c"].Spec.StorageClassName, "none"); got != "w" {
		t.Errorf("class %s, want w", got)
	}
	none := aClaim("none", "", "1Gi") // "" is no class, and says so
	c.add(none)
	c.settle(t)
	if got := ptr.Deref(c.claims["none"].Spec.StorageClassName, "none"); got != "" {
		t.Errorf("class %q, want none", got)
	}
}

func TestVolumesOfClaimsThatWentDoAsTheirPolicySays(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*corev1.PersistentVolume)
		phase  corev1.PersistentVolumePhase
		event  string
	}{
		{"retain", func(*corev1.PersistentVolume) {}, corev1.VolumeReleased, ""},
		{"delete by who made it", func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
			v.Annotations = map[string]string{volume.AnnDynamicallyProvisioned: "example.org/disks"}
		}, corev1.VolumeReleased, ""},
		{"delete by nobody", func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
		}, corev1.VolumeFailed, `VolumeFailedDelete: error getting deleter volume plugin for volume "v": no deletable volume plugin matched`},
		{"recycle", func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRecycle
		}, corev1.VolumeFailed, `VolumeFailedRecycle: error finding recycling plugin for volume "v": no recyclable volume plugin matched`},
	} {
		c := newPretended()
		c.add(aClaim("c", "", "1Gi"), aVolume("v", "", "1Gi", test.change))
		c.settle(t)
		if c.volumes["v"].Status.Phase != corev1.VolumeBound {
			t.Fatalf("%s: not bound", test.name)
		}
		delete(c.claims, "c")
		again := aClaim("c", "", "1Gi")
		again.UID = "another"
		c.add(again) // of the same name gets nothing of the old one's
		c.settle(t)
		c.events = slices.DeleteFunc(c.events, func(e string) bool {
			return e == "FailedBinding: no persistent volumes available for this claim and no storage class is set"
		})
		if got := c.volumes["v"].Status.Phase; got != test.phase || len(c.events) > 0 != (test.event != "") || test.event != "" && c.events[0] != test.event {
			t.Errorf("%s: %s, events %q, want %s, %q", test.name, got, c.events, test.phase, test.event)
		}
		if c.claims["c"].Status.Phase != corev1.ClaimPending {
			t.Errorf("%s: the new claim is %s", test.name, c.claims["c"].Status.Phase)
		}
	}
}

// Whatever users ask for, in whatever order it is looked at: a volume is one
// claim's, a claim has one volume, both say the same, and nobody has less than they asked for.
func TestVolumeIsOneClaims(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := newPretended()
		pick := func(of ...string) string { return of[r.IntN(len(of))] }
		c.add(aClass("w", "muster.dev/local-path", storagev1.VolumeBindingWaitForFirstConsumer))
		gone := map[string]bool{}
		for step := range 40 {
			name := fmt.Sprint(r.IntN(6))
			switch r.IntN(6) {
			case 0, 1:
				if c.claims[name] == nil {
					claim := aClaim(name, pick("", "w"), pick("1Gi", "2Gi", "4Gi"))
					claim.UID = types.UID(fmt.Sprint("uid-", step))
					if r.IntN(4) == 0 {
						claim.Spec.VolumeName = fmt.Sprint(r.IntN(6))
					}
					if r.IntN(3) == 0 {
						annotated(volume.AnnSelectedNode, "n1")(claim)
					}
					c.add(claim)
				}
			case 2, 3:
				// A second volume of the name is taken for the first, come unbound.
				if c.volumes[name] == nil && !gone[name] {
					v := aVolume(name, pick("", "w"), pick("1Gi", "2Gi", "4Gi"))
					if r.IntN(3) == 0 {
						forClaim(fmt.Sprint(r.IntN(6)))(v)
					}
					c.add(v)
				}
			case 4:
				delete(c.claims, name)
			case 5:
				if r.IntN(3) == 0 {
					delete(c.volumes, name)
					gone[name] = true
				}
			}
			if r.IntN(2) == 0 { // half done
				for _, claim := range c.claims {
					if p, err := planClaim(c, claim); err == nil {
						p.claim = nil // the leader dies before it is written
						c.carryOut(p)
					}
					break
				}
				continue
			}
			c.settle(t)
			owner := map[string]string{}
			for _, claim := range c.claims {
				if claim.Status.Phase != corev1.ClaimBound {
					continue
				}
				v := c.volumes[claim.Spec.VolumeName]
				if v == nil || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != claim.UID || v.Status.Phase != corev1.VolumeBound {
					t.Fatalf("seed %d: claim %s is bound to %+v", seed, claim.Name, v)
				}
				if owner[v.Name] != "" {
					t.Fatalf("seed %d: volume %s is of %s and %s", seed, v.Name, owner[v.Name], claim.Name)
				}
				owner[v.Name] = claim.Name
				wants, has := claim.Spec.Resources.Requests[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage]
				if v.Annotations[volume.AnnBoundByController] == "" {
					continue // who names a claim in a volume knows better
				}
				if has.Cmp(wants) < 0 || volume.GetPersistentVolumeClass(v) != volume.GetPersistentVolumeClaimClass(claim) {
					t.Fatalf("seed %d: claim %s got %s", seed, claim.Name, v.Name)
				}
			}
			for _, v := range c.volumes {
				if v.Status.Phase == corev1.VolumeBound && owner[v.Name] == "" {
					if claim := c.claims[v.Spec.ClaimRef.Name]; claim == nil || claim.Status.Phase != corev1.ClaimLost {
						t.Fatalf("seed %d: volume %s is bound to nobody: %+v", seed, v.Name, claim)
					}
				}
			}
		}
	}
}
