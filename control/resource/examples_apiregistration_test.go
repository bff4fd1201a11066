package resource

import (
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/musterhq/muster/control/store"
)

func apiregistrationExamples() map[*Kind]store.Object {
	return map[*Kind]store.Object{
		APIServices: &apiregistrationv1.APIService{ObjectMeta: named("v1.x.example.org"), Spec: apiregistrationv1.APIServiceSpec{
			Group: "x.example.org", Version: "v1", GroupPriorityMinimum: 100, VersionPriority: 10,
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "x"}, InsecureSkipTLSVerify: true,
		}},
	}
}
