package apiserver

import (
	"fmt"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
)

// review answers one virtual kind. into is the object as it was sent; what it
// answers is sent back. A kind that is no review has handlers of its own.
type review struct {
	resource.Virtual
	into     func() runtime.Object
	answer   func(s *Server, r *http.Request, c *call, sent runtime.Object) (runtime.Object, error)
	handlers map[string]handler
}

// reviews are what clients ask about themselves and others, by resource.
var reviews = func() map[schema.GroupVersionResource]*review {
	answers := map[string]review{
		"Binding":                  {handlers: map[string]handler{"create": (*Server).bind}},
		"ComponentStatus":          {handlers: map[string]handler{"get": (*Server).getComponent, "list": (*Server).listComponents}},
		"SelfSubjectReview":        {into: func() runtime.Object { return &authenticationv1.SelfSubjectReview{} }, answer: (*Server).reviewSelf},
		"TokenReview":              {into: func() runtime.Object { return &authenticationv1.TokenReview{} }, answer: (*Server).reviewToken},
		"SubjectAccessReview":      {into: func() runtime.Object { return &authorizationv1.SubjectAccessReview{} }, answer: (*Server).reviewAccess},
		"LocalSubjectAccessReview": {into: func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} }, answer: (*Server).reviewLocalAccess},
		"SelfSubjectAccessReview":  {into: func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }, answer: (*Server).reviewSelfAccess},
		"SelfSubjectRulesReview":   {into: func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} }, answer: (*Server).reviewSelfRules},
	}
	all := map[schema.GroupVersionResource]*review{}
	for _, virtual := range resource.Virtuals() {
		if v, ok := answers[virtual.Kind]; ok {
			v.Virtual = virtual
			all[virtual.Resource] = &v
		}
	}
	return all
}()

// find is how a call of this review is served.
func (v *review) find(c *call) (handler, error) {
	serve := v.handlers[c.verb]
	if v.handlers == nil && c.verb == "create" {
		serve = v.serve
	}
	switch {
	case c.name != "" && v.handlers["get"] == nil || c.subresource != "" || !v.Namespaced && c.namespace != "":
		return nil, errPathNotFound
	case serve == nil || v.Namespaced && c.namespace == "":
		return nil, apierrors.NewMethodNotSupported(v.Resource.GroupResource(), c.verb)
	}
	return serve, nil
}

func (v *review) serve(s *Server, w http.ResponseWriter, r *http.Request, c *call) error {
	out, err := negotiate(r)
	if err != nil {
		return err
	}
	options, err := createOptions(r)
	if err != nil {
		return err
	}
	sent := v.into()
	if err := decodeBody(r, v.GroupVersionKind(), sent, fieldValidation(options.FieldValidation)); err != nil {
		return err
	}
	answer, err := v.answer(s, r, c, sent)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusCreated, v.GroupVersionKind(), answer, out)
}

// sender is who asks, or as whom they ask.
func sender(r *http.Request) user.Info {
	u, _ := genericrequest.UserFrom(r.Context())
	return u
}

// reviewSelf is kubectl auth whoami.
func (s *Server) reviewSelf(r *http.Request, _ *call, _ runtime.Object) (runtime.Object, error) {
	return &authenticationv1.SelfSubjectReview{
		ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Now()},
		Status:     authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(sender(r))},
	}, nil
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: map[string]authenticationv1.ExtraValue{}}
	for key, values := range u.GetExtra() {
		info.Extra[key] = values
	}
	return info
}

// reviewToken says whose a token is. One that is nobody's is an answer, not a
// failure.
func (s *Server) reviewToken(r *http.Request, _ *call, sent runtime.Object) (runtime.Object, error) {
	review := sent.(*authenticationv1.TokenReview)
	if review.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	who, audiences, ok, err := s.authenticator.Review(r.Context(), review.Spec.Token, review.Spec.Audiences)
	review.Status = authenticationv1.TokenReviewStatus{Authenticated: ok}
	switch {
	case err != nil:
		review.Status.Error = err.Error()
	case ok:
		review.Status.User, review.Status.Audiences = userInfo(who), audiences
	default:
		review.Status.Error = "invalid bearer token"
	}
	return review, nil
}

