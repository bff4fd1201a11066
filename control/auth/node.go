package auth

import "k8s.io/apimachinery/pkg/fields"

// authorizeNode allows a node what its agent could need over HTTP: its own Node
// object, the pods bound to it, their status, and new events. A node that is
// taken over must not read or change anything of another.
func (a *Authorizer) authorizeNode(node string, request Attributes) (bool, string) {
	if request.Group != "" {
		return false, ""
	}
	switch request.Resource {
	case "nodes":
		switch {
		case request.Verb == "get" && request.Subresource == "",
			isUpdate(request.Verb) && request.Subresource == "status":
			if request.Name != node {
				return false, "a node may only use its own Node object"
			}
			return true, ""
		case isCollectionRead(request) && request.Subresource == "":
			if !selects(request.Fields, "metadata.name", node) {
				return false, "a node may only list and watch itself, with the field selector metadata.name=" + node
			}
			return true, ""
		}
	case "pods":
		switch {
		case request.Verb == "get" && (request.Subresource == "" || request.Subresource == "status"),
			isUpdate(request.Verb) && request.Subresource == "status":
			// A pod that does not exist is answered as one of another node, so
			// that a node cannot find out which names exist.
			if at, ok := a.pods.NodeOf(request.Namespace, request.Name); !ok || at != node {
				return false, "the pod is not bound to this node"
			}
			return true, ""
		case isCollectionRead(request) && request.Subresource == "":
			if !selects(request.Fields, "spec.nodeName", node) {
				return false, "a node may only list and watch its own pods, with the field selector spec.nodeName=" + node
			}
			return true, ""
		}
	case "events":
		if request.Verb == "create" && request.Subresource == "" {
			return true, ""
		}
	}
	return false, ""
}

func isUpdate(verb string) bool { return verb == "update" || verb == "patch" }

func isCollectionRead(request Attributes) bool {
	return request.Verb == "list" || request.Verb == "watch"
}

func selects(selector fields.Selector, field, value string) bool {
	if selector == nil {
		return false
	}
	got, ok := selector.RequiresExactMatch(field)
	return ok && got == value
}
