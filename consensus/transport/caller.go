package transport

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"slices"

	"github.com/musterhq/muster/consensus/identity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Caller is who the verified client certificate of a call says.
type Caller struct {
	Name        string        // of the node; an administrator's common name
	Role        identity.Role // empty: not a node
	Orgs        []string
	Certificate *x509.Certificate
}

// Admin says whether the caller is an administrator.
func (c Caller) Admin() bool { return slices.Contains(c.Orgs, identity.OrgMasters) }

// Key is the SHA-256 of the caller's public key (DER, PKIX): which machine of
// that name it is.
func (c Caller) Key() [sha256.Size]byte {
	if c.Certificate == nil {
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(c.Certificate.RawSubjectPublicKeyInfo)
}

// CallerFrom says who makes a call. ok is false when the caller showed no
// certificate; one that did not verify never gets this far.
func CallerFrom(ctx context.Context) (caller Caller, ok bool) {
	if caller, ok = ctx.Value(callerKey{}).(Caller); ok {
		return caller, true
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Caller{}, false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return Caller{}, false
	}
	return callerOf(info.State.VerifiedChains[0][0]), true
}

// NewContext is ctx with a caller in it, for calls within the process.
func NewContext(ctx context.Context, caller Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, caller)
}

type callerKey struct{}

func callerOf(cert *x509.Certificate) Caller {
	c := Caller{Name: cert.Subject.CommonName, Orgs: cert.Subject.Organization, Certificate: cert}
	if role, name, ok := identity.NodeOf(cert); ok {
		c.Role, c.Name = role, name
	}
	return c
}
