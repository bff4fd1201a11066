// Package certificates answers CertificateSigningRequests: it approves those of
// nodes that have the right to their client certificate, signs what was approved
// for a signer that is the cluster itself, and deletes what nobody needs any more,
// requests for pods' certificates too. Approving anything else is for people, other
// signers are for others, and keys are package pki's.
package certificates

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// A request that was not approved by itself is looked at again once it has waited
// as long again, within these bounds: the right may have been given meanwhile.
const (
	lookAgainMin = time.Second
	lookAgainMax = 1000 * time.Second
)

// Authority is the cluster's CA.
type Authority interface {
	// Refuse says why a request is not signed, whoever approved it, or returns nil.
	Refuse(*x509.CertificateRequest) error
	// Issue makes a certificate, PEM.
	Issue(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage, lifetime time.Duration) ([]byte, error)
}

// Config is what a Controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry  *resource.Registry
	Authority Authority
	// Rights decides what who sent a request may do.
	Rights authorizer.UnconditionalAuthorizer
	Logger *slog.Logger
}

// Controller answers signing requests.
type Controller struct {
	cfg      Config
	requests *store.Cache[*certificatesv1.CertificateSigningRequest]
	loop     *controller.Loop[string]
}

// New prepares a controller with copies of its own: there are few requests.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg, requests: store.NewCache[*certificatesv1.CertificateSigningRequest](cfg.Registry.Store(), store.CertificateSigningRequests, nil)}
	c.loop = controller.NewLoop("certificates", 2, cfg.Logger, c.reconcile)
	c.requests.OnChange(func(_, csr *certificatesv1.CertificateSigningRequest) {
		if csr != nil {
			c.loop.Add(csr.Name)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.requests.Run(ctx) })
	group.Go(func() error {
		select {
		case <-c.requests.Synced():
			return c.loop.Run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	return group.Wait()
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	csr, ok := c.requests.Get("", name)
	if !ok || csr.DeletionTimestamp != nil {
		return nil
	}
	if at := goesAt(csr); !at.IsZero() {
		left := time.Until(at)
		if left < 0 {
			return controller.Delete(ctx, c.cfg.Registry, resource.CertificateSigningRequests, csr)
		}
		c.loop.AddAfter(name, left+time.Millisecond)
	}
	todo := nextStep(csr)
	if todo == wait {
		return nil
	}
	request, err := kube.ParseCertificateRequest(csr.Spec.Request)
	if err != nil {
		return fmt.Errorf("certificate request %s: %w", name, err)
	}
	if todo == sign {
		return c.sign(ctx, csr, request)
	}
	return c.approve(ctx, csr, request)
}

// approve lets a node have its certificate if it may ask for it.
func (c *Controller) approve(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) error {
	enough := permissions(csr, request)
	for _, p := range enough {
		decision, _, err := c.cfg.Rights.Authorize(ctx, authorizer.AttributesRecord{
			User: sender(csr), Verb: "create", APIGroup: certificatesv1.GroupName, APIVersion: "*",
			Resource: store.CertificateSigningRequests.Resource.Resource, Subresource: p.subresource, ResourceRequest: true,
		})
		if err != nil {
			return fmt.Errorf("may %s have its certificate: %w", csr.Spec.Username, err)
		}
		if decision != authorizer.DecisionAllow {
			continue
		}
		return controller.Change(ctx, c.cfg.Registry, resource.CertificateSigningRequests, csr, "approval", func(now *certificatesv1.CertificateSigningRequest) bool {
			if nextStep(now) != approve {
				return false
			}
			now.Status.Conditions = append(now.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
				Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: p.message,
			})
			return true
		})
	}
	if len(enough) > 0 {
		c.loop.AddAfter(csr.Name, min(max(time.Since(csr.CreationTimestamp.Time), lookAgainMin), lookAgainMax))
	}
	return nil
}

// sender is who sent a request, as the API server wrote it down.
func sender(csr *certificatesv1.CertificateSigningRequest) user.Info {
	u := &user.DefaultInfo{Name: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: map[string][]string{}}
	for key, values := range csr.Spec.Extra {
		u.Extra[key] = values
	}
	return u
}

// sign issues a certificate, or says for good why there will be none.
func (c *Controller) sign(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) error {
	reason := acceptable(csr.Spec.SignerName, request, csr.Spec.Usages)
	if reason == nil {
		reason = c.cfg.Authority.Refuse(request)
	}
	var certificate []byte
	if reason == nil {
		var err error
		if certificate, err = c.cfg.Authority.Issue(request, csr.Spec.Usages, lifetime(csr.Spec.ExpirationSeconds)); err != nil {
			return err
		}
	}
	return controller.Change(ctx, c.cfg.Registry, resource.CertificateSigningRequests, csr, "status", func(now *certificatesv1.CertificateSigningRequest) bool {
		if nextStep(now) != sign {
			return false
		}
		if reason == nil {
			now.Status.Certificate = certificate
			return true
		}
		now.Status.Conditions = append(now.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure",
			Message: reason.Error(), LastUpdateTime: metav1.Now(),
		})
		return true
	})
}
