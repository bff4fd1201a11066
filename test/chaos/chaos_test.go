package chaos

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/test/chaos/check"
)

var (
	seedsFlag = flag.String("seeds", "1", "seeds, such as 7 or 1..20 or 3,5,8")
	timeFlag  = flag.Duration("time", 20*time.Second, "how long faults go on for each seed")
	onlyFlag  = flag.String("only", "", "kinds of faults, separated by commas (all)")
	keepFlag  = flag.String("keep", "", "where to keep what a failed run leaves (a new directory in "+os.TempDir()+")")
)

var program string // package node, built

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Println("clusters under faults are left out: network namespaces need root")
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "muster-chaos-node-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "node")
	// The linker is told to leave out symbols, which saves a second, and not to
	// mind that the node has the runtime's clock in its hands.
	build := exec.Command("go", "build", "-tags", "clock", "-ldflags", "-s -w -checklinkname=0", "-o", program, "./node")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the node:", err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// seeds reads 1..20, or a list.
func seeds(text string) ([]uint64, error) {
	if from, to, ok := strings.Cut(text, ".."); ok {
		first, err := strconv.ParseUint(from, 10, 64)
		if err != nil {
			return nil, err
		}
		last, err := strconv.ParseUint(to, 10, 64)
		if err != nil {
			return nil, err
		}
		var all []uint64
		for seed := first; seed <= last; seed++ {
			all = append(all, seed)
		}
		return all, nil
	}
	var all []uint64
	for _, word := range strings.Split(text, ",") {
		seed, err := strconv.ParseUint(strings.TrimSpace(word), 10, 64)
		if err != nil {
			return nil, err
		}
		all = append(all, seed)
	}
	return all, nil
}

// play makes one run in a directory that goes away unless something is wrong.
func play(t *testing.T, cfg Config) *Result {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if *keepFlag != "" {
		if err := os.MkdirAll(*keepFlag, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp(*keepFlag, fmt.Sprintf("muster-chaos-seed%d-", cfg.Seed))
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "chaos.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cfg.Program, cfg.Dir, cfg.Log = program, dir, slog.New(slog.NewTextHandler(log, nil))
	if *onlyFlag != "" && cfg.Only == nil {
		cfg.Only = strings.Split(*onlyFlag, ",")
	}
	result, err := Run(context.Background(), cfg)
	if err != nil {
		t.Fatalf("%v; everything is kept in %s", err, dir)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("history, logs and drawings are kept in %s", dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	return result
}

// Whatever happens to nodes, disks, clocks and the network, clients see one
// linearizable store that loses nothing it has acknowledged.
func TestPromisesHoldUnderFaults(t *testing.T) {
	all, err := seeds(*seedsFlag)
	if err != nil {
		t.Fatalf("seeds: %v", err)
	}
	for _, seed := range all {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			result := play(t, Config{Seed: seed, Time: *timeFlag})
			for _, v := range result.Violations {
				t.Error(v)
			}
			t.Logf("seed %d: %v", seed, result)
			if result.Outcomes[check.OK] == 0 {
				t.Error("no operation succeeded, so nothing was tested")
			}
		})
	}
}

// A checker that has never found anything proves nothing. Both bugs are those
// that a store under pressure to be fast is most tempted by.
func TestPlantedBugsAreFound(t *testing.T) {
	for _, test := range []struct {
		bug    string
		faults []string
		// Each of these promises is that the bug is not there.
		promises []string
	}{
		// What is read late contradicts the key's own history only if that key was written
		// meanwhile; its revision tells in any case.
		{"stale-reads", []string{"isolate"}, []string{check.Linearizable, check.Revisions}},
		// Nothing but the search for an order finds that a write which was said to have
		// come about has not: it came with no revision.
		{"early-ack", []string{"isolate"}, []string{check.Linearizable}},
	} {
		t.Run(test.bug, func(t *testing.T) {
			result := play(t, Config{Seed: 1, Time: 6 * time.Second, Bug: test.bug, Only: test.faults})
			t.Logf("%v", result)
			if !slices.ContainsFunc(result.Violations, func(v check.Violation) bool { return slices.Contains(test.promises, v.Promise) }) {
				t.Errorf("found %v, want one of %q", result.Violations, test.promises)
			}
		})
	}
}

// The node that made the cluster loses its log, as when the disk that it is on is
// replaced. Everything else that made it the first node is still there: it must
// not make the cluster a second time, with the same ID, and lead that, as its
// entries would be taken for those of the cluster when it is reached again.
func TestFounderThatLosesItsLogMakesNoClusterAgain(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	dir := t.TempDir()
	c, err := newCluster(t.Context(), program, "", dir, 3, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	r := &run{Config: Config{Dir: dir, Log: c.log}, cluster: c}
	founder := c.nodes[0]
	founder.kill()
	if err := os.RemoveAll(filepath.Join(founder.dir, "raft")); err != nil {
		t.Fatal(err)
	}
	// Nobody is there to tell it better.
	cut := fault{kind: "isolate"}
	r.links(cut, []*node{founder}, false)
	if err := founder.start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); _ = pause(t.Context(), 100*time.Millisecond) {
		if peers, err := founder.peers(t.Context()); err == nil && peers.Leader == founder.name {
			t.Fatal("the founder leads a cluster of its own")
		}
	}
	r.links(cut, []*node{founder}, true)
	ctx, cancel := context.WithTimeout(t.Context(), healthyMax)
	defer cancel()
	if err := c.awaitHealthy(ctx); err != nil {
		t.Fatalf("once it reaches the others: %v; its log ends: %s", err, tail(founder.logFile, 2000))
	}
	if err := r.replicas(ctx, &final{}); err != nil {
		t.Error(err)
	}
}
