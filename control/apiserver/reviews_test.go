package apiserver

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/resource"
)

// kubectl asks in protobuf, others in JSON.
func TestReviewsAnswerInBothForms(t *testing.T) {
	tokens := auth.TokenTable{}
	tokens.Add("s3cret", &user.DefaultInfo{Name: "bob", UID: "u-1", Groups: []string{"dev"}, Extra: map[string][]string{"scope": {"a"}}})
	f := newFixture(t, func(c *Config) { c.Tokens, c.Audiences = tokens, []string{"https://muster"} })
	if err := resource.EnsureRoles(t.Context(), f.reg); err != nil {
		t.Fatal(err)
	}
	if _, err := f.reg.Create(t.Context(), resource.RoleBindings, "default", &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "b"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:kube-scheduler"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "alice"}},
	}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	of := func(verb, resource, namespace string) *authorizationv1.ResourceAttributes {
		return &authorizationv1.ResourceAttributes{Verb: verb, Resource: resource, Namespace: namespace}
	}
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		alice, admin := f.client(f.config("alice", "readers"), media), f.client(f.admin(), media)

		who, err := alice.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil || who.Status.UserInfo.Username != "alice" || !slices.Equal(who.Status.UserInfo.Groups, []string{"readers", "system:authenticated"}) {
			t.Errorf("%s: who am I: %+v, %v", media, who, err)
		}
		for _, c := range []struct {
			attributes *authorizationv1.ResourceAttributes
			want       bool
		}{
			{of("list", "pods", "default"), true}, {of("list", "pods", "kube-system"), false}, {of("list", "pods", ""), false}, {of("deletecollection", "nodes", "default"), false},
		} {
			can, err := alice.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: c.attributes}}, metav1.CreateOptions{})
			if err != nil || can.Status.Allowed != c.want {
				t.Errorf("%s: may alice %+v: %+v, %v; want %t", media, c.attributes, can, err, c.want)
			}
		}
		path, err := alice.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/openapi/v3"}}}, metav1.CreateOptions{})
		if err != nil || !path.Status.Allowed || !strings.HasPrefix(path.Status.Reason, `RBAC: allowed by ClusterRoleBinding "system:`) {
			t.Errorf("%s: may alice read OpenAPI: %+v, %v", media, path, err)
		}
		rules, err := alice.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), &authorizationv1.SelfSubjectRulesReview{
			Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
		if err != nil || rules.Status.Incomplete || len(rules.Status.ResourceRules) < 3 || len(rules.Status.NonResourceRules) == 0 {
			t.Errorf("%s: what may alice: %+v, %v", media, rules, err)
		}

		other, err := admin.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: "alice", ResourceAttributes: of("list", "pods", "default")}}, metav1.CreateOptions{})
		if err != nil || !other.Status.Allowed || other.Status.Reason != `RBAC: allowed by RoleBinding "b/default" of ClusterRole "system:kube-scheduler" to User "alice"` {
			t.Errorf("%s: may alice, asked by another: %+v, %v", media, other, err)
		}
		local, err := admin.AuthorizationV1().LocalSubjectAccessReviews("default").Create(t.Context(), &authorizationv1.LocalSubjectAccessReview{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default"},
			Spec:       authorizationv1.SubjectAccessReviewSpec{Groups: []string{"system:masters"}, ResourceAttributes: of("delete", "nodes", "default")}}, metav1.CreateOptions{})
		if err != nil || !local.Status.Allowed {
			t.Errorf("%s: in a namespace: %+v, %v", media, local, err)
		}
		if _, err := alice.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), other, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), `cannot create resource "subjectaccessreviews"`) {
			t.Errorf("%s: alice asks about others: %v, want 403", media, err)
		}

		token, err := admin.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "s3cret"}}, metav1.CreateOptions{})
		if err != nil || !token.Status.Authenticated || token.Status.User.Username != "bob" || token.Status.User.UID != "u-1" || !slices.Equal(token.Status.User.Extra["scope"], []string{"a"}) {
			t.Errorf("%s: whose token: %+v, %v", media, token, err)
		}
		token, err = admin.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "wrong"}}, metav1.CreateOptions{})
		if err != nil || token.Status.Authenticated || token.Status.User.Username != "" {
			t.Errorf("%s: nobody's token: %+v, %v", media, token, err)
		}
	}
}

