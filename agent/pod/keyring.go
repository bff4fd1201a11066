package pod

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/agent/runtime"
)

// defaultRegistry is what Docker's own registry is called in credentials, for
// images that name none.
const defaultRegistry = "index.docker.io"

// keyring are the credentials of a pod's pull secrets, as kubelet takes them: each
// with the registry, or the beginning of a path in it, that it is for. A part of
// the host may be a pattern.
type keyring []login

type login struct {
	scope string // without a scheme
	runtime.Credentials
}

// pullSecrets are the credentials of the pod's secrets, the narrowest first. missing are
// the secrets that are not there or not understood.
func (w *worker) pullSecrets(pod *corev1.Pod) (ring keyring, missing []string) {
	if w.m.cfg.Contents == nil {
		return nil, nil
	}
	for _, ref := range pod.Spec.ImagePullSecrets {
		if ref.Name == "" {
			continue
		}
		secret, err := w.m.cfg.Contents.Secret(pod.Namespace, ref.Name)
		var found keyring
		if err == nil && secret != nil {
			found, err = credentialsIn(secret)
		}
		if err != nil || secret == nil {
			w.log.Debug("a pull secret can't be used", "secret", ref.Name, "err", err)
			missing = append(missing, ref.Name)
		}
		ring = append(ring, found...)
	}
	slices.SortStableFunc(ring, func(a, b login) int { return cmp.Compare(b.scope, a.scope) })
	return ring, missing
}

// dockerConfig is the part of Docker's configuration that tells credentials.
type dockerConfig map[string]struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Auth     string `json:"auth"` // both, and what counts if it is there
}

// credentialsIn reads a secret of either of the types for pulling. One of another
// type has none.
func credentialsIn(secret *corev1.Secret) (keyring, error) {
	var config dockerConfig
	switch secret.Type {
	case corev1.SecretTypeDockerConfigJson:
		var file struct {
			Auths dockerConfig `json:"auths"`
		}
		if err := json.Unmarshal(secret.Data[corev1.DockerConfigJsonKey], &file); err != nil {
			return nil, errors.New("not a Docker configuration") // the text may have a password in it
		}
		config = file.Auths
	case corev1.SecretTypeDockercfg:
		if err := json.Unmarshal(secret.Data[corev1.DockerConfigKey], &config); err != nil {
			return nil, errors.New("not a Docker configuration")
		}
	}
	var ring keyring
	for registry, entry := range config {
		scope, err := scopeOf(registry)
		if err != nil {
			continue
		}
		as := runtime.Credentials{Username: entry.Username, Password: entry.Password}
		if entry.Auth != "" {
			if as, err = decoded(entry.Auth); err != nil {
				return nil, err
			}
		}
		ring = append(ring, login{scope, as})
	}
	return ring, nil
}

// scopeOf is a registry, or a path in one. Docker wrote an API's address there.
func scopeOf(registry string) (string, error) {
	if !strings.HasPrefix(registry, "https://") && !strings.HasPrefix(registry, "http://") {
		registry = "https://" + registry
	}
	parsed, err := url.Parse(registry)
	if err != nil {
		return "", fmt.Errorf("registry: %w", err)
	}
	in := parsed.Path
	if strings.HasPrefix(in, "/v1/") || strings.HasPrefix(in, "/v2/") {
		in = in[len("/v1"):]
	}
	if in == "/" {
		in = ""
	}
	return parsed.Host + in, nil
}

// decoded reads USERNAME:PASSWORD in base64.
func decoded(auth string) (runtime.Credentials, error) {
	text, err := base64.StdEncoding.DecodeString(auth)
	if err != nil {
		text, err = base64.RawStdEncoding.DecodeString(auth)
	}
	name, password, ok := strings.Cut(string(text), ":")
	if err != nil || !ok {
		return runtime.Credentials{}, errors.New("unable to parse auth field, must be formatted as base64(username:password)")
	}
	return runtime.Credentials{Username: name, Password: password}, nil
}

// of are the credentials to try for an image, in their order. None: it is pulled
// without.
func (k keyring) of(image string) []runtime.Credentials {
	named, err := reference.ParseDockerRef(image)
	if err != nil {
		return nil
	}
	var fitting []runtime.Credentials
	for _, c := range k {
		if covers(c.scope, named.Name()) {
			fitting = append(fitting, c.Credentials)
		}
	}
	if len(fitting) > 0 || reference.Domain(named) != "docker.io" {
		return fitting
	}
	for _, c := range k {
		if c.scope == defaultRegistry {
			fitting = append(fitting, c.Credentials)
		}
	}
	return fitting
}

// covers says whether a scope is that of a repository: the host's parts fit, the
// port is the same, and the path begins like it.
func covers(scope, repository string) bool {
	scopeHost, scopePath, _ := strings.Cut(scope, "/")
	host, in, _ := strings.Cut(repository, "/")
	patterns, scopePort := hostParts(scopeHost)
	parts, port := hostParts(host)
	if port != scopePort || len(parts) != len(patterns) || !strings.HasPrefix(in, scopePath) {
		return false
	}
	for i := range parts {
		if matched, err := path.Match(patterns[i], parts[i]); err != nil || !matched {
			return false
		}
	}
	return true
}

func hostParts(address string) (parts []string, port string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = address, ""
	}
	return strings.Split(host, "."), port
}
