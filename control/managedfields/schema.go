package managedfields

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/gob"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/musterhq/muster/control/kube"
)

//go:generate go run ./gen

// schemaGob are the types of client-go's schema, which itself is YAML and takes
// 20 MB of garbage to read.
//
//go:embed schema.gob.gz
var schemaGob []byte

// builtin has the schemas of k8s.io/api. A control node without clients need not
// have them in memory.
var builtin = sync.OnceValue(func() *typed.Parser {
	parser := &typed.Parser{}
	unzipped, err := gzip.NewReader(bytes.NewReader(schemaGob))
	if err == nil {
		err = gob.NewDecoder(unzipped).Decode(&parser.Schema.Types)
	}
	if err != nil {
		panic("managedfields: the embedded schema: " + err.Error())
	}
	return parser
})

// Converter knows the schema of a built-in kind. For a kind that has none, lists
// are owned as a whole, as upstream has it for kinds without a schema.
func Converter(kind schema.GroupVersionKind) managedfields.TypeConverter {
	if kube.Scheme.Recognizes(kind) {
		if name, err := kube.Scheme.ToOpenAPIDefinitionName(kind); err == nil && builtin().Type(name).IsValid() {
			return managedfields.NewSchemeTypeConverter(kube.Scheme, builtin())
		}
	}
	return managedfields.NewDeducedTypeConverter()
}
