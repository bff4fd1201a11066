package control

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/controller/apiservice"
	"github.com/musterhq/muster/control/controller/autoscaling"
	"github.com/musterhq/muster/control/controller/certificates"
	"github.com/musterhq/muster/control/controller/clusterroleaggregation"
	"github.com/musterhq/muster/control/controller/clustertrust"
	"github.com/musterhq/muster/control/controller/cronjob"
	"github.com/musterhq/muster/control/controller/customresource"
	"github.com/musterhq/muster/control/controller/daemonset"
	"github.com/musterhq/muster/control/controller/deployment"
	"github.com/musterhq/muster/control/controller/disruption"
	"github.com/musterhq/muster/control/controller/endpoints"
	"github.com/musterhq/muster/control/controller/ephemeralvolume"
	"github.com/musterhq/muster/control/controller/eventttl"
	"github.com/musterhq/muster/control/controller/flowschema"
	"github.com/musterhq/muster/control/controller/garbage"
	"github.com/musterhq/muster/control/controller/job"
	"github.com/musterhq/muster/control/controller/kubernetesservice"
	"github.com/musterhq/muster/control/controller/namespace"
	"github.com/musterhq/muster/control/controller/nodeipam"
	"github.com/musterhq/muster/control/controller/nodelifecycle"
	"github.com/musterhq/muster/control/controller/podgc"
	"github.com/musterhq/muster/control/controller/policystatus"
	"github.com/musterhq/muster/control/controller/replication"
	"github.com/musterhq/muster/control/controller/resourcequota"
	"github.com/musterhq/muster/control/controller/rootca"
	"github.com/musterhq/muster/control/controller/serviceaccount"
	"github.com/musterhq/muster/control/controller/servicecidr"
	"github.com/musterhq/muster/control/controller/servicerepair"
	"github.com/musterhq/muster/control/controller/statefulset"
	"github.com/musterhq/muster/control/controller/storageprotection"
	"github.com/musterhq/muster/control/controller/tokensecret"
	"github.com/musterhq/muster/control/controller/volumebinding"
	"github.com/musterhq/muster/control/operator"
	"github.com/musterhq/muster/control/pki"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/scheduler"
)

// Files of a founder's directory, beside its identity.
const (
	foundedFile        = "founded"
	serverTokenFile    = "server-token"
	agentTokenFile     = "agent-token"
	adminKubeconfig    = "admin.kubeconfig"
	adminConfigCluster = "muster"
)

// duties is what the leader does, and only the leader: being on this list, or
// on the list of reign, is what makes work leader-only.
func (s *Server) duties() []consensus.Duty {
	return []consensus.Duty{
		{Name: "founding", Run: s.found},
		{Name: "controllers", Run: s.reign},
		{Name: "autopilot", Run: func(ctx context.Context, term *consensus.Term) error {
			return s.autopilot.Run(ctx, s.store.WithLog(term))
		}},
	}
}

// found gives a new cluster its first objects, and its founder the tokens with
// which others join. In a cluster that has them it writes nothing.
func (s *Server) found(ctx context.Context, term *consensus.Term) error {
	st := s.store.WithLog(term)
	// Before anything else, so that no secret has to wait for it.
	if err := st.Keyring().Ensure(ctx); err != nil {
		return err
	}
	if err := resource.EnsureBootstrap(ctx, s.registry.With(st)); err != nil {
		return err
	}
	if err := resource.EnsureRoles(ctx, s.registry.With(st)); err != nil {
		if ctx.Err() != nil {
			return err
		}
		// Disks may be full, say. Roles that lack must not cost the leadership.
		s.cfg.Logger.Error("the cluster's own roles are not complete, the next leader tries again", "error", err)
	}
	if !s.founder {
		return nil
	}
	done := filepath.Join(s.cfg.Dir, foundedFile)
	if _, err := os.Stat(done); err == nil {
		return nil
	}
	tokens := &tokens{store: st, authority: s.authority}
	for file, role := range map[string]identity.Role{serverTokenFile: identity.Server, agentTokenFile: identity.Agent} {
		token, err := tokens.Create(ctx, operator.Token{Role: string(role)})
		if err != nil {
			return err
		}
		if err := identity.WriteFile(filepath.Join(s.cfg.Dir, file), []byte(token+"\n"), 0o600); err != nil {
			return err
		}
	}
	return identity.WriteFile(done, []byte("This node made the cluster; its first tokens were written beside this file.\n"), 0o600)
}

// ensureFirstObjects gives a cluster the objects that none is without.
func ensureFirstObjects(ctx context.Context, registry *resource.Registry) error {
	if err := resource.EnsureBootstrap(ctx, registry); err != nil {
		return err
	}
	return resource.EnsureRoles(ctx, registry)
}

