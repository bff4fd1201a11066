package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/musterhq/muster/control/resource"
)

// certificates lets only those decide on a certificate, and issue one, who may do
// that for its signer, and lets nobody ask for one that makes an administrator.
type certificates struct {
	authorizer authorizer.UnconditionalAuthorizer
}

func (certificates) Admit(context.Context, *resource.Attributes) error { return nil }

func (c certificates) Validate(ctx context.Context, a *resource.Attributes) error {
	if a.Kind != resource.CertificateSigningRequests {
		return nil
	}
	switch {
	case a.Operation == resource.Create && a.Subresource == "":
		return requestable(a, a.Object.(*certificatesv1.CertificateSigningRequest))
	case a.Operation != resource.Update || a.User == nil || slices.Contains(a.User.GetGroups(), user.SystemPrivilegedGroup):
		return nil
	}
	request, old := a.Object.(*certificatesv1.CertificateSigningRequest), a.OldObject.(*certificatesv1.CertificateSigningRequest)
	verb := ""
	switch a.Subresource {
	case "approval":
		verb = "approve"
	case "status":
		if apiequality.Semantic.DeepEqual(request.Status.Certificate, old.Status.Certificate) && apiequality.Semantic.DeepEqual(request.Status.Conditions, old.Status.Conditions) {
			return nil
		}
		verb = "sign"
	default:
		return nil
	}
	// The old one's signer: nobody changes that with the same request.
	if signer := old.Spec.SignerName; !c.may(ctx, a.User, verb, signer) {
		return a.Forbidden(fmt.Errorf("user not permitted to %s requests with signerName %q", verb, signer))
	}
	return nil
}

// may asks for the signer, and for all signers of its domain.
func (c certificates) may(ctx context.Context, u user.Info, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := c.authorizer.Authorize(ctx, authorizer.AttributesRecord{
			User: u, Verb: verb, Name: name, APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers", ResourceRequest: true,
		})
		if err == nil && decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}

// requestable refuses a client certificate for the group that may do everything.
func requestable(a *resource.Attributes, csr *certificatesv1.CertificateSigningRequest) error {
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return a.Forbidden(errors.New("failed to parse CSR: PEM block type must be CERTIFICATE REQUEST"))
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return a.Forbidden(fmt.Errorf("failed to parse CSR: %w", err))
	}
	if slices.Contains(parsed.Subject.Organization, user.SystemPrivilegedGroup) {
		return a.Forbidden(fmt.Errorf("use of %s signer with system:masters group is not allowed", certificatesv1.KubeAPIServerClientSignerName))
	}
	return nil
}
