package kube

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
)

// printer knows the columns of every built-in kind. It is only read once made.
var printer = printers.NewTableGenerator().With(printersinternal.AddHandlers, apiServiceColumns)

// capacities have a printer that upstream's storage of them does not use.
var capacities = schema.GroupResource{Group: "storage.k8s.io", Resource: "csistoragecapacities"}

// Table shows an object, or the items of a list, as kubectl get does, with the
// columns of -o wide among them. Each row's Object is the versioned item that
// it shows. A kind without columns of its own gets name and age.
func Table(ctx context.Context, resource schema.GroupResource, obj runtime.Object) (*metav1.Table, error) {
	in, err := Scheme.UnsafeConvertToVersion(obj, runtime.InternalGroupVersioner)
	if err != nil {
		return rest.NewDefaultTableConvertor(resource).ConvertToTable(ctx, obj, &metav1.TableOptions{})
	}
	if resource == capacities {
		return rest.NewDefaultTableConvertor(resource).ConvertToTable(ctx, obj, &metav1.TableOptions{})
	}
	var table *metav1.Table
	if resource == definitions {
		table, err = tableOfDefinitions(ctx, in)
	} else {
		table, err = printer.GenerateTable(in, printers.GenerateOptions{Wide: true})
	}
	if err != nil {
		return rest.NewDefaultTableConvertor(resource).ConvertToTable(ctx, obj, &metav1.TableOptions{})
	}
	items := []runtime.Object{obj}
	if meta.IsListType(obj) {
		if items, err = meta.ExtractList(obj); err != nil {
			return nil, err
		}
	}
	if len(items) != len(table.Rows) {
		return nil, fmt.Errorf("table of %T: %d rows for %d items", obj, len(table.Rows), len(items))
	}
	for i := range table.Rows {
		table.Rows[i].Object = runtime.RawExtension{Object: items[i]}
	}
	return table, nil
}
