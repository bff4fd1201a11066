package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/kube"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// logFirst is how long a log may stay silent before the client is told that it
// has begun. Until then an agent's error still becomes an HTTP status.
const logFirst = time.Second

// podLog serves pods/log: what a container printed, and, followed, what it prints.
func (s *Server) podLog(w http.ResponseWriter, r *http.Request, c *call) error {
	options := &corev1.PodLogOptions{}
	if err := kube.ParameterCodec.DecodeParameters(r.URL.Query(), corev1.SchemeGroupVersion, options); err != nil {
		return badRequest(err)
	}
	if errs := validateLogOptions(options); len(errs) > 0 {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), c.name, errs)
	}
	pod, err := s.pod(r.Context(), c)
	if err != nil {
		return err
	}
	container, err := containerOf(pod, options.Container)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		// Nothing ran, so nothing was printed: upstream's answer.
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	request := logRequest(pod, container, options, time.Now())
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stream, err := s.streams.Open(ctx, pod.Spec.NodeName, &agentv1.OpenStream{Request: &agentv1.OpenStream_Log{Log: request}})
	if err != nil {
		return fmt.Errorf("open a stream to node %s: %w", pod.Spec.NodeName, err)
	}
	return copyLog(ctx, cancel, w, stream, options.Follow, options.LimitBytes)
}

func validateLogOptions(options *corev1.PodLogOptions) field.ErrorList {
	var errs field.ErrorList
	if options.TailLines != nil && *options.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *options.TailLines, "must be greater than or equal to 0"))
	}
	if options.LimitBytes != nil && *options.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *options.LimitBytes, "must be greater than 0"))
	}
	switch {
	case options.SinceSeconds != nil && options.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case options.SinceSeconds != nil && *options.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *options.SinceSeconds, "must be greater than 0"))
	}
	if options.Stream != nil && *options.Stream != corev1.LogStreamAll {
		errs = append(errs, field.Forbidden(field.NewPath("stream"), "may not be specified"))
	}
	return errs
}

func logRequest(pod *corev1.Pod, container string, options *corev1.PodLogOptions, now time.Time) *agentv1.LogRequest {
	request := &agentv1.LogRequest{
		Namespace: pod.Namespace, Pod: pod.Name, Uid: string(pod.UID), Container: container,
		Follow: options.Follow, Previous: options.Previous, Timestamps: options.Timestamps,
		TailLines: -1, LimitBytes: -1,
	}
	if options.TailLines != nil {
		request.TailLines = *options.TailLines
	}
	if options.LimitBytes != nil {
		request.LimitBytes = *options.LimitBytes
	}
	switch {
	case options.SinceTime != nil:
		request.Since = options.SinceTime.UnixNano()
	case options.SinceSeconds != nil:
		request.Since = now.Add(-time.Duration(*options.SinceSeconds) * time.Second).UnixNano()
	}
	return request
}

type received struct {
	frame *agentv1.Frame
	err   error
}

// copyLog writes the stream's output as the response's body. It returns an error
// only while nothing was written.
func copyLog(ctx context.Context, cancel context.CancelFunc, w http.ResponseWriter, stream Stream, follow bool, limit *int64) error {
	frames := make(chan received)
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		for {
			frame, err := stream.Recv()
			select {
			case frames <- received{frame, err}:
			case <-ctx.Done():
				return
			}
			if err != nil || frame.GetResult() != nil {
				return
			}
		}
	}()
	defer func() {
		cancel()
		<-reading
	}()

	flush := http.NewResponseController(w)
	begun := false
	begin := func() {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusOK)
			_ = flush.Flush()
		}
	}
	silent := time.NewTimer(logFirst)
	defer silent.Stop()
	left := int64(-1)
	if limit != nil {
		left = *limit
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-silent.C:
			if follow {
				begin()
			}
		case next := <-frames:
			if next.err != nil {
				if errors.Is(next.err, io.EOF) {
					begin()
					return nil
				}
				return cutOff(begun, next.err)
			}
			data := next.frame.GetData()
			if left >= 0 && int64(len(data)) > left {
				data = data[:left]
			}
			if len(data) > 0 {
				begin()
				if _, err := w.Write(data); err != nil {
					return nil // the client went away
				}
				if follow {
					_ = flush.Flush()
				}
				if left >= 0 {
					left -= int64(len(data))
				}
			}
			if result := next.frame.GetResult(); result != nil {
				if result.GetError() != "" {
					return cutOff(begun, resultError(result))
				}
				begin()
				return nil
			}
			if left == 0 {
				return nil
			}
		}
	}
}

// cutOff says that a stream broke: as a status if that can still be sent, else
// by ending the response short, so that the client does not take it for whole.
func cutOff(begun bool, err error) error {
	if begun {
		panic(http.ErrAbortHandler)
	}
	return err
}

// resultError is the agent's error as a status.
func resultError(result *agentv1.StreamResult) error {
	switch codes.Code(result.GetCode()) {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return apierrors.NewBadRequest(result.GetError())
	case codes.NotFound:
		return statusError(http.StatusNotFound, "NotFound", result.GetError())
	case codes.Unavailable:
		return apierrors.NewServiceUnavailable(result.GetError())
	}
	return apierrors.NewInternalError(errors.New(result.GetError()))
}
