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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/musterhq/muster/control/resource"
)

// certificates lets only those decide on a certificate, issue one, and say by
// what a signer's are checked, who may do that for the signer, and lets nobody
// ask for one that makes an administrator.
type certificates struct {
	authorizer authorizer.UnconditionalAuthorizer
}

func (certificates) Admit(context.Context, *resource.Attributes) error { return nil }

func (c certificates) Validate(ctx context.Context, a *resource.Attributes) error {
	switch a.Kind {
	case resource.CertificateSigningRequests:
		return c.signingRequest(ctx, a)
	case resource.ClusterTrustBundles:
		return c.trustBundle(ctx, a)
	case resource.PodCertificateRequests:
		return c.podRequest(ctx, a)
	}
	return nil
}

func (c certificates) signingRequest(ctx context.Context, a *resource.Attributes) error {
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

// trustBundle is for who attests for the signer. That is the new bundle's: no
// update changes it.
func (c certificates) trustBundle(ctx context.Context, a *resource.Attributes) error {
	if a.User == nil || a.Operation != resource.Create && a.Operation != resource.Update {
		return nil
	}
	signer := a.Object.(*certificatesv1.ClusterTrustBundle).Spec.SignerName
	if signer == "" || a.Operation == resource.Update && onlyCollects(a.Object, a.OldObject) || c.may(ctx, a.User, "attest", signer) {
		return nil
	}
	return a.Forbidden(fmt.Errorf("user not permitted to attest for signerName %q", signer))
}

// podRequest is answered by who signs. Upstream counts that among what is wrong
// with the object, and so does the answer.
func (c certificates) podRequest(ctx context.Context, a *resource.Attributes) error {
	if a.User == nil || a.Operation != resource.Update || a.Subresource != "status" {
		return nil
	}
	request, old := a.Object.(*certificatesv1.PodCertificateRequest), a.OldObject.(*certificatesv1.PodCertificateRequest)
	signer := old.Spec.SignerName
	if apiequality.Semantic.DeepEqual(request.Status, old.Status) || c.may(ctx, a.User, "sign", signer) {
		return nil
	}
	return apierrors.NewInvalid(a.GroupVersionKind().GroupKind(), a.Name, field.ErrorList{field.Forbidden(field.NewPath("spec", "signerName"),
		fmt.Sprintf("User %q is not permitted to \"sign\" for signer %q", a.User.GetName(), signer))})
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
