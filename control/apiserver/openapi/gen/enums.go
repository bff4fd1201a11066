package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"log"
	"path/filepath"
	"strconv"
	"strings"
)

// enumerated is what Kubernetes' code says of a field, and its published
// documents do not: the values that it may have, and what those mean.
type enumerated struct {
	property    string
	ofItems     bool // it is a list of such values
	values      []any
	description string
}

// readEnums finds the enumerated fields of k8s.io/api's types, by their schemas'
// names in documents. It reads the generated code rather than linking it, which
// would need the modules of every Kubernetes program.
func readEnums(module string) map[string][]enumerated {
	path := filepath.Join(module, "pkg", "generated", "openapi", "zz_generated.openapi.go")
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		log.Fatal(err)
	}
	all := map[string][]enumerated{}
	for _, declaration := range file.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if name, ok := strings.CutPrefix(function.Name.Name, "schema_k8sio_api_"); ok {
			name = "io.k8s.api." + strings.ReplaceAll(name, "_", ".")
			all[name] = enumsIn(function.Body, enumerated{}, nil)
		}
	}
	return all
}

// enumsIn walks literals of spec.Schema, at is the field that they are of.
func enumsIn(node ast.Node, at enumerated, found []enumerated) []enumerated {
	ast.Inspect(node, func(n ast.Node) bool {
		pair, ok := n.(*ast.KeyValueExpr)
		if !ok {
			if literal, ok := n.(*ast.CompositeLit); ok {
				if e := at; e.read(literal) {
					found = append(found, e)
				}
			}
			return true
		}
		inner := at
		switch key := pair.Key.(type) {
		case *ast.BasicLit:
			inner = enumerated{property: unquoted(key)}
		case *ast.Ident:
			inner.ofItems = inner.ofItems || key.Name == "Items"
		}
		found = enumsIn(pair.Value, inner, found)
		return false
	})
	return found
}

// read takes values and description from a literal of spec.SchemaProps, and
// says whether it has any.
func (e *enumerated) read(literal *ast.CompositeLit) bool {
	for _, element := range literal.Elts {
		pair, ok := element.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		switch key, _ := pair.Key.(*ast.Ident); {
		case key == nil:
		case key.Name == "Description":
			e.description = unquoted(pair.Value.(*ast.BasicLit))
		case key.Name == "Enum":
			for _, value := range pair.Value.(*ast.CompositeLit).Elts {
				e.values = append(e.values, unquoted(value.(*ast.BasicLit)))
			}
		}
	}
	return e.values != nil
}

func unquoted(literal *ast.BasicLit) string {
	s, err := strconv.Unquote(literal.Value)
	if err != nil {
		log.Fatal(err)
	}
	return s
}

// enumerate adds to the schemas of a document what enums say.
func enumerate(schemas map[string]any, enums map[string][]enumerated) {
	for name, schema := range schemas {
		for _, e := range enums[name] {
			properties, _ := schema.(map[string]any)["properties"].(map[string]any)
			field, ok := properties[e.property].(map[string]any)
			if ok && e.ofItems {
				field, ok = field["items"].(map[string]any)
			}
			if !ok {
				log.Fatalf("%s has no field %s", name, e.property)
			}
			field["enum"] = e.values
			if e.description != "" {
				field["description"] = e.description
			}
		}
	}
}
