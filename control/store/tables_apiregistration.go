package store

import apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

// APIServices say who serves a version of an API group.
var APIServices = spec(apiregistrationv1.SchemeGroupVersion, "apiservices", "APIService", false, &apiregistrationv1.APIService{}, &apiregistrationv1.APIServiceList{}, nil)

var apiregistrationSpecs = []*Spec{APIServices}
