package kube

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/validation"
	"k8s.io/kubernetes/pkg/printers"
)

func init() { install.Install(Scheme) }

// Rules of APIServices, and of their status.
var (
	ValidateAPIService             = onCreateContext[*apiregistrationv1.APIService](validation.ValidateAPIService)
	ValidateAPIServiceUpdate       = onUpdateContext[*apiregistrationv1.APIService](validation.ValidateAPIServiceUpdate)
	ValidateAPIServiceStatusUpdate = onUpdateContext[*apiregistrationv1.APIService](validation.ValidateAPIServiceStatusUpdate)
)

// apiServiceColumns are upstream's, which are not among the others': the
// aggregator is a program of its own there.
func apiServiceColumns(h printers.PrintHandler) {
	columns := []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
		{Name: "Service", Type: "string", Description: "The reference to the service that hosts this API endpoint."},
		{Name: "Available", Type: "string", Description: "Whether this service is available."},
		{Name: "Age", Type: "string", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
	}
	row := func(s *apiregistration.APIService) metav1.TableRow {
		service, available := "Local", string(apiregistration.ConditionUnknown)
		if s.Spec.Service != nil {
			service = s.Spec.Service.Namespace + "/" + s.Spec.Service.Name
		}
		for _, c := range s.Status.Conditions {
			if c.Type != apiregistration.Available {
				continue
			}
			available = string(c.Status)
			if c.Status != apiregistration.ConditionTrue && c.Reason != "" {
				available = fmt.Sprintf("%s (%s)", c.Status, c.Reason)
			}
		}
		age := "<unknown>"
		if !s.CreationTimestamp.IsZero() {
			age = duration.HumanDuration(time.Since(s.CreationTimestamp.Time))
		}
		return metav1.TableRow{Object: runtime.RawExtension{Object: s}, Cells: []any{s.Name, service, available, age}}
	}
	// Both are functions of the form that the handler asks for.
	_ = h.TableHandler(columns, func(s *apiregistration.APIService, _ printers.GenerateOptions) ([]metav1.TableRow, error) {
		return []metav1.TableRow{row(s)}, nil
	})
	_ = h.TableHandler(columns, func(list *apiregistration.APIServiceList, _ printers.GenerateOptions) ([]metav1.TableRow, error) {
		rows := make([]metav1.TableRow, 0, len(list.Items))
		for i := range list.Items {
			rows = append(rows, row(&list.Items[i]))
		}
		return rows, nil
	})
}
