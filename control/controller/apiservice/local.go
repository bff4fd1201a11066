package apiservice

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/musterhq/muster/control/resource"
)

// automanaged is upstream's label for APIServices that nobody made by hand: of
// groups that are always there, and of those that users define.
const (
	automanaged = "kube-aggregator.kubernetes.io/automanaged"
	onStart     = "onstart"
	whileThere  = "true"
)

// priority is where a version stands in discovery.
type priority struct{ group, version int32 }

// priorities are upstream's (cmd/kube-apiserver/app/aggregator.go).
var priorities = map[schema.GroupVersion]priority{
	{Version: "v1"}:                                              {18000, 1},
	{Group: "apps", Version: "v1"}:                               {17800, 15},
	{Group: "events.k8s.io", Version: "v1"}:                      {17750, 15},
	{Group: "authentication.k8s.io", Version: "v1"}:              {17700, 15},
	{Group: "authorization.k8s.io", Version: "v1"}:               {17600, 15},
	{Group: "autoscaling", Version: "v1"}:                        {17500, 15},
	{Group: "autoscaling", Version: "v2"}:                        {17500, 30},
	{Group: "batch", Version: "v1"}:                              {17400, 15},
	{Group: "certificates.k8s.io", Version: "v1"}:                {17300, 15},
	{Group: "networking.k8s.io", Version: "v1"}:                  {17200, 15},
	{Group: "policy", Version: "v1"}:                             {17100, 15},
	{Group: "rbac.authorization.k8s.io", Version: "v1"}:          {17000, 15},
	{Group: "storage.k8s.io", Version: "v1"}:                     {16800, 15},
	{Group: "apiextensions.k8s.io", Version: "v1"}:               {16700, 15},
	{Group: "admissionregistration.k8s.io", Version: "v1"}:       {16700, 15},
	{Group: "admissionregistration.k8s.io", Version: "v1beta1"}:  {16700, 12},
	{Group: "admissionregistration.k8s.io", Version: "v1alpha1"}: {16700, 9},
	{Group: "scheduling.k8s.io", Version: "v1"}:                  {16600, 15},
	{Group: "coordination.k8s.io", Version: "v1"}:                {16500, 15},
	{Group: "node.k8s.io", Version: "v1"}:                        {16300, 15},
	{Group: "discovery.k8s.io", Version: "v1"}:                   {16200, 15},
	{Group: "resource.k8s.io", Version: "v1"}:                    {16200, 21},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}:       {16100, 21},
}

// aggregator is the group of APIServices themselves, which has none.
const aggregator = apiregistrationv1.GroupName

// defined is the priority of groups that users define, as upstream's.
var defined = priority{1000, 100}

// register makes the APIServices of what is served here, and removes those of
// what is not served any more.
func (c *Controller) register(ctx context.Context) error {
	served := map[string]*apiregistrationv1.APIService{}
	for _, kind := range c.cfg.Registry.Catalog().Served() {
		if gv := kind.Spec.Kind.GroupVersion(); gv.Group != aggregator {
			service := localService(gv)
			served[service.Name] = service
		}
	}
	for name, service := range served {
		if _, ok := c.services.Get("", name); ok {
			continue // a user's own stands
		}
		_, err := c.cfg.Registry.Create(ctx, resource.APIServices, "", service, resource.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create apiservice %s: %w", name, err)
		}
	}
	for _, service := range c.services.List() {
		if service.Labels[automanaged] == "" || service.Spec.Service != nil || served[service.Name] != nil {
			continue
		}
		_, _, err := c.cfg.Registry.Delete(ctx, resource.APIServices, "", service.Name, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &service.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete apiservice %s: %w", service.Name, err)
		}
	}
	return nil
}

func localService(gv schema.GroupVersion) *apiregistrationv1.APIService {
	p, builtIn := priorities[gv]
	managed := onStart
	if !builtIn {
		p, managed = defined, whileThere
	}
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group, Labels: map[string]string{automanaged: managed}},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p.group, VersionPriority: p.version,
		},
	}
}
