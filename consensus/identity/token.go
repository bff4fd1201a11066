package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// Token admits machines to a cluster. Its printed form is one word:
//
//	muster-<role>-<SHA-256 of the CA certificate>-<id>-<secret>-<check>
//
// all in lower-case hex. The hash lets the machine know the cluster before it
// trusts it, the id lets the cluster find the secret's hash, and the check
// tells a mistyped token from a wrong one.
type Token struct {
	Role   Role
	CAHash [sha256.Size]byte
	ID     string // 8 hex digits; not secret
	Secret string // 40 hex digits: 160 random bits
}

const (
	tokenPrefix  = "muster"
	tokenIDLen   = 8
	secretLen    = 40
	tokenCheck   = 8
	tokenMaxSize = 512 // longer input is not looked at
)

// NewToken makes a token with a random id and secret.
func NewToken(role Role, caHash [sha256.Size]byte) Token {
	random := make([]byte, (tokenIDLen+secretLen)/2)
	rand.Read(random) // never fails
	text := hex.EncodeToString(random)
	return Token{Role: role, CAHash: caHash, ID: text[:tokenIDLen], Secret: text[tokenIDLen:]}
}

// String is the whole token, secret included.
func (t Token) String() string {
	body := strings.Join([]string{tokenPrefix, string(t.Role), hex.EncodeToString(t.CAHash[:]), t.ID, t.Secret}, "-")
	return body + "-" + checkOf(body)
}

// SecretHash is what the cluster keeps and compares. The secret is random and
// long, so a plain hash suffices.
func (t Token) SecretHash() [sha256.Size]byte { return sha256.Sum256([]byte(t.Secret)) }

// SecretMatches compares two hashes in constant time.
func SecretMatches(kept, given [sha256.Size]byte) bool {
	return subtle.ConstantTimeCompare(kept[:], given[:]) == 1
}

// For says whether the token can make a node of this role.
func (t Token) For(role Role) error {
	if t.Role == role {
		return nil
	}
	return fmt.Errorf("this is %s token; muster %s needs %s token", article(t.Role), role, article(role))
}

// ParseToken reads a printed token. Its errors say what is wrong without
// repeating the token.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return Token{}, errors.New("the token is empty")
	case len(text) > tokenMaxSize:
		return Token{}, fmt.Errorf("the token is too long (%d characters)", len(text))
	case strings.ContainsAny(text, " \t\r\n"):
		return Token{}, errors.New("the token contains blanks or line breaks; it must be one word")
	}
	parts := strings.Split(text, "-")
	if parts[0] != tokenPrefix {
		return Token{}, errors.New(`this is not a token: tokens begin with "muster-server-" or "muster-agent-"`)
	}
	cut := errors.New("the token is cut short: copy the whole word")
	if len(parts) < 2 {
		return Token{}, cut
	}
	role := Role(parts[1])
	if role != Server && role != Agent {
		if len(parts) == 2 {
			return Token{}, cut
		}
		return Token{}, fmt.Errorf("the token is for the unknown role %q", role)
	}
	lengths := []int{sha256.Size * 2, tokenIDLen, secretLen, tokenCheck}
	fields := parts[2:]
	for i, want := range lengths {
		if i >= len(fields) || len(fields[i]) < want && i == len(fields)-1 {
			return Token{}, cut
		}
		if len(fields[i]) != want || strings.Trim(fields[i], "0123456789abcdef") != "" {
			return Token{}, errors.New("the token is mistyped or damaged: copy it again")
		}
	}
	if len(fields) > len(lengths) {
		return Token{}, errors.New("the token has more behind its end: copy only the one word")
	}
	if body := text[:len(text)-tokenCheck-1]; checkOf(body) != fields[3] {
		return Token{}, errors.New("the token is mistyped or damaged: copy it again")
	}
	t := Token{Role: role, ID: fields[1], Secret: fields[2]}
	hex.Decode(t.CAHash[:], []byte(fields[0])) // the digits were checked above
	return t, nil
}

// LogValue keeps the secret out of logs.
func (t Token) LogValue() slog.Value {
	return slog.StringValue(fmt.Sprintf("%s token %s", t.Role, t.ID))
}

func checkOf(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])[:tokenCheck]
}

func article(role Role) string {
	if role == Agent {
		return "an agent"
	}
	return "a " + string(role)
}
