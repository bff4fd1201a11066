package layout

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/musterhq/muster/"

// matrix says, for each package of ours, which others of ours it may import.
// Rows and entries are paths below the module; "/..." takes a folder and all below. The
// first row that matches a package counts. Imports point down only, so rows are
// in the order of the journey: whoever is called stands below the caller.
var matrix = []struct {
	pkg  string
	may  []string
	note string
}{
	{"cmd/muster", []string{"control", "control/backup", "agent", "agent/runtime/bundle", "deploy/dev", "consensus/transport", "proto/..."}, "commands: flags to Config values"},
	{"cmd/internal/layout", nil, "this test"},

	{"test/...", []string{"..."}, "tests may reach everything"},
	{"deploy/dev", []string{"control", "agent", "consensus/identity", "consensus/transport", "control/pki", "agent/runtime/..."}, "a whole cluster in one process"},
	{"deploy/...", []string{"deploy/..."}, "what surrounds the binary knows nothing of its inside"},

	{"agent", []string{"agent/...", "consensus/identity", "consensus/transport", "consensus/gossip", "proto/..."}, "the agent never imports control or fsm"},
	{"agent/pod", []string{"agent/runtime", "agent/runtime/logs", "agent/volume", "agent/probe", "proto/agent/..."}, ""},
	{"agent/session", []string{"consensus/transport", "proto/agent/..."}, ""},
	{"agent/fence", []string{"proto/agent/fencing"}, ""},
	{"agent/node", []string{"proto/agent/fencing"}, ""},
	{"agent/runtime/runtimetest", []string{"agent/runtime", "agent/runtime/logs"}, ""},
	{"agent/runtime/cri", []string{"agent/runtime", "agent/runtime/bundle"}, ""},
	{"agent/runtime/hollow", []string{"agent/runtime", "agent/runtime/logs"}, ""},
	{"agent/runtime/bundle/pack", []string{"agent/runtime/bundle"}, "makes what bundle embeds"},
	{"agent/...", []string{"proto/agent/..."}, "leaves of the agent do not know each other"},

	{"proto/agent/fencing", nil, "what leader and agents agree on"},
	{"proto/agent/beat", nil, "heartbeats, as both ends see them"},

	{"control", []string{"control/...", "consensus/...", "consensus", "fsm", "proto/..."}, "the wiring"},
	{"control/apiserver/...", []string{"control/apiserver/...", "control/resource", "control/aggregate", "control/audit", "control/auth", "control/reach", "control/store", "control/kube", "proto/agent/..."}, ""},
	{"control/dispatch", []string{"control/resource", "control/store", "consensus/transport", "consensus/identity", "consensus/rhythm", "fsm/kv", "proto/..."}, ""},
	{"control/operator", []string{"consensus/transport", "control/store", "control/store/keyring", "fsm/kv", "fsm/watch", "proto/..."}, ""},
	{"control/autopilot", []string{"consensus", "control/store", "fsm", "proto/cluster/..."}, "a leader's duty, and answers to operators"},
	{"control/operator/kvclient", []string{"proto/..."}, ""},
	{"control/backup", []string{"fsm", "proto/..."}, "the form of a file"},
	{"control/planning", []string{"control/controller/...", "control/controller", "control/scheduler"}, "what objects mean for pods"},
	{"control/scheduler/...", []string{"control/scheduler/...", "control/resource", "control/store", "control/controller"}, ""},
	{"control/controller", []string{"control/resource", "control/store"}, "the runtime of controllers"},
	{"control/controller/resourcequota", []string{"control/controller", "control/resource", "control/store", "control/kube", "fsm/watch"}, "sees every change"},
	{"control/controller/certificates", []string{"control/controller", "control/resource", "control/store", "control/kube"}, "upstream's rules for nodes' requests"},
	{"control/controller/controllertest", []string{"control/controller", "control/resource", "control/store", "control/store/storetest"}, "leaders for tests, that die"},
	{"control/controller/nodelifecycle", []string{"control/controller", "control/resource", "control/store", "proto/agent/fencing"}, ""},
	{"control/controller/...", []string{"control/controller", "control/resource", "control/store"}, "controllers do not know each other"},
	{"control/admission", []string{"control/admission/...", "control/resource", "control/store", "control/auth", "control/kube"}, ""},
	{"control/custom", []string{"control/resource", "control/store", "fsm/kv"}, "kinds that users define"},
	{"control/admission/hook", []string{"control/resource", "control/store", "control/kube", "fsm/kv"}, "writes as hooks see them"},
	{"control/admission/...", []string{"control/admission/hook", "control/resource", "control/store", "control/kube", "control/managedfields"}, "families of hooks do not know each other"},
	{"control/serviceaccount", []string{"control/resource", "control/store", "control/kube"}, "tokens of programs"},
	{"control/oidc", nil, "tokens of people"},
	{"control/bootstraptoken", []string{"control/store", "control/kube"}, "tokens of machines that have no certificate yet"},
	{"control/resource", []string{"control/store", "control/kube", "control/managedfields"}, ""},
	{"control/audit", nil, "a log of requests, told by whoever serves them"},
	{"control/auth", []string{"control/store", "control/kube"}, ""},
	{"control/aggregate", []string{"control/store"}, "API groups that services serve"},
	{"control/reach", []string{"control/store", "proto/agent/..."}, "connections from a control node into the cluster"},
	{"control/store/storetest", []string{"control/store", "control/store/keyring", "fsm", "fsm/kv"}, ""},
	{"control/store/keyring", nil, "bytes and keys, no store"},
	{"control/store", []string{"control/store/keyring", "fsm", "fsm/kv", "fsm/watch", "proto/storage/..."}, ""},
	{"control/managedfields/gen", []string{"control/kube"}, "writes the embedded schema"},
	{"control/managedfields", []string{"control/kube"}, ""},
	{"control/kube", nil, "the only importer of k8s.io/kubernetes"},
	{"control/pki", []string{"consensus/identity", "consensus/transport", "proto/cluster/..."}, ""},

	{"consensus", []string{"consensus/forward", "consensus/rhythm", "consensus/wal", "consensus/transport", "consensus/identity", "proto/cluster/..."}, "consensus knows bytes, not meaning: never fsm"},
	{"consensus/forward", []string{"proto/cluster/..."}, ""},
	{"consensus/wal", nil, "knows raft's entries, not what is in them"},
	{"consensus/gossip", []string{"consensus/rhythm"}, ""},
	{"consensus/rhythm", nil, ""},
	{"consensus/transport", []string{"consensus/identity", "proto/..."}, ""},
	{"consensus/identity/identitytest", []string{"consensus/identity", "proto/cluster/..."}, "identities for tests"},
	{"consensus/identity", []string{"proto/cluster/..."}, ""},

	{"fsm", []string{"fsm/kv", "fsm/watch", "proto/storage/..."}, "keys and bytes, no Kubernetes, no raft"},
	{"fsm/watch", []string{"fsm/kv"}, ""},
	{"fsm/kv", nil, ""},

	{"proto/...", []string{"proto/..."}, ""},
}

