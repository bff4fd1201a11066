package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"

	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// manifests are objects in files, and how they are applied: by the API server, as
// kubectl apply --server-side does, so that either may go on with the other's.
type manifests struct {
	files     []string
	recursive bool
	namespace string
	manager   string
	force     bool

	// of read and find:

	config   *rest.Config
	fallback string // namespace
	mapper   *restmapper.DeferredDiscoveryRESTMapper
}

func (m *manifests) add(flags *pflag.FlagSet) {
	flags.StringSliceVarP(&m.files, "filename", "f", nil, "file, directory or URL with the objects; - for standard input")
	flags.BoolVarP(&m.recursive, "recursive", "R", false, "read directories in directories, too")
	flags.StringVarP(&m.namespace, "namespace", "n", "", "namespace of objects that name none (default: the context's)")
	flags.StringVar(&m.manager, "field-manager", "kubectl", "whose fields these are")
	flags.BoolVar(&m.force, "force-conflicts", false, "take fields over that others manage")
}

// manifest is one object as it is in a file.
type manifest struct {
	source          string
	given           *unstructured.Unstructured
	Namespace, Name string

	// of who serves it, once found:

	Client  rest.Interface
	Mapping *meta.RESTMapping
}

// name is how an object is called in what is printed.
func (m *manifest) String() string {
	if m.Namespace == "" {
		return m.given.GetKind() + " " + m.Name
	}
	return m.given.GetKind() + " " + m.Namespace + "/" + m.Name
}

// read reads the objects. What serves each is found when it is asked for, as it may be
// one of them that defines it.
func (m *manifests) read(target *operatorFlags) ([]*manifest, error) {
	if len(m.files) == 0 {
		return nil, errors.New("give the objects' files with -f")
	}
	getter := genericclioptions.NewConfigFlags(false)
	getter.KubeConfig, getter.Context = &target.kubeconfig, &target.context
	if m.namespace != "" {
		getter.Namespace = &m.namespace
	}
	if len(target.servers) > 0 {
		server := "https://" + target.servers[0]
		getter.APIServer = &server
	}
	var err error
	if m.config, err = getter.ToRESTConfig(); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	m.config.QPS, m.config.Burst = -1, -1
	if m.fallback, _, err = getter.ToRawKubeConfigLoader().Namespace(); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	infos, err := resource.NewLocalBuilder().Unstructured().ContinueOnError().
		FilenameParam(false, &resource.FilenameOptions{Filenames: m.files, Recursive: m.recursive}).
		Flatten().Do().Infos()
	if err != nil {
		return nil, err
	}
	var list []*manifest
	for _, info := range infos {
		given := info.Object.(*unstructured.Unstructured)
		if info.Name == "" {
			return nil, fmt.Errorf("%s: %s without a name: generated names can't be planned", info.Source, given.GetKind())
		}
		list = append(list, &manifest{source: info.Source, given: given, Name: info.Name, Namespace: given.GetNamespace()})
	}
	return list, nil
}

// find finds what serves an object.
func (m *manifests) find(it *manifest) error {
	if it.Mapping != nil {
		return nil
	}
	if m.mapper == nil {
		client, err := discovery.NewDiscoveryClientForConfig(m.config)
		if err != nil {
			return fmt.Errorf("kubeconfig: %w", err)
		}
		m.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client))
	}
	gvk := it.given.GroupVersionKind()
	mapping, err := m.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		m.mapper.Reset() // somebody may have defined it since
		mapping, err = m.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", it.source, it, err)
	}
	config := rest.CopyConfig(m.config)
	config.APIPath = "/apis"
	if gvk.Group == "" {
		config.APIPath = "/api"
	}
	gv := gvk.GroupVersion()
	config.ContentConfig = resource.UnstructuredPlusDefaultContentConfig()
	config.GroupVersion = &gv
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	switch {
	case mapping.Scope.Name() != meta.RESTScopeNameNamespace:
		it.Namespace = ""
	case m.namespace != "" && it.Namespace != "" && it.Namespace != m.namespace:
		return fmt.Errorf("%s: %s: its namespace is not %s, as -n says", it.source, it, m.namespace)
	case it.Namespace == "":
		it.Namespace = m.fallback
	}
	it.Client, it.Mapping = client, mapping
	return nil
}

