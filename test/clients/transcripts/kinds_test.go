package transcripts

import (
	"os"
	"strings"
	"testing"
)

// elsewhere are resources that can be created and are no objects, or none that
// a transcript could create: transcripts of verbs have them.
var elsewhere = map[string]string{
	"bindings": "what a scheduler writes",
	"selfsubjectreviews.authentication.k8s.io":       "auth",
	"tokenreviews.authentication.k8s.io":             "reviews",
	"localsubjectaccessreviews.authorization.k8s.io": "reviews",
	"selfsubjectaccessreviews.authorization.k8s.io":  "auth",
	"selfsubjectrulesreviews.authorization.k8s.io":   "auth",
	"subjectaccessreviews.authorization.k8s.io":      "reviews",
}

// testEveryKindHasAnObject keeps testdata/kinds complete: the transcript named
// kinds has each of its objects go through every verb.
func testEveryKindHasAnObject(t *testing.T, program, config string) {
	term := newTerminal(t, program, config, "every-kind")
	served := strings.Fields(term.run("kubectl api-resources --verbs=create -o name"))
	if len(served) < 40 {
		t.Fatalf("%d resources are served: %v", len(served), served)
	}
	for _, resource := range served {
		if strings.HasSuffix(resource, ".example.org") || elsewhere[resource] != "" {
			continue
		}
		if _, err := os.Stat("testdata/kinds/" + resource + ".yaml"); err != nil {
			t.Errorf("%s is served, and no transcript shows what kubectl does with it: %v", resource, err)
		}
	}
}
