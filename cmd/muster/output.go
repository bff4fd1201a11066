package main

import (
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/spf13/pflag"
)

// output is the form in which a verb prints: text for people, json for programs.
type output string

const (
	outputText output = "text"
	outputJSON output = "json"
)

func (o *output) add(flags *pflag.FlagSet) {
	*o = outputText
	flags.VarP(o, "output", "o", "form of what is printed: text or json")
}

func (o *output) String() string { return string(*o) }
func (o *output) Type() string   { return "form" }
func (o *output) Set(text string) error {
	switch form := output(text); form {
	case outputText, outputJSON:
		*o = form
		return nil
	}
	return fmt.Errorf("%q: want text or json", text)
}

// printJSON prints one value, on one line when more are to follow.
func printJSON(w io.Writer, value any, oneLine bool) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	if !oneLine {
		encoder.SetIndent("", "  ")
	}
	return encoder.Encode(value)
}

// textOrBytes is bytes as JSON has them: as text when they are, else base64.
// At most one is there.
func textOrBytes(raw []byte) (text *string, encoded []byte) {
	if !utf8.Valid(raw) {
		return nil, raw
	}
	s := string(raw)
	return &s, nil
}
