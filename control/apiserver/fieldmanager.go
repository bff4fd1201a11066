package apiserver

import (
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
)

// fieldManager is whose fields a request sets: who it says, or else what its
// client calls itself, cut as upstream cuts it.
func fieldManager(r *http.Request, named string) string {
	if named != "" {
		return named
	}
	agent, _, _ := strings.Cut(r.UserAgent(), "/")
	var name strings.Builder
	for _, c := range agent {
		if !unicode.IsPrint(c) {
			continue
		}
		if name.Len()+utf8.RuneLen(c) > metav1validation.FieldManagerMaxLength {
			break
		}
		name.WriteRune(c)
	}
	if name.Len() == 0 {
		return "unknown"
	}
	return name.String()
}
