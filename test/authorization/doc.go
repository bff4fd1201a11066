// Package authorization holds Muster's RBAC against upstream's: the same roles
// and questions, and the same answers.
package authorization
