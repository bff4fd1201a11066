package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/consensus/identity"
)

// serverNames are in every control node's certificate, for clients that use
// the Kubernetes API. identity.ServerName, which is not among them, is what
// nodes look for.
var serverNames = []string{
	"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
}

// Hosts are what a control node's certificate is good for beside its own name
// and the names that all of them have.
type Hosts struct {
	DNSNames []string
	IPs      []net.IP
}

// hostsMax bounds each of the two lists in a request.
const hostsMax = 64

// Add adds a host, a name or an address, if it is not empty.
func (h *Hosts) Add(host string) {
	if ip := net.ParseIP(host); ip != nil {
		h.IPs = append(h.IPs, ip)
	} else if host != "" {
		h.DNSNames = append(h.DNSNames, host)
	}
}

// SignServer makes a control node's certificate (PEM, leaf first, then the CA).
func (a *Authority) SignServer(name string, hosts Hosts, key crypto.PublicKey) ([]byte, error) {
	if err := identity.CheckName(name); err != nil {
		return nil, err
	}
	if err := hosts.check(); err != nil {
		return nil, err
	}
	dnsNames := append([]string{name, identity.ServerName}, serverNames...)
	dnsNames = append(dnsNames, hosts.DNSNames...)
	slices.Sort(dnsNames)
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, ip := range hosts.IPs {
		if !slices.ContainsFunc(ips, ip.Equal) {
			ips = append(ips, ip)
		}
	}
	return a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: identity.CommonName(identity.Server, name), Organization: []string{identity.OrgServers}},
		DNSNames:    slices.Compact(dnsNames),
		IPAddresses: ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, leafLifetime, key)
}

// SignAgent makes a compute node's certificate. It is good for dialing only.
func (a *Authority) SignAgent(name string, key crypto.PublicKey) ([]byte, error) {
	if err := identity.CheckName(name); err != nil {
		return nil, err
	}
	return a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: identity.CommonName(identity.Agent, name), Organization: []string{identity.OrgNodes}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, leafLifetime, key)
}

// SignClient makes a certificate for a user of the Kubernetes API. Nodes'
// names and groups are not given out this way.
func (a *Authority) SignClient(user string, groups []string, lifetime time.Duration, key crypto.PublicKey) ([]byte, error) {
	if user == "" {
		return nil, errors.New("sign a client's certificate: the user is empty")
	}
	for _, prefix := range []string{identity.CommonName(identity.Server, ""), identity.CommonName(identity.Agent, "")} {
		if strings.HasPrefix(user, prefix) {
			return nil, fmt.Errorf("sign a client's certificate: %q is a node's name", user)
		}
	}
	for _, group := range []string{identity.OrgServers, identity.OrgNodes} {
		if slices.Contains(groups, group) {
			return nil, fmt.Errorf("sign a client's certificate: %q is for nodes", group)
		}
	}
	return a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, lifetime, key)
}

// Renew makes a new certificate that says what current says, for the key in
// the request (PEM). The caller has verified that who asks holds current's key.
func (a *Authority) Renew(current *x509.Certificate, request []byte) ([]byte, error) {
	if err := current.CheckSignatureFrom(a.Certificate); err != nil {
		return nil, fmt.Errorf("renew: the present certificate is not this cluster's: %w", err)
	}
	role, name, ok := identity.NodeOf(current)
	if !ok {
		return nil, fmt.Errorf("renew: %q is not a node", current.Subject.CommonName)
	}
	csr, err := parseRequest(request)
	if err != nil {
		return nil, err
	}
	if role == identity.Server {
		return a.SignServer(name, Hosts{DNSNames: current.DNSNames, IPs: current.IPAddresses}, csr.PublicKey)
	}
	return a.SignAgent(name, csr.PublicKey)
}

func (a *Authority) sign(template *x509.Certificate, lifetime time.Duration, key crypto.PublicKey) ([]byte, error) {
	now := time.Now()
	template.SerialNumber = serial()
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.NotBefore = now.Add(-backdate)
	template.NotAfter = now.Add(lifetime)
	if end := a.Certificate.NotAfter; template.NotAfter.After(end) {
		template.NotAfter = end
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %q: %w", template.Subject.CommonName, err)
	}
	return append(encodeCertificate(der), a.CertificatePEM()...), nil
}

// requestMax is in bytes; an honest request has some 600.
const requestMax = 16 << 10

// parseRequest reads a certificate request from outside (PKCS #10, PEM), and
// checks that who sent it holds the key.
func parseRequest(text []byte) (*x509.CertificateRequest, error) {
	if len(text) > requestMax {
		return nil, fmt.Errorf("the certificate request has %d bytes; at most %d are read", len(text), requestMax)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("the certificate request is not one PKCS #10 request in PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the certificate request: %w", err)
	}
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the certificate request is not for an ECDSA P-256 key")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the certificate request is not signed with its key: %w", err)
	}
	return csr, nil
}

func (h Hosts) check() error {
	if len(h.DNSNames) > hostsMax || len(h.IPs) > hostsMax {
		return fmt.Errorf("more than %d names or addresses for one certificate", hostsMax)
	}
	for _, name := range h.DNSNames {
		if !validHost(name) {
			return fmt.Errorf("%q is not a host's name", name)
		}
	}
	for _, ip := range h.IPs {
		if len(ip) != net.IPv4len && len(ip) != net.IPv6len || ip.IsUnspecified() || ip.IsMulticast() {
			return fmt.Errorf("%q is not a host's address", ip)
		}
	}
	return nil
}

// validHost accepts DNS names (RFC 1123) with an optional wildcard in front.
func validHost(name string) bool {
	name, _ = strings.CutPrefix(name, "*.")
	if name == "" || len(name) > 253 {
		return false
	}
	for _, label := range strings.Split(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label {
			return false
		}
		for _, c := range []byte(label) {
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-') {
				return false
			}
		}
	}
	return true
}