func TestReviewsAreCreatedAndNothingElse(t *testing.T) {
	f := newFixture(t)
	const root = "/apis/authorization.k8s.io/v1/"
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", root + "selfsubjectaccessreviews", `{"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}`, http.StatusCreated},
		{"POST", root + "selfsubjectaccessreviews", `{"spec":{}}`, http.StatusUnprocessableEntity},
		{"POST", root + "selfsubjectaccessreviews", `{"spec":{"resourceAttributes":{"verb":"get","resource":"pods","fieldSelector":{"rawSelector":"a=b","requirements":[{"key":"a","operator":"In","values":["b"]}]}}}}`, http.StatusUnprocessableEntity},
		{"POST", root + "subjectaccessreviews", `{"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}`, http.StatusUnprocessableEntity},
		{"POST", root + "selfsubjectrulesreviews", `{"spec":{}}`, http.StatusBadRequest},
		{"POST", root + "namespaces/default/localsubjectaccessreviews", `{"metadata":{"namespace":"other"},"spec":{"user":"a","resourceAttributes":{"verb":"get","resource":"pods","namespace":"other"}}}`, http.StatusBadRequest},
		{"POST", root + "localsubjectaccessreviews", `{}`, http.StatusMethodNotAllowed},
		{"POST", root + "namespaces/default/selfsubjectaccessreviews", `{}`, http.StatusNotFound},
		{"POST", root + "selfsubjectaccessreviews/x", `{}`, http.StatusNotFound},
		{"GET", root + "selfsubjectaccessreviews", "", http.StatusMethodNotAllowed},
		{"GET", root + "selfsubjectaccessreviews/x", "", http.StatusNotFound},
		{"POST", "/apis/authorization.k8s.io/v1beta1/selfsubjectaccessreviews", `{}`, http.StatusNotFound},
		{"POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{}}`, http.StatusBadRequest},
		{"POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"a"},"colour":1}`, http.StatusCreated},
		{"POST", "/apis/authentication.k8s.io/v1/tokenreviews?fieldValidation=Strict", `{"spec":{"token":"a"},"colour":1}`, http.StatusBadRequest},
	} {
		body := c.body
		if body != "" {
			kind := ""
			for _, v := range resource.Virtuals() {
				if strings.Contains(c.path, "/"+v.Resource.Resource) {
					kind = v.Kind
				}
			}
			version := strings.Split(strings.TrimPrefix(c.path, "/apis/"), "/")
			body = strings.Replace(body, "{", `{"kind":"`+kind+`","apiVersion":"`+version[0]+"/"+version[1]+`",`, 1)
			body = strings.Replace(body, ",}", "}", 1)
		}
		if got := f.do(f.admin(), c.method, c.path, body); got.code != c.want {
			t.Errorf("%s %s %s: %d %.300s, want %d", c.method, c.path, c.body, got.code, got.body, c.want)
		}
	}
	// A selector that cannot be read makes the question a wider one, and is told.
	got := f.do(f.admin(), "POST", root+"selfsubjectaccessreviews",
		`{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{"resourceAttributes":{"verb":"list","resource":"pods","fieldSelector":{"rawSelector":"!!"}}}}`)
	if want := "spec.resourceAttributes.fieldSelector ignored due to parse error"; !strings.Contains(string(got.body), want) {
		t.Errorf("a field selector that cannot be read: %s, want %q", got.body, want)
	}
}

// What upstream says of a review that is refused, and of a token that is
// nobody's, to the letter: clients show it.
func TestReviewsAreRefusedInUpstreamsWords(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Tokens = auth.TokenTable{} })
	cfg := f.admin()
	refused := f.do(cfg, "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{"user":"x"}}`)
	var status metav1.Status
	refused.into(t, &status)
	if status.Details == nil || status.Details.Kind != "" || status.Details.Group != "authorization.k8s.io" {
		t.Errorf("got %+v, want details without a kind", status.Details)
	}
	var review authenticationv1.TokenReview
	f.do(cfg, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","spec":{"token":"nobody's"}}`).into(t, &review)
	if review.Status.Authenticated || review.Status.Error != "invalid bearer token" {
		t.Errorf("got %+v, want it refused with the reason", review.Status)
	}
}
