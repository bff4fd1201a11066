package kube

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	_ "k8s.io/kubernetes/pkg/apis/authentication/install"
	"k8s.io/kubernetes/pkg/apis/authorization"
	_ "k8s.io/kubernetes/pkg/apis/authorization/install"
	"k8s.io/kubernetes/pkg/apis/authorization/validation"
)

// ValidateSubjectAccessReview says what is wrong with a question about somebody.
func ValidateSubjectAccessReview(ctx context.Context, review *authorizationv1.SubjectAccessReview) field.ErrorList {
	found := validation.ValidateSubjectAccessReview(internal[*authorization.SubjectAccessReview](review))
	return Declared(ctx, review, nil, found, nil, "")
}

// ValidateSelfSubjectAccessReview says what is wrong with one about its sender.
func ValidateSelfSubjectAccessReview(ctx context.Context, review *authorizationv1.SelfSubjectAccessReview) field.ErrorList {
	found := validation.ValidateSelfSubjectAccessReview(internal[*authorization.SelfSubjectAccessReview](review))
	return Declared(ctx, review, nil, found, nil, "")
}

// ValidateLocalSubjectAccessReview says what is wrong with one in a namespace.
func ValidateLocalSubjectAccessReview(ctx context.Context, review *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
	found := validation.ValidateLocalSubjectAccessReview(internal[*authorization.LocalSubjectAccessReview](review))
	return Declared(ctx, review, nil, found, nil, "")
}
