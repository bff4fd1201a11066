package pki

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/musterhq/muster/consensus/identity"
)

// What upstream's signers do about time: certificates are valid from a little
// earlier on, and end that much earlier unless they are short.
const (
	issueBackdate = 5 * time.Minute
	issueShort    = 8 * time.Hour
)

// Refuse says why no certificate is issued for a request, whoever approves it, or
// returns nil. Control nodes know one another by certificates of the same CA, and
// nobody becomes one by an API object.
func (a *Authority) Refuse(request *x509.CertificateRequest) error {
	if err := request.CheckSignature(); err != nil {
		return fmt.Errorf("the request is not signed with its key: %w", err)
	}
	if slices.Contains(request.Subject.Organization, identity.OrgServers) {
		return fmt.Errorf("organization %q is for control nodes", identity.OrgServers)
	}
	// As those who look for it compare it.
	asked := x509.Certificate{DNSNames: request.DNSNames}
	if asked.VerifyHostname(identity.ServerName) == nil {
		return fmt.Errorf("%q is a name of control nodes", identity.ServerName)
	}
	return nil
}

// Issue makes the certificate (PEM, the leaf alone) that a request asks for,
// which was approved and is not refused. As upstream's signers do, it takes the
// subject and the names from the request and all else from the arguments.
func (a *Authority) Issue(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage, lifetime time.Duration) ([]byte, error) {
	if err := a.Refuse(request); err != nil {
		return nil, err
	}
	now := time.Now()
	if !now.Before(a.Certificate.NotAfter) {
		return nil, errors.New("the cluster's CA has expired")
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               request.Subject,
		DNSNames:              request.DNSNames,
		IPAddresses:           request.IPAddresses,
		EmailAddresses:        request.EmailAddresses,
		URIs:                  request.URIs,
		BasicConstraintsValid: true,
		NotBefore:             now.Add(-issueBackdate),
		NotAfter:              now.Add(lifetime),
	}
	if lifetime >= issueShort {
		template.NotAfter = now.Add(lifetime - issueBackdate)
	}
	if end := a.Certificate.NotAfter; template.NotAfter.After(end) {
		template.NotAfter = end
	}
	for _, usage := range usages {
		key, isKey := keyUsages[usage]
		extended, isExtended := extendedUsages[usage]
		switch {
		case isKey:
			template.KeyUsage |= key
		case !isExtended:
			return nil, fmt.Errorf("usage %q is unknown", usage)
		case !slices.Contains(template.ExtKeyUsage, extended):
			template.ExtKeyUsage = append(template.ExtKeyUsage, extended)
		}
	}
	slices.Sort(template.ExtKeyUsage)
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, request.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %q: %w", template.Subject.CommonName, err)
	}
	return encodeCertificate(der), nil
}

// The usages that signers of the cluster accept. Their own rules, which are the
// signers', leave no other.
var (
	keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
		certificatesv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature,
		certificatesv1.UsageKeyEncipherment:  x509.KeyUsageKeyEncipherment,
	}
	extendedUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
		certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth,
		certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth,
	}
)