// foreign says which of our packages alone may import a module's packages.
var foreign = []struct {
	prefix string
	only   []string
}{
	{"k8s.io/kubernetes", []string{"control/kube", "test/..."}},
	{"k8s.io/apiextensions-apiserver/pkg/apis", []string{"control/kube", "control/store", "control/resource", "control/custom", "control/controller/customresource", "test/..."}},
	{"k8s.io/apiextensions-apiserver/pkg/apiserver", []string{"control/custom", "control/kube", "test/..."}},
	{"k8s.io/apiextensions-apiserver/pkg/controller", []string{"control/custom", "test/..."}},
	{"k8s.io/apiextensions-apiserver/pkg/registry", []string{"control/custom", "control/kube", "test/..."}},
	{"github.com/hashicorp/raft", []string{"consensus", "consensus/wal", "consensus/transport", "test/..."}},
	{"github.com/hashicorp/memberlist", []string{"consensus/gossip"}},
	{"github.com/containerd/", []string{"agent/runtime/cri", "test/..."}},
	{"k8s.io/cri-api", []string{"agent/runtime/cri", "test/..."}},
}

type listed struct {
	ImportPath   string
	Doc          string
	Imports      []string
	TestImports  []string
	XTestImports []string
	GoFiles      []string
}

func list(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Doc,Imports,TestImports,XTestImports,GoFiles"}, args...)...)
	cmd.Dir = "../../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	var packages []listed
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func matches(pattern, pkg string) bool {
	if pattern == "..." {
		return true
	}
	if prefix, ok := strings.CutSuffix(pattern, "/..."); ok {
		return pkg == prefix || strings.HasPrefix(pkg, prefix+"/")
	}
	return pattern == pkg
}

func matchesAny(patterns []string, pkg string) bool {
	for _, p := range patterns {
		if matches(p, pkg) {
			return true
		}
	}
	return false
}

// An import against the arrows is how a codebase that one can read turns into
// one that one can only search. Tests of a package may use what the package
// may, the suites beside it (…test packages) and nothing else of ours.
func TestImportsPointDown(t *testing.T) {
	for _, p := range list(t, "./...") {
		name, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			continue
		}
		row := -1
		for i, r := range matrix {
			if matches(r.pkg, name) {
				row = i
				break
			}
		}
		if row < 0 {
			t.Errorf("%s has no row in the matrix: say where it belongs", name)
			continue
		}
		for _, path := range p.Imports {
			if imported, ok := strings.CutPrefix(path, module); ok && !matchesAny(matrix[row].may, imported) {
				t.Errorf("%s imports %s, which its row does not allow (%q)", name, imported, matrix[row].may)
			}
			for _, f := range foreign {
				if strings.HasPrefix(path, f.prefix) && !matchesAny(f.only, name) {
					t.Errorf("%s imports %s, which only %q may", name, path, f.only)
				}
			}
		}
		if strings.HasPrefix(name, "agent") {
			for _, path := range append(p.TestImports, p.XTestImports...) {
				if imported, ok := strings.CutPrefix(path, module); ok && (strings.HasPrefix(imported, "control") || strings.HasPrefix(imported, "fsm")) {
					t.Errorf("tests of %s import %s: the agent does not know the control plane", name, imported)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range list(t, "./...") {
		if len(p.GoFiles) > 0 && p.Doc == "" && !strings.Contains(p.ImportPath, "/proto/") {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// etcd arrives through the side door of many Kubernetes packages. bbolt, which
// raft-boltdb needs, is not etcd.
func TestNoEtcdIsLinked(t *testing.T) {
	for _, p := range list(t, "-deps", "./cmd/muster") {
		if strings.HasPrefix(p.ImportPath, "go.etcd.io/etcd") {
			t.Errorf("cmd/muster links %s", p.ImportPath)
		}
	}
}
