package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/control"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func newServerCommand() *cobra.Command {
	var (
		logs     logFlags
		cfg      control.Config
		settings clusterv1.ClusterSettings

		restorePassphrase, snapshotPassphrase passphraseFlags
	)
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a control node",
		Long: `Run a control node.

The first one makes the cluster; the others join it. A directory that holds a
control node is all that a later start needs.

  muster server --init --name c1 --dir /var/lib/muster --address 10.0.0.1:6443
  muster server --join 10.0.0.1:6443 --token "$TOKEN" --name c2 --dir /var/lib/muster --address 10.0.0.2:6443
  muster server --dir /var/lib/muster
  muster server --init --restore cluster.snapshot --name c1 --dir /var/lib/muster --address 10.0.0.1:6443

The last makes a cluster anew of a saved one, with its keys and its objects, in
an empty directory: its compute nodes come back, and other control nodes join by
a token. With --snapshot-dir the node saves the cluster there every hour.

The directory then holds server-token and agent-token, with which others join
(first node only; muster token makes more), and admin.kubeconfig.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Getenv("GOGC") == "" {
				go tendGarbage(cmd.Context())
			}
			log, err := logs.logger()
			if err != nil {
				return err
			}
			cfg.Version, cfg.Logger, cfg.Settings = version, log, &settings
			if cfg.RestorePassphrase, err = restorePassphrase.read(cmd.InOrStdin()); err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			if cfg.Snapshots.Passphrase, err = snapshotPassphrase.read(cmd.InOrStdin()); err != nil {
				return fmt.Errorf("snapshots: %w", err)
			}
			server, err := control.New(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			go giveBack(cmd.Context(), server.Ready(), cfg.Logger)
			go endInTime(cmd.Context(), stopMax)
			return server.Run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Dir, "dir", "/var/lib/muster", "directory that holds all that this node keeps")
	flags.StringVar(&cfg.Name, "name", "", "name of this node, for good; no other node may have it (default: the last start's, at first the host name)")
	flags.BoolVar(&cfg.Init, "init", false, "make a new cluster with this node as its first")
	flags.StringVar(&cfg.Restore, "restore", "", "with --init: file of a saved cluster to make the new one of; --dir must be empty")
	flags.StringVar(&restorePassphrase.file, "restore-passphrase-file", "", "file that holds the passphrase of --restore, - for standard input")
	flags.StringSliceVar(&cfg.Join, "join", nil, "address, host:port, of a control node to join through; may be given several times")
	flags.StringVar(&cfg.Token, "token", "", "server token of the cluster to join")
	flags.StringVar(&cfg.Address, "address", "", "address, host:port, at which the other nodes reach this one (default: the last start's, at first this machine's address and port 6443)")
	flags.StringVar(&cfg.Listen, "listen", "", "address, host:port, to listen on (default: every address, the port of --address)")
	flags.StringVar(&cfg.GossipAddress, "gossip-address", "", "address, host:port, of gossip, UDP and TCP (default: the host of --address, port 7946)")
	flags.StringSliceVar(&cfg.TLSSANs, "tls-san", nil, "further host name or IP address under which clients reach this node, such as that of a load balancer; may be given several times")
	flags.StringVar(&settings.PodCidr, "pod-cidr", control.DefaultPodCIDR, "with --init: range that pods get their addresses from")
	flags.Uint32Var(&settings.NodeCidrBits, "node-cidr-bits", control.DefaultNodeCIDRBits, "with --init: prefix length of the part of --pod-cidr that each node gets")
	flags.StringVar(&settings.ServiceCidr, "service-cidr", control.DefaultServiceCIDR, "with --init: range that services get their addresses from")
	flags.DurationVar(&cfg.NotReadyToleration, "not-ready-toleration", control.DefaultNotReadyToleration, "how long pods that say nothing of it stay on a node that is not ready")
	flags.DurationVar(&cfg.UnreachableToleration, "unreachable-toleration", control.DefaultUnreachableToleration, "how long pods that say nothing of it stay on a node that is not heard")
	flags.StringSliceVar(&cfg.ServiceAccounts.Issuers, "service-account-issuer", []string{control.DefaultServiceAccountIssuer}, "who issues service accounts' tokens, a URL; given several times, the first is in new tokens and all are accepted; give all control nodes the same")
	flags.StringSliceVar(&cfg.ServiceAccounts.Audiences, "api-audiences", nil, "audiences of this API in service accounts' tokens (default: the issuers)")
	flags.StringVar(&cfg.ServiceAccounts.KeysURI, "service-account-jwks-uri", "", "where others read the keys that verify service accounts' tokens (default: this node's /openid/v1/jwks)")
	flags.DurationVar(&cfg.ServiceAccounts.MaxExpiration, "service-account-max-token-expiration", 0, "how long a service account's token is good at most, 1h or more (0: as long as is asked for)")
	flags.StringVar(&cfg.OIDC.File, "authentication-config", "", "file with an AuthenticationConfiguration (apiserver.config.k8s.io), which says whose tokens admit people; excludes --oidc-issuer-url")
	flags.StringVar(&cfg.OIDC.Issuer, "oidc-issuer-url", "", "URL (https) of the identity provider whose tokens admit people")
	flags.StringVar(&cfg.OIDC.ClientID, "oidc-client-id", "", "with --oidc-issuer-url: audience that the tokens must have")
	flags.StringVar(&cfg.OIDC.UsernameClaim, "oidc-username-claim", "sub", "with --oidc-issuer-url: claim that is the user's name")
	flags.StringVar(&cfg.OIDC.UsernamePrefix, "oidc-username-prefix", "", "with --oidc-issuer-url: what the names begin with (default: the issuer and #, unless the claim is email; -: nothing)")
	flags.StringVar(&cfg.OIDC.GroupsClaim, "oidc-groups-claim", "", "with --oidc-issuer-url: claim that holds the user's groups")
	flags.StringVar(&cfg.OIDC.GroupsPrefix, "oidc-groups-prefix", "", "with --oidc-issuer-url: what the groups begin with")
	flags.StringToStringVar(&cfg.OIDC.RequiredClaims, "oidc-required-claim", nil, "with --oidc-issuer-url: CLAIM=VALUE that tokens must have; may be given several times")
	flags.StringSliceVar(&cfg.OIDC.SigningAlgorithms, "oidc-signing-algs", nil, "with --oidc-issuer-url: algorithms that tokens may be signed with (default: RS256)")
	flags.StringVar(&cfg.OIDC.CAFile, "oidc-ca-file", "", "with --oidc-issuer-url: file of the CA certificates, PEM, by which the provider is known (default: the system's)")
	flags.DurationVar(&cfg.Heartbeat, "raft-heartbeat", 0, "how long a follower waits for the leader before it asks for an election (0: 400ms, for a LAN)")
	flags.DurationVar(&cfg.Election, "raft-election", 0, "how long a candidate waits for votes (0: the same as --raft-heartbeat)")
	flags.IntVar(&cfg.RaftMultiplier, "raft-multiplier", 1, "makes raft's three timers as many times as long, for slow machines or distances beyond a LAN (1 to 20); give all control nodes the same")
	flags.DurationVar(&cfg.LeaderLease, "raft-leader-lease", 0, "how long a leader goes on without hearing a quorum (0: 150ms)")
	flags.Int64Var(&cfg.SnapshotLogBytes, "raft-snapshot-bytes", 0, "bytes that raft's log grows by before a snapshot replaces it, or the last snapshot's size if that is more (0: 67108864)")
	flags.StringVar(&cfg.Snapshots.Dir, "snapshot-dir", "", "directory to save the cluster to, again and again (default: it is not saved)")
	flags.DurationVar(&cfg.Snapshots.Every, "snapshot-every", time.Hour, "with --snapshot-dir: how often, unless nothing has changed")
	flags.IntVar(&cfg.Snapshots.Keep, "snapshot-keep", 24, "with --snapshot-dir: how many of this node's snapshots are kept")
	flags.StringVar(&snapshotPassphrase.file, "snapshot-passphrase-file", "", "with --snapshot-dir: file that holds a passphrase to encrypt with; the snapshots hold the cluster's keys")
	flags.StringVar(&cfg.Audit.PolicyFile, "audit-policy-file", "", "file with an audit.k8s.io/v1 Policy, which says which requests are written down and how much of them (default: none is)")
	flags.StringVar(&cfg.Audit.Path, "audit-log-path", "", "file that requests are written to as --audit-policy-file says, a JSON object on each line; - for standard output")
	flags.IntVar(&cfg.Audit.MaxSize, "audit-log-maxsize", 100, "megabytes that the audit log grows to before it is set aside and a new one begun")
	flags.IntVar(&cfg.Audit.MaxBackups, "audit-log-maxbackup", 0, "how many audit logs that were set aside are kept (0: all)")
	flags.IntVar(&cfg.Audit.MaxAge, "audit-log-maxage", 0, "days that audit logs are kept that were set aside (0: for ever)")
	logs.add(flags)
	return cmd
}