// live is the object as it is now, nil if it is not there.
func (m *manifest) live(ctx context.Context) (*unstructured.Unstructured, error) {
	return m.found(m.request(m.Client.Get()).Name(m.Name), ctx)
}

// at is the object as it was at a revision.
func (m *manifest) at(ctx context.Context, revision uint64) (*unstructured.Unstructured, error) {
	list := &unstructured.UnstructuredList{}
	raw, err := m.request(m.Client.Get()).
		Param("fieldSelector", fields.OneTermEqualSelector("metadata.name", m.Name).String()).
		Param("resourceVersion", strconv.FormatUint(revision, 10)).Param("resourceVersionMatch", string(metav1.ResourceVersionMatchExact)).
		DoRaw(ctx)
	if err == nil {
		err = list.UnmarshalJSON(raw)
	}
	switch {
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
		return nil, fmt.Errorf("revision %d is too long ago to know what has changed since: plan again", revision)
	case err != nil || len(list.Items) == 0:
		return nil, err
	}
	return &list.Items[0], nil
}

// apply applies the object, and answers what it is then. version, if given, is the
// only one that is changed.
func (m *manifest) apply(ctx context.Context, how *manifests, dryRun bool, version string) (*unstructured.Unstructured, error) {
	given := m.given.DeepCopy()
	given.SetResourceVersion(version)
	given.SetNamespace(m.Namespace)
	body, err := json.Marshal(given)
	if err != nil {
		return nil, err
	}
	request := m.request(m.Client.Patch(types.ApplyYAMLPatchType)).Name(m.Name).Body(body).
		Param("fieldManager", how.manager).Param("force", strconv.FormatBool(how.force)).Param("fieldValidation", "Strict")
	if dryRun {
		request = request.Param("dryRun", metav1.DryRunAll)
	}
	return m.found(request, ctx)
}

func (m *manifest) request(r *rest.Request) *rest.Request {
	return r.NamespaceIfScoped(m.Namespace, m.Namespace != "").Resource(m.Mapping.Resource.Resource)
}

func (m *manifest) found(r *rest.Request, ctx context.Context) (*unstructured.Unstructured, error) {
	raw, err := answered(ctx, r)
	if apierrors.IsNotFound(err) && m.isAbout(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m, err)
	}
	obj := &unstructured.Unstructured{}
	return obj, obj.UnmarshalJSON(raw)
}

// answered is the answer to a request as it came. The client reads errors for typed
// objects only; without this a refusal would not say why.
func answered(ctx context.Context, r *rest.Request) ([]byte, error) {
	raw, err := r.Do(ctx).Raw()
	if err == nil {
		return raw, nil
	}
	refusal := &apierrors.StatusError{}
	if json.Unmarshal(raw, &refusal.ErrStatus) == nil && refusal.ErrStatus.Status == metav1.StatusFailure && refusal.ErrStatus.Message != "" {
		return nil, refusal
	}
	return nil, err
}

// isAbout says whether what was not found is the object, and not its namespace.
func (m *manifest) isAbout(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Details != nil && status.Status().Details.Name == m.Name &&
		status.Status().Details.Kind == m.Mapping.Resource.Resource
}

// wanted is what of an object its users decide: all but its status and what the
// API server notes.
func wanted(obj *unstructured.Unstructured) map[string]any {
	if obj == nil {
		return nil
	}
	content := obj.DeepCopy().Object
	delete(content, "status")
	for _, field := range []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"} {
		unstructured.RemoveNestedField(content, "metadata", field)
	}
	return content
}

func sameWanted(a, b *unstructured.Unstructured) bool { return reflect.DeepEqual(wanted(a), wanted(b)) }
