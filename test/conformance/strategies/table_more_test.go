package strategies

import (
	"maps"

	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattributesclass"
)

const template = `template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b, resources: {requests: {cpu: "1"}}}]}}`

const workload = `{metadata: {name: x}, spec: {selector: {matchLabels: {a: b}}, ` + template + `}}`

const once = `template: {spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}`

const hook = `{metadata: {name: x}, webhooks: [{name: a.example.org, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: "https://example.org/"},
  rules: [{apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE]}]}]}`

func init() {
	maps.Copy(strategies, map[string]upstream{
		"events": {event.Strategy, nil, `{metadata: {name: x}, involvedObject: {kind: Pod, namespace: default, name: a}, reason: A, message: b, type: Normal}`},
		"namespaces": {namespace.Strategy, paths{"status": namespace.StatusStrategy, "finalize": namespace.FinalizeStrategy},
			`{metadata: {name: x}}`},
		"nodes": {node.Strategy, paths{"status": node.StatusStrategy}, `{metadata: {name: x}, spec: {podCIDR: 10.1.0.0/24}, status: {capacity: {cpu: "4"}}}`},

		"deployments.apps":         {deployment.Strategy, paths{"status": deployment.StatusStrategy}, workload},
		"replicasets.apps":         {replicaset.Strategy, paths{"status": replicaset.StatusStrategy}, workload},
		"statefulsets.apps":        {statefulset.Strategy, paths{"status": statefulset.StatusStrategy}, workload},
		"daemonsets.apps":          {daemonset.Strategy, paths{"status": daemonset.StatusStrategy}, workload},
		"controllerrevisions.apps": {controllerrevision.Strategy, nil, `{metadata: {name: x}, revision: 1, data: {a: b}}`},

		"jobs.batch":     {job.Strategy, paths{"status": job.StatusStrategy}, `{metadata: {name: x}, spec: {` + once + `}}`},
		"cronjobs.batch": {cronjob.Strategy, paths{"status": cronjob.StatusStrategy}, `{metadata: {name: x}, spec: {schedule: "@hourly", jobTemplate: {spec: {` + once + `}}}}`},

		"poddisruptionbudgets.policy": {poddisruptionbudget.Strategy, paths{"status": poddisruptionbudget.StatusStrategy},
			`{metadata: {name: x}, spec: {minAvailable: 1, selector: {matchLabels: {a: b}}}}`},
		"leases.coordination.k8s.io": {lease.Strategy, nil, `{metadata: {name: x}, spec: {holderIdentity: a, leaseDurationSeconds: 15}}`},
		"horizontalpodautoscalers.autoscaling": {horizontalpodautoscaler.Strategy, paths{"status": horizontalpodautoscaler.StatusStrategy},
			`{metadata: {name: x}, spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: a}, maxReplicas: 5}}`},

		"priorityclasses.scheduling.k8s.io":      {priorityclass.Strategy, nil, `{metadata: {name: x}, value: 1000}`},
		"runtimeclasses.node.k8s.io":             {runtimeclass.Strategy, nil, `{metadata: {name: x}, handler: runc, overhead: {podFixed: {cpu: "1"}}}`},
		"storageclasses.storage.k8s.io":          {storageclass.Strategy, nil, `{metadata: {name: x}, provisioner: example.org/disks, parameters: {a: b}}`},
		"csidrivers.storage.k8s.io":              {csidriver.Strategy, nil, `{metadata: {name: x}, spec: {attachRequired: false}}`},
		"csinodes.storage.k8s.io":                {csinode.Strategy, nil, `{metadata: {name: x}, spec: {drivers: [{name: example.org, nodeID: n}]}}`},
		"csistoragecapacities.storage.k8s.io":    {csistoragecapacity.Strategy, nil, `{metadata: {name: x}, storageClassName: x, nodeTopology: {}, capacity: 1Gi}`},
		"volumeattributesclasses.storage.k8s.io": {volumeattributesclass.Strategy, nil, `{metadata: {name: x}, driverName: example.org, parameters: {iops: "100"}}`},
		"volumeattachments.storage.k8s.io": {volumeattachment.Strategy, paths{"status": volumeattachment.StatusStrategy},
			`{metadata: {name: x}, spec: {attacher: example.org, nodeName: n, source: {persistentVolumeName: v}}}`},

		"flowschemas.flowcontrol.apiserver.k8s.io": {flowschema.Strategy, paths{"status": flowschema.StatusStrategy},
			`{metadata: {name: x}, spec: {priorityLevelConfiguration: {name: x}, matchingPrecedence: 500}}`},
		"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io": {prioritylevelconfiguration.Strategy, paths{"status": prioritylevelconfiguration.StatusStrategy},
			`{metadata: {name: x}, spec: {type: Limited, limited: {nominalConcurrencyShares: 10, limitResponse: {type: Reject}}}}`},

		"mutatingwebhookconfigurations.admissionregistration.k8s.io":   {mutatingwebhookconfiguration.Strategy, nil, hook},
		"validatingwebhookconfigurations.admissionregistration.k8s.io": {validatingwebhookconfiguration.Strategy, nil, hook},
	})
}