// reign runs the scheduler and all controllers of one term. They share the
// decoded copies of what they look at, and write through the term only.
func (s *Server) reign(ctx context.Context, term *consensus.Term) error {
	st := s.store.WithLog(term)
	registry := s.registry.With(st)
	log := s.cfg.Logger.With("part", "controllers", "term", term.Number())
	podCIDR, err := netip.ParsePrefix(s.id.Settings.PodCidr)
	if err != nil {
		return fmt.Errorf("pod range: %w", err)
	}
	serviceCIDR, err := netip.ParsePrefix(s.id.Settings.ServiceCidr)
	if err != nil {
		return fmt.Errorf("service range: %w", err)
	}
	caches := controller.NewCaches(st)
	events := controller.NewRecorder(registry, log)
	presence := s.dispatch.NewPresence()
	scheduler := scheduler.New(scheduler.Config{Registry: registry, Caches: caches, Events: events, Logger: log})
	s.scheduler.Store(scheduler)
	defer s.scheduler.Store(nil)
	api, forget := s.ownAPI("horizontal-pod-autoscaler")
	defer forget()
	autoscalers, err := autoscaling.New(autoscaling.Config{Registry: registry, Caches: caches, Events: events, API: api, Logger: log})
	if err != nil {
		return err
	}

	type runner interface{ Run(context.Context) error }
	list := []runner{
		presence,
		scheduler,
		replication.NewReplicaSets(replication.Config{Registry: registry, Caches: caches, Events: events, Logger: log}),
		replication.NewReplicationControllers(replication.Config{Registry: registry, Caches: caches, Events: events, Logger: log}),
		deployment.New(deployment.Config{Registry: registry, Caches: caches, Events: events, Logger: log}),
		daemonset.New(daemonset.Config{Registry: registry, Caches: caches, Events: events, Logger: log}),
		job.New(job.Config{Registry: registry, Caches: caches, Events: events, Logger: log}),
		cronjob.New(cronjob.Config{Registry: registry, Caches: caches, Events: events, Logger: log}),
		statefulset.New(statefulset.Config{Registry: registry, Caches: caches, Events: events, Logger: log}),
		autoscalers,
		disruption.New(disruption.Config{Registry: registry, Caches: caches, Events: events, Logger: log}),
		endpoints.New(endpoints.Config{Registry: registry, Caches: caches, Events: events, Logger: log}),
		nodeipam.New(nodeipam.Config{Registry: registry, Caches: caches, PodCIDR: podCIDR, NodeBits: int(s.id.Settings.NodeCidrBits), Logger: log}),
		nodelifecycle.New(nodelifecycle.Config{Registry: registry, Caches: caches, Events: events, Presence: presence, Logger: log}),
		podgc.New(podgc.Config{Registry: registry, Caches: caches, Logger: log}),
		garbage.New(garbage.Config{Registry: registry, Logger: log}),
		apiservice.New(apiservice.Config{Registry: registry, Probe: s.probeAPIService, Logger: log}),
		clustertrust.New(clustertrust.Config{
			Registry: registry, ClientCA: s.authority.CertificatePEM(),
			FrontProxyCA: s.frontProxy.CertificatePEM, FrontProxyName: pki.FrontProxyName, Logger: log,
		}),
		certificates.New(certificates.Config{Registry: registry, Authority: s.authority, Rights: s.authorizer.Upstream(), Logger: log}),
		certificates.NewCleaner(registry, log),
		clusterroleaggregation.New(clusterroleaggregation.Config{Registry: registry, Logger: log}),
		namespace.New(namespace.Config{Registry: registry, Caches: caches, Logger: log}),
		policystatus.New(policystatus.Config{Registry: registry, Document: document, Logger: log}),
		flowschema.New(flowschema.Config{Registry: registry, Logger: log}),
		ephemeralvolume.New(ephemeralvolume.Config{Registry: registry, Caches: caches, Events: events, Logger: log}),
		volumebinding.New(volumebinding.Config{Registry: registry, Caches: caches, Events: events, Logger: log}),
		storageprotection.New(storageprotection.Config{Registry: registry, Caches: caches, Logger: log}),
		resourcequota.New(resourcequota.Config{Registry: registry, Logger: log}),
		serviceaccount.New(serviceaccount.Config{Registry: registry, Caches: caches, Logger: log}),
		rootca.New(rootca.Config{Registry: registry, Caches: caches, Certificate: s.authority.CertificatePEM(), Logger: log}),
		rootca.NewBundle(registry, s.authority.CertificatePEM(), log),
		tokensecret.New(tokensecret.Config{Registry: registry, Sign: s.serviceAccounts.SignLegacy, Certificate: s.authority.CertificatePEM(), Logger: log}),
		customresource.New(customresource.Config{Registry: registry, Logger: log}),
		kubernetesservice.New(kubernetesservice.Config{Registry: registry, ServiceCIDR: serviceCIDR, Servers: s.apiServers, Logger: log}),
		servicecidr.New(servicecidr.Config{Registry: registry, Logger: log}),
		servicerepair.New(servicerepair.Config{Registry: registry, Caches: caches, Events: events, Logger: log}),
		eventttl.New(eventttl.Config{Registry: registry, Logger: log}),
		events,
		// Last, because everything above listens to them.
		caches,
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, r := range list {
		group.Go(func() error { return r.Run(ctx) })
	}
	log.Info("this node leads")
	return group.Wait()
}
