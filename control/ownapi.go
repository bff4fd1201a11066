package control

import (
	"context"
	"net"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"

	"github.com/musterhq/muster/consensus/identity"
)

// ownAPI is how a duty asks this node's API server for what others may serve in the
// cluster, as upstream's controller of that name would: with its service account's rights.
// What is stored here is read and written without it. Forget closes its connections.
func (s *Server) ownAPI(controller string) (config *rest.Config, forget func()) {
	address := s.mux.Addr().String()
	base := &http.Transport{
		// Whatever is listened on is on this machine.
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
		TLSClientConfig:     s.id.ClientTLS(identity.ServerName),
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
	}
	return &rest.Config{
		Host:      "https://" + identity.ServerName,
		Transport: base,
		UserAgent: "muster/" + controller,
		Impersonate: rest.ImpersonationConfig{
			UserName: serviceaccount.MakeUsername(metav1.NamespaceSystem, controller),
			Groups:   append(serviceaccount.MakeGroupNames(metav1.NamespaceSystem), user.AllAuthenticated),
		},
	}, base.CloseIdleConnections
}
