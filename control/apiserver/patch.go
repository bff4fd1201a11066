package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"github.com/musterhq/muster/control/audit"
	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// patchOperationsMax bounds the operations of a JSON patch, as upstream.
const patchOperationsMax = 10_000

// patchTypes are the ways of saying what should change.
var patchTypes = []string{
	string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType),
}

// customPatchTypes are those of them that need no Go type.
var customPatchTypes = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.ApplyYAMLPatchType)}

// patch changes parts of an object.
func (s *Server) patch(w http.ResponseWriter, r *http.Request, c *call) error {
	out, err := c.negotiate(r, asTable, asPartial)
	if err != nil {
		return err
	}
	p := &patch{ctx: r.Context()}
	accepted := patchTypes
	if c.kind.Schema != nil && !isScale(c) {
		p.custom, accepted = c.kind, customPatchTypes
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return unsupportedMedia(accepted...)
	}
	switch p.kind = types.PatchType(media); p.kind {
	case types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType:
	default:
		return unsupportedMedia(accepted...)
	}
	if p.custom != nil && p.kind == types.StrategicMergePatchType {
		return unsupportedMedia(accepted...) // only Go types say how lists merge
	}
	if p.body, err = readBody(r); err != nil {
		return err
	}
	if p.kind != types.ApplyYAMLPatchType && !json.Valid(p.body) {
		return apierrors.NewBadRequest("invalid JSON patch")
	}
	audit.From(r.Context()).SentPatch(p.body)
	options := &metav1.PatchOptions{}
	if err := decodeQuery(r.URL.Query(), options); err != nil {
		return err
	}
	if err := invalidOptions("PatchOptions", metav1validation.ValidatePatchOptions(options, p.kind)); err != nil {
		return err
	}
	p.directive = fieldValidation(options.FieldValidation)
	how := resource.UpdateOptions{DryRun: len(options.DryRun) > 0, FieldManager: fieldManager(r, options.FieldManager), FieldValidation: options.FieldValidation, Patch: true}
	var applied *apply
	if p.kind == types.ApplyYAMLPatchType {
		applied = &apply{
			ctx: p.ctx, manager: options.FieldManager, force: options.Force != nil && *options.Force, body: p.body, directive: p.directive,
		}
		how.FieldsManaged, how.ForceAllowCreate, how.MayCreate = true, true, s.mayCreate(r, c)
	}
	if isScale(c) {
		updated, err := s.registry.UpdateScale(r.Context(), c.kind, c.namespace, c.name, func(current *autoscalingv1.Scale) (scale *autoscalingv1.Scale, err error) {
			if applied != nil {
				scale, err = applied.toScale(current)
			} else {
				scale = &autoscalingv1.Scale{}
				err = p.apply(current, scale, scaleKind)
			}
			if err != nil {
				return nil, err
			}
			return scale, checkName(c, scale)
		}, how)
		if err != nil {
			return err
		}
		out.as = ""
		return s.send(w, r, http.StatusOK, scaleKind, updated, out)
	}
	updated, created, err := s.registry.Update(r.Context(), c.kind, c.namespace, c.name, c.subresource, func(current store.Object) (store.Object, error) {
		if applied != nil {
			obj, err := applied.to(c.kind, c.subresource, current)
			if err != nil {
				return nil, err
			}
			return obj, checkName(c, obj)
		}
		if current.GetUID() == "" {
			// Only server-side apply makes an object out of a patch.
			return nil, apierrors.NewNotFound(c.kind.Qualified(), c.name)
		}
		obj := c.kind.Spec.New()
		if err := p.apply(current, obj, c.kind.Spec.Kind); err != nil {
			return nil, err
		}
		return obj, checkName(c, obj)
	}, how)
	if err != nil {
		return err
	}
	return s.sendObject(w, r, okOrCreated(created), c, updated, out)
}

// patch is a change that can be applied again when another write came first.
type patch struct {
	ctx       context.Context
	kind      types.PatchType
	body      []byte
	directive string
	// custom is the kind of the object when it has a schema instead of a Go type.
	custom *resource.Kind
}

