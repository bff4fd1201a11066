package pki

import (
	"fmt"

	"github.com/musterhq/muster/consensus/identity"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// AdminKubeconfig makes a new administrator's certificate and the kubeconfig
// that holds it, complete with the key: whoever has the file may do everything.
func (a *Authority) AdminKubeconfig(clusterName, serverURL string) ([]byte, error) {
	const user = "admin"
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	certificate, err := a.SignClient(user, []string{identity.OrgMasters}, leafLifetime, &key.PublicKey)
	if err != nil {
		return nil, err
	}
	encodedKey, err := identity.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	context := user + "@" + clusterName
	text, err := clientcmd.Write(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{
			clusterName: {Server: serverURL, CertificateAuthorityData: a.CertificatePEM()},
		},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{
			context: {ClientCertificateData: certificate, ClientKeyData: encodedKey},
		},
		Contexts:       map[string]*clientcmdapi.Context{context: {Cluster: clusterName, AuthInfo: context}},
		CurrentContext: context,
	})
	if err != nil {
		return nil, fmt.Errorf("write kubeconfig: %w", err)
	}
	return text, nil
}
