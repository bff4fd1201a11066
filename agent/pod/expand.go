package pod

import "strings"

// expand replaces each $(NAME) in text by lookup(NAME). What lookup does not
// know is left as it stands, and $$ is a plain $, so that $$(NAME) is not
// replaced. These are the rules of EnvVar.value and Container.command in the
// Kubernetes API.
func expand(text string, lookup func(name string) (string, bool)) string {
	if !strings.Contains(text, "$") {
		return text
	}
	var out strings.Builder
	for {
		at := strings.IndexByte(text, '$')
		if at < 0 || at == len(text)-1 {
			out.WriteString(text)
			return out.String()
		}
		out.WriteString(text[:at])
		rest := text[at+1:]
		switch rest[0] {
		case '$':
			out.WriteByte('$')
			text = rest[1:]
		case '(':
			end := strings.IndexByte(rest, ')')
			if end < 0 { // never closed: no reference
				out.WriteString("$(")
				text = rest[1:]
				continue
			}
			name := rest[1:end]
			if value, ok := lookup(name); ok {
				out.WriteString(value)
			} else {
				out.WriteString("$(" + name + ")")
			}
			text = rest[end+1:]
		default:
			out.WriteByte('$')
			out.WriteByte(rest[0])
			text = rest[1:]
		}
	}
}

func expandAll(texts []string, lookup func(string) (string, bool)) []string {
	out := make([]string, len(texts))
	for i, text := range texts {
		out[i] = expand(text, lookup)
	}
	return out
}
