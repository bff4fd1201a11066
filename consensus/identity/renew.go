package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

const (
	// The clock is read again at least this often while waiting: a machine may
	// sleep, and its clock may be set.
	renewalLook = time.Hour
	// Failed renewals are tried again after this, doubled up to renewalLook.
	renewalRetry = time.Minute
)

// RunRenewal replaces the certificate, and its key, once two thirds of its
// life have passed (up to a twentieth later, so that nodes which joined
// together do not come together). sign turns a certificate request (PEM) into
// a certificate (PEM, leaf first). It returns nil when ctx ends; failures are
// logged and tried again.
func (id *Identity) RunRenewal(ctx context.Context, log *slog.Logger, sign func(ctx context.Context, csr []byte) ([]byte, error)) error {
	spread := rand.Float64()
	retry := renewalRetry
	for {
		wait := min(time.Until(renewalDue(id.Certificate(), spread)), renewalLook)
		if wait <= 0 {
			if err := id.renew(ctx, sign); err == nil {
				log.Info("certificate renewed", "expires", id.Certificate().Leaf.NotAfter)
				retry = renewalRetry
				continue
			} else if ctx.Err() == nil {
				log.Warn("certificate renewal failed", "error", err, "expires", id.Certificate().Leaf.NotAfter, "retryAfter", retry)
			}
			wait, retry = retry, min(2*retry, renewalLook)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// Install puts a renewed certificate (PEM, leaf first) and its key into use,
// on disk first when the identity has a directory. Connections made before
// keep the old one.
func (id *Identity) Install(certificate []byte, key *ecdsa.PrivateKey) error {
	checked, err := id.check(certificate, key)
	if err != nil {
		return err
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.dir != "" {
		if err := writeKeyPair(id.dir, checked); err != nil {
			return err
		}
	}
	id.certificate.Store(checked)
	return nil
}

func (id *Identity) renew(ctx context.Context, sign func(context.Context, []byte) ([]byte, error)) error {
	key, err := NewKey()
	if err != nil {
		return err
	}
	csr, err := NewRequest(key, CommonName(id.Role, id.Name), nil, nil)
	if err != nil {
		return err
	}
	certificate, err := sign(ctx, csr)
	if err != nil {
		return err
	}
	if err := id.Install(certificate, key); err != nil {
		return fmt.Errorf("install the renewed certificate: %w", err)
	}
	return nil
}

func renewalDue(c *tls.Certificate, spread float64) time.Time {
	life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
	return c.Leaf.NotBefore.Add(life*2/3 + time.Duration(spread*float64(life)/20))
}

// writeKeyPair writes a certificate and its key, which are two files, so that
// a crash in between can be finished by finishRenewal: the next key first, then
// the certificate, then the key takes its place.
func writeKeyPair(dir string, c *tls.Certificate) error {
	key, err := EncodeKey(c.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		return err
	}
	next := filepath.Join(dir, nextKeyFile)
	if err := WriteFile(next, key, 0o600); err != nil {
		return err
	}
	var text []byte
	for _, der := range c.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := WriteFile(filepath.Join(dir, certificateFile), text, 0o644); err != nil {
		return err
	}
	if err := os.Rename(next, filepath.Join(dir, keyFile)); err != nil {
		return err
	}
	return syncDir(filepath.Join(dir, pkiDir))
}

// finishRenewal returns the key of the certificate: the one in place, or the
// next one when a crash kept it from taking its place, which it then does.
func finishRenewal(dir string, certificate []byte, key *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	chain, err := parseCertificates(certificate)
	if err != nil || key.PublicKey.Equal(chain[0].PublicKey) {
		return key, err
	}
	path := filepath.Join(dir, nextKeyFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return key, nil // New says that the two do not fit
	}
	next, err := ParseKey(text)
	if err != nil || !next.PublicKey.Equal(chain[0].PublicKey) {
		return key, nil
	}
	if err := os.Rename(path, filepath.Join(dir, keyFile)); err != nil {
		return nil, err
	}
	return next, syncDir(filepath.Join(dir, pkiDir))
}