// apply makes obj, an empty object of the kind, from current and the patch.
func (p *patch) apply(current, obj runtime.Object, kind schema.GroupVersionKind) error {
	if p.kind == types.StrategicMergePatchType {
		return p.applyStrategic(current, obj)
	}
	current.GetObjectKind().SetGroupVersionKind(kind)
	document, err := json.Marshal(current)
	if err != nil {
		return err
	}
	patched, strict, err := p.applyJSON(document)
	if err != nil {
		return err
	}
	return p.read(patched, strict, obj, kind)
}

// applyJSON applies a JSON or merge patch to a document.
func (p *patch) applyJSON(document []byte) (patched []byte, strict []error, err error) {
	if p.kind == types.JSONPatchType {
		if p.directive != metav1.FieldValidationIgnore {
			var operations []struct {
				Op    string `json:"op"`
				Path  string `json:"path"`
				From  string `json:"from"`
				Value any    `json:"value"`
			}
			if strict, err = kjson.UnmarshalStrict(p.body, &operations); err != nil {
				return nil, nil, badRequest(fmt.Errorf("error decoding patch: %w", err))
			}
			for i, e := range strict {
				strict[i] = fmt.Errorf("json patch %w", e)
			}
		}
		operations, err := jsonpatch.DecodePatch(p.body)
		if err != nil {
			return nil, nil, badRequest(err)
		}
		if len(operations) > patchOperationsMax {
			return nil, nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", patchOperationsMax, len(operations)))
		}
		if patched, err = operations.Apply(document); err != nil {
			return nil, nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
		}
		return patched, strict, nil
	}
	if p.directive != metav1.FieldValidationIgnore {
		fields := map[string]any{}
		if strict, err = kjson.UnmarshalStrict(p.body, &fields); err != nil {
			return nil, nil, badRequest(fmt.Errorf("error decoding patch: %w", err))
		}
	}
	patched, err = jsonpatch.MergePatch(document, p.body)
	if err != nil {
		return nil, nil, badRequest(err)
	}
	return patched, strict, nil
}

// read decodes a patched document. strict is what was wrong with the patch.
func (p *patch) read(patched []byte, strict []error, obj runtime.Object, kind schema.GroupVersionKind) error {
	info, ok := runtime.SerializerInfoForMediaType(kube.Codecs.SupportedMediaTypes(), mediaJSON)
	if !ok {
		return errors.New("no JSON serializer")
	}
	if p.custom != nil {
		found, _, err := decodeCustom(info, patched, p.custom, obj.(store.Object), p.directive)
		if err != nil {
			return invalidPatch(string(patched), err)
		}
		return p.judge(append(strict, found...), string(patched))
	}
	decoder := info.Serializer
	if p.directive != metav1.FieldValidationIgnore {
		decoder = info.StrictSerializer
	}
	got, _, err := decoder.Decode(patched, &kind, obj)
	if err != nil {
		found, isStrict := runtime.AsStrictDecodingError(err)
		if !isStrict {
			return invalidPatch(string(patched), err)
		}
		strict = append(strict, found.Errors()...)
	} else if got != obj {
		return invalidPatch(string(patched), fmt.Errorf("the patch changes the kind to %s", got.GetObjectKind().GroupVersionKind().Kind))
	}
	return p.judge(strict, string(patched))
}

// judge does with violations of strict decoding what the directive says.
func (p *patch) judge(strict []error, patched string) error {
	switch {
	case len(strict) == 0 || p.directive == metav1.FieldValidationIgnore:
		return nil
	case p.directive == metav1.FieldValidationWarn:
		warnStrict(p.ctx, strict)
		return nil
	}
	return invalidPatch(patched, runtime.NewStrictDecodingError(strict))
}

func invalidPatch(patched any, err error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{
		field.Invalid(field.NewPath("patch"), patched, err.Error()),
	})
}
