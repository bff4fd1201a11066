package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterhq/muster/consensus/transport"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// operatorTimeout bounds one try of an operator verb at one control node.
const operatorTimeout = 3 * time.Second

// operatorFlags say which cluster an operator verb speaks to, and as whom.
type operatorFlags struct {
	kubeconfig, context string
	servers             []string
}

func (o *operatorFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig with an administrator's certificate (default: $KUBECONFIG, then ~/.kube/config)")
	flags.StringVar(&o.context, "context", "", "context of the kubeconfig to use")
	flags.StringSliceVar(&o.servers, "server", nil, "address, host:port, of a control node to ask instead of the kubeconfig's; may be given several times, the first that answers is taken")
}

// call asks the first control node that answers.
func (o *operatorFlags) call(ctx context.Context, ask func(clusterv1.OperatorClient) error) error {
	config, err := o.restConfig()
	if err != nil {
		return err
	}
	tlsConfig, err := operatorTLS(config)
	if err != nil {
		return err
	}
	addresses := o.servers
	if len(addresses) == 0 {
		server, err := url.Parse(config.Host)
		if err != nil || server.Host == "" {
			return fmt.Errorf("kubeconfig: server %q is not a URL", config.Host)
		}
		addresses = []string{server.Host}
	}
	var errs []error
	for _, address := range addresses {
		err := func() error {
			conn, err := transport.DialGRPCWith(address, tlsConfig)
			if err != nil {
				return err
			}
			defer conn.Close()
			return ask(clusterv1.NewOperatorClient(conn))
		}()
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %s", address, status.Convert(err).Message()))
		// Another control node helps against silence, not against a refusal.
		if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
			break
		}
	}
	return errors.Join(errs...)
}

func (o *operatorFlags) restConfig() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return config, nil
}

func operatorTLS(config *rest.Config) (*tls.Config, error) {
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	if len(config.CertData) == 0 {
		return nil, errors.New("kubeconfig: operator verbs need a client certificate of an administrator, and the user has none; a control node's directory holds admin.kubeconfig")
	}
	certificate, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: client certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(config.CAData) {
		return nil, errors.New("kubeconfig: certificate-authority-data holds no certificate")
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{certificate}}, nil
}
