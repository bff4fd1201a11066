package identity

import "crypto/tls"

// ServerTLS is for accepting connections. A client's certificate is optional,
// because a machine that joins has none and Kubernetes clients may use bearer
// tokens; one that is given must be the cluster's. Each handshake uses the
// certificate of that moment, so a renewal needs no restart.
func (id *Identity) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs:  id.roots,
		// Go begins each connection with small records, so that browsers can show
		// something sooner; here an answer or an event would be cut into three.
		DynamicRecordSizingDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return id.Certificate(), nil
		},
	}
}

// ClientTLS is for connecting to who can prove to be serverName, usually
// ServerName: any control node of this cluster.
func (id *Identity) ClientTLS(serverName string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    id.roots,
		ServerName: serverName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return id.Certificate(), nil
		},
	}
}
