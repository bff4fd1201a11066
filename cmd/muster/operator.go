package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterhq/muster/consensus/transport"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func newOperatorCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "operator",
		Short: "Look at and change what the cluster stands on: the store and the control nodes",
		Long: `Look at and change what the cluster stands on: the store and the control nodes.

Every verb speaks to the control nodes as an administrator, with a certificate
of the kubeconfig, and ends with status 0 when it was done and with 1 when it
was not. With -o json it prints what it has to say as JSON. Recover alone speaks
to nobody: it works on the directory of a stopped control node.`,
	}, newKVCommand(), newRaftCommand(), newAutopilotCommand(), newSchedulerCommand(), newKeyringCommand(), newSnapshotCommand(), newRecoverCommand())
}

// group is a command that is only there for its verbs; another word is an error.
func group(cmd *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	// Flags belong to verbs: after a word that is none it is the word that is wrong.
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if words := cmd.Flags().Args(); cmd.HasSubCommands() && len(words) > 0 {
			return cobra.NoArgs(cmd, words)
		}
		return err
	})
	cmd.AddCommand(verbs...)
	return cmd
}

// words accepts from least to most arguments, and otherwise says what they are.
func words(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if least <= len(args) && len(args) <= most {
			return nil
		}
		return fmt.Errorf("want %s; %d arguments were given", cmd.UseLine(), len(args))
	}
}

// operatorTimeout bounds one try of an operator verb at one control node.
const operatorTimeout = 3 * time.Second

// operatorFlags say which cluster an operator verb speaks to, and as whom.
type operatorFlags struct {
	kubeconfig, context string
	servers             []string

	tls *tls.Config // once each has begun
}

func (o *operatorFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig with an administrator's certificate (default: $KUBECONFIG, then ~/.kube/config)")
	flags.StringVar(&o.context, "context", "", "context of the kubeconfig to use")
	flags.StringSliceVar(&o.servers, "server", nil, "address, host:port, of a control node to ask instead of the kubeconfig's; may be given several times, the first that answers is taken")
}

// call asks the first control node that answers, and gives each operatorTimeout.
func (o *operatorFlags) call(ctx context.Context, ask func(context.Context, clusterv1.OperatorClient) error) error {
	return o.each(func(conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, operatorTimeout)
		defer cancel()
		return ask(ctx, clusterv1.NewOperatorClient(conn))
	})
}

// each gives ask one control node after the other until one answers.
func (o *operatorFlags) each(ask func(*grpc.ClientConn) error) error {
	config, err := o.restConfig()
	if err != nil {
		return err
	}
	if o.tls, err = operatorTLS(config); err != nil {
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
		err := o.at(address, ask)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %s", address, transport.Reason(err)))
		// Another control node helps against silence, not against a refusal.
		if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
			break
		}
	}
	return errors.Join(errs...)
}

// at asks one control node. Only for use within each.
func (o *operatorFlags) at(address string, ask func(*grpc.ClientConn) error) error {
	conn, err := transport.DialGRPCWith(address, o.tls)
	if err != nil {
		return err
	}
	defer conn.Close()
	return ask(conn)
}

// followMax bounds the way to the leader, should it change meanwhile.
const followMax = 3

// lead asks the control node that leads, whichever is asked first.
func (o *operatorFlags) lead(ctx context.Context, ask func(clusterv1.RaftClient) error) error {
	return o.leader(ctx, func(conn *grpc.ClientConn) error { return ask(clusterv1.NewRaftClient(conn)) })
}

// leader gives ask the control node that leads.
func (o *operatorFlags) leader(ctx context.Context, ask func(*grpc.ClientConn) error) error {
	var follow func(*grpc.ClientConn, int) error
	follow = func(conn *grpc.ClientConn, further int) error {
		err := ask(conn)
		if status.Code(err) != codes.FailedPrecondition || further == 0 {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, operatorTimeout)
		defer cancel()
		peers, notKnown := clusterv1.NewRaftClient(conn).ListPeers(ctx, &clusterv1.ListPeersRequest{})
		if notKnown != nil || peers.LeaderAddress == "" || peers.Leader == peers.AnsweredBy {
			return err
		}
		return o.at(peers.LeaderAddress, func(conn *grpc.ClientConn) error { return follow(conn, further-1) })
	}
	return o.each(func(conn *grpc.ClientConn) error { return follow(conn, followMax) })
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
