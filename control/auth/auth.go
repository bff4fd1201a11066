// Package auth says who sends a request and what they may do. A person or a
// node is known by a client certificate of the cluster's CA or by a bearer
// token; what a node may do is narrow, because a node is the part of a cluster
// that is most easily taken over. Reading requests and answering them is left
// to the API server.
package auth

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Groups that mean something to Authorize beside user.SystemPrivilegedGroup
// (system:masters) and user.NodesGroup (system:nodes).
const (
	// ServersGroup is what control nodes' own certificates carry.
	ServersGroup = "muster:servers"

	nodeUserPrefix = "system:node:"
)

// Attributes are what a request wants to do. Resource is empty for a request
// that is about no API object; Path then says what it is about.
type Attributes struct {
	User        user.Info
	Verb        string
	Group       string
	Version     string
	Resource    string
	Subresource string
	Namespace   string
	Name        string
	// Fields is the field selector of a list, watch or deletecollection.
	Fields fields.Selector
	Path   string
}

// Pods tells where a pod runs. Authorize asks it for a node's reads and writes
// of single pods; it must answer from memory.
type Pods interface {
	// NodeOf is false when there is no such pod.
	NodeOf(namespace, name string) (node string, ok bool)
}

// Authorizer decides what an authenticated user may do.
type Authorizer struct {
	pods Pods
}

// NewAuthorizer returns the cluster's authorizer.
func NewAuthorizer(pods Pods) *Authorizer {
	return &Authorizer{pods: pods}
}

// Authorize says whether the request may go on, and if not, optionally why.
// The reason goes to the client; Forbidden builds upstream's words around it.
func (a *Authorizer) Authorize(_ context.Context, request Attributes) (allowed bool, reason string) {
	if request.User == nil {
		return false, ""
	}
	for _, group := range request.User.GetGroups() {
		if group == user.SystemPrivilegedGroup || group == ServersGroup {
			return true, ""
		}
	}
	if request.Resource == "" && request.Verb == "get" && isPublicToUsers(request.Path) {
		return true, ""
	}
	if node, ok := NodeName(request.User); ok {
		return a.authorizeNode(node, request)
	}
	return false, ""
}

// NodeName is the node that a user is, if it is one: upstream's convention of a
// common name system:node:NAME in the group system:nodes. One without the other
// is nobody.
func NodeName(u user.Info) (string, bool) {
	name, ok := strings.CutPrefix(u.GetName(), nodeUserPrefix)
	if !ok || name == "" {
		return "", false
	}
	for _, group := range u.GetGroups() {
		if group == user.NodesGroup {
			return name, true
		}
	}
	return "", false
}

// isPublicToUsers is upstream's system:discovery role: what any authenticated
// client reads before it can ask for anything else.
func isPublicToUsers(path string) bool {
	for _, root := range []string{"/api", "/apis", "/openapi"} {
		if path == root || strings.HasPrefix(path, root+"/") {
			return true
		}
	}
	switch path {
	case "/.well-known/openid-configuration", "/openid/v1/jwks":
		return true // to verify service accounts' tokens by oneself
	}
	return IsPublic(path)
}

// IsPublic says that a path is answered to anybody, without credentials: health
// and version tell load balancers and people what is there, and nothing else.
func IsPublic(path string) bool {
	switch path {
	case "/version", "/version/", "/healthz", "/livez", "/readyz":
		return true
	}
	for _, root := range []string{"/healthz/", "/livez/", "/readyz/"} {
		if strings.HasPrefix(path, root) {
			return true
		}
	}
	return false
}

// ForbiddenMessage is what upstream tells a user who may not do something.
func ForbiddenMessage(request Attributes, reason string) string {
	var name string
	if request.User != nil {
		name = request.User.GetName()
	}
	if reason != "" {
		reason = ": " + reason
	}
	if request.Resource == "" {
		return fmt.Sprintf("User %q cannot %s path %q%s", name, request.Verb, request.Path, reason)
	}
	resource := request.Resource
	if request.Subresource != "" {
		resource += "/" + request.Subresource
	}
	where := "at the cluster scope"
	if request.Namespace != "" {
		where = fmt.Sprintf("in the namespace %q", request.Namespace)
	}
	return fmt.Sprintf("User %q cannot %s resource %q in API group %q %s%s", name, request.Verb, resource, request.Group, where, reason)
}