func (s *Server) reviewAccess(r *http.Request, _ *call, sent runtime.Object) (runtime.Object, error) {
	review := sent.(*authorizationv1.SubjectAccessReview)
	if errs := kube.ValidateSubjectAccessReview(r.Context(), review); len(errs) > 0 {
		return nil, invalidReview(errs)
	}
	status, err := s.access(r, subject(&review.Spec), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	review.Status = status
	return review, err
}

func (s *Server) reviewLocalAccess(r *http.Request, c *call, sent runtime.Object) (runtime.Object, error) {
	review := sent.(*authorizationv1.LocalSubjectAccessReview)
	if errs := kube.ValidateLocalSubjectAccessReview(r.Context(), review); len(errs) > 0 {
		return nil, invalidReview(errs)
	}
	if review.Namespace != c.namespace {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", c.namespace))
	}
	status, err := s.access(r, subject(&review.Spec), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	review.Status = status
	return review, err
}

// reviewSelfAccess is kubectl auth can-i.
func (s *Server) reviewSelfAccess(r *http.Request, _ *call, sent runtime.Object) (runtime.Object, error) {
	review := sent.(*authorizationv1.SelfSubjectAccessReview)
	if errs := kube.ValidateSelfSubjectAccessReview(r.Context(), review); len(errs) > 0 {
		return nil, invalidReview(errs)
	}
	status, err := s.access(r, sender(r), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	review.Status = status
	return review, err
}

// invalidReview names no kind, as upstream's does not.
func invalidReview(errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: authorizationv1.GroupName}, "", errs)
}

func subject(spec *authorizationv1.SubjectAccessReviewSpec) user.Info {
	u := &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups, Extra: map[string][]string{}}
	for key, values := range spec.Extra {
		u.Extra[key] = values
	}
	return u
}

// access decides as for a request, by who and what is named.
func (s *Server) access(r *http.Request, who user.Info, of *authorizationv1.ResourceAttributes, on *authorizationv1.NonResourceAttributes) (authorizationv1.SubjectAccessReviewStatus, error) {
	request := auth.Attributes{User: who}
	var ignored []string
	if of != nil {
		request.Verb, request.Group, request.Version = of.Verb, of.Group, of.Version
		request.Resource, request.Subresource = of.Resource, of.Subresource
		request.Namespace, request.Name = of.Namespace, of.Name
		if request.Resource == "" {
			request.Resource = "*" // or it would be a question about a path
		}
		request.Fields, ignored = selectors(of)
	} else {
		request.Verb, request.Path = on.Verb, on.Path
	}
	decision, err := s.authorizer.Authorize(r.Context(), request)
	return authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision.Allowed, Reason: decision.Reason(), EvaluationError: strings.Join(ignored, "; "),
	}, err
}

// selectors reads what narrows a question down. What cannot be read is left out,
// which makes the question a wider one, and said. Labels decide nothing here.
func selectors(of *authorizationv1.ResourceAttributes) (selector fields.Selector, ignored []string) {
	say := func(what string, partly bool) {
		how := "ignored"
		if partly {
			how = "partially ignored"
		}
		ignored = append(ignored, fmt.Sprintf("spec.resourceAttributes.%s %s due to parse error", what, how))
	}
	if f := of.FieldSelector; f != nil {
		switch {
		case len(f.Requirements) > 0:
			var all []fields.Selector
			for _, requirement := range f.Requirements {
				if s := fieldRequirement(requirement); s != nil {
					all = append(all, s)
				}
			}
			if len(all) < len(f.Requirements) {
				say("fieldSelector", len(all) > 0)
			}
			selector = fields.AndSelectors(all...)
		case f.RawSelector != "":
			var err error
			if selector, err = fields.ParseSelector(f.RawSelector); err != nil {
				say("fieldSelector", false)
				selector = nil
			}
		}
	}
	if l := of.LabelSelector; l != nil {
		if len(l.Requirements) > 0 {
			good := 0
			for _, requirement := range l.Requirements {
				if _, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{requirement}}); err == nil {
					good++
				}
			}
			if good < len(l.Requirements) {
				say("labelSelector", good > 0)
			}
		} else if _, err := labels.Parse(l.RawSelector); err != nil {
			say("labelSelector", false)
		}
	}
	return selector, ignored
}

// fieldRequirement is nil for what field selectors cannot say.
func fieldRequirement(r metav1.FieldSelectorRequirement) fields.Selector {
	if len(r.Values) != 1 {
		return nil
	}
	switch r.Operator {
	case metav1.FieldSelectorOpIn:
		return fields.OneTermEqualSelector(r.Key, r.Values[0])
	case metav1.FieldSelectorOpNotIn:
		return fields.OneTermNotEqualSelector(r.Key, r.Values[0])
	}
	return nil
}

// reviewSelfRules is kubectl auth can-i --list.
func (s *Server) reviewSelfRules(r *http.Request, _ *call, sent runtime.Object) (runtime.Object, error) {
	namespace := sent.(*authorizationv1.SelfSubjectRulesReview).Spec.Namespace
	if namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	rules, complete, broken := s.authorizer.RulesFor(sender(r), namespace)
	answer := &authorizationv1.SelfSubjectRulesReview{Status: authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}, Incomplete: !complete,
	}}
	if broken != nil {
		answer.Status.EvaluationError = broken.Error()
	}
	for _, rule := range rules {
		addRule(&answer.Status, rule)
	}
	return answer, nil
}

func addRule(status *authorizationv1.SubjectRulesReviewStatus, rule rbacv1.PolicyRule) {
	if len(rule.Resources) > 0 {
		status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
		})
	}
	if len(rule.NonResourceURLs) > 0 {
		status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
	}
}
