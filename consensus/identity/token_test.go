package identity_test

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/musterhq/muster/consensus/identity"
)

func TestTokenComesBackAsItWasPrinted(t *testing.T) {
	for _, role := range []identity.Role{identity.Server, identity.Agent} {
		want := identity.NewToken(role, sha256.Sum256([]byte("ca")))
		got, err := identity.ParseToken("  " + want.String() + "\n")
		if err != nil {
			t.Fatalf("ParseToken(%s): %v", want, err)
		}
		if got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		if !identity.SecretMatches(got.SecretHash(), want.SecretHash()) {
			t.Error("hashes of the same secret differ")
		}
	}
	a := identity.NewToken(identity.Agent, sha256.Sum256(nil))
	b := identity.NewToken(identity.Agent, sha256.Sum256(nil))
	if a.ID == b.ID || a.Secret == b.Secret || identity.SecretMatches(a.SecretHash(), b.SecretHash()) {
		t.Errorf("two new tokens share an id or a secret: %v, %v", a, b)
	}
}

func TestParseTokenSaysWhatIsWrong(t *testing.T) {
	token := identity.NewToken(identity.Agent, sha256.Sum256([]byte("ca")))
	whole := token.String()
	flipped := func(i int) string {
		b := []byte(whole)
		if b[i] == '0' {
			b[i] = '1'
		} else {
			b[i] = '0'
		}
		return string(b)
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", " \n", "empty"},
		{"something else", "K10abc::server:def", "not a token"},
		{"only the prefix", "muster", "cut short"},
		{"within the role", "muster-age", "cut short"},
		{"no hash", "muster-agent-", "cut short"},
		{"within the hash", whole[:30], "cut short"},
		{"before the secret", whole[:strings.Index(whole, token.Secret)-1], "cut short"},
		{"within the secret", whole[:len(whole)-20], "cut short"},
		{"one digit short", whole[:len(whole)-1], "cut short"},
		{"a digit of the hash", flipped(20), "mistyped"},
		{"a digit of the secret", flipped(strings.Index(whole, token.Secret)), "mistyped"},
		{"a digit of the check", flipped(len(whole) - 1), "mistyped"},
		{"upper case", strings.ToUpper(whole[13:40]), "not a token"},
		{"not a digit", strings.Replace(whole, token.Secret[:3], "xyz", 1), "mistyped"},
		{"an unknown role", strings.Replace(whole, "-agent-", "-pilot-", 1), `unknown role "pilot"`},
		{"two of them", whole + "-" + whole[7:], "behind its end"},
		{"a line break", whole[:50] + "\n" + whole[50:], "line breaks"},
		{"far too long", whole + strings.Repeat("0", 600), "too long"},
	} {
		_, err := identity.ParseToken(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), token.Secret[:10]) {
			t.Errorf("%s: the error repeats the secret: %v", c.name, err)
		}
	}
}

func TestTokenForTheOtherRoleIsToldApart(t *testing.T) {
	token := identity.NewToken(identity.Agent, [32]byte{})
	if err := token.For(identity.Agent); err != nil {
		t.Errorf("got %v, want none", err)
	}
	const want = "this is an agent token; muster server needs a server token"
	if err := token.For(identity.Server); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestTokenKeepsItsSecretOutOfLogs(t *testing.T) {
	var out strings.Builder
	token := identity.NewToken(identity.Agent, [32]byte{})
	slog.New(slog.NewTextHandler(&out, nil)).Info("joined", "token", token)
	if strings.Contains(out.String(), token.Secret) || !strings.Contains(out.String(), token.ID) {
		t.Errorf("got %s, want the id without the secret", out.String())
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(identity.NewToken(identity.Agent, [32]byte{1}).String())
	f.Add(identity.NewToken(identity.Server, [32]byte{}).String()[:90])
	f.Add("muster-agent--------")
	f.Add("muster-server-" + strings.Repeat("0", 64) + "-00000000-" + strings.Repeat("0", 40) + "-00000000")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := identity.ParseToken(text)
		if err == nil && token.String() != strings.TrimSpace(text) {
			t.Errorf("%q was read as %q", text, token)
		}
	})
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "n1", "node-1.rack2.example", "0", strings.Repeat("x", 63)} {
		if err := identity.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "N1", "-a", "a-", "a.", ".a", "a..b", "a.-b", "a-.b", "a_b", "a b", "é", "a/b", strings.Repeat("x", 64), "a\x00"} {
		if identity.CheckName(name) == nil {
			t.Errorf("%q was allowed", name)
		}
	}
}

func ExampleToken() {
	token := identity.NewToken(identity.Agent, sha256.Sum256([]byte("the CA certificate")))
	read, err := identity.ParseToken(token.String())
	fmt.Println(read.Role, err)
	fmt.Println(read.For(identity.Server))
	// Output:
	// agent <nil>
	// this is an agent token; muster server needs a server token
}
