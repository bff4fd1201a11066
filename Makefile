# What there is to do with this repository. `make` alone lists it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

# The same for every command, so that all of them share one build cache; the
# race detector alone needs cgo. A clone may belong to another user than the one
# who builds, in which case git tells nothing, and that must not stop a build.
export CGO_ENABLED := 0
export GOFLAGS := -buildvcs=false

DESCRIBED := $(shell git describe --tags --match 'v*' --always --dirty 2>/dev/null)
VERSION := $(if $(filter v%,$(DESCRIBED)),$(DESCRIBED),v0.1.0-dev$(if $(DESCRIBED),.g$(DESCRIBED)))

# kubectl reads its own version from here; a link can't ask go.mod.
KUBERNETES := $(shell awk '$$1 == "k8s.io/kubernetes" {print $$2}' go.mod)
LDFLAGS := -s -w -X main.version=$(VERSION) -X k8s.io/component-base/version.gitVersion=$(KUBERNETES)

LAB := bin/lab --dir .cluster

##@ Try it

.PHONY: up
up: deps build images lab ## Start a cluster of 5 hosts on this machine (root), with hello running
	@$(LAB) up

.PHONY: down
down: lab ## Remove every trace of that cluster
	@$(LAB) down

.PHONY: status
status: lab ## List the hosts of that cluster and what runs on them
	@$(LAB) status

.PHONY: chaos-smoke
chaos-smoke: deps build images ## Kill hosts of a cluster of its own under load, and print what it cost (root)
	go test -count=1 -timeout 20m -v ./test/netns -args -full

.PHONY: node-loss
node-loss: deps build images ## Lose compute hosts, alone and with the leader, and print how long their pods took to run elsewhere (root)
	go test -count=1 -timeout 20m -v ./test/netns -run 'TestLosesNodes|TestCutsOffNode' -args -full

.PHONY: chaos
chaos: ## Linearizability under faults, for SEED (1; also 1..20) and TIME each (5m) (root)
	go test -count=1 -timeout 0 -v ./test/chaos -run TestPromisesHoldUnderFaults -args -seeds '$(or $(SEED),1)' -time $(or $(TIME),5m)

.PHONY: chaos-workloads
chaos-workloads: ## Leaders killed at every step of rollouts, jobs, stateful and daemon sets, for SEED (1..50), every state checked
	go test -count=1 -timeout 60m -v ./test/workloads -args -seeds '$(or $(SEED),1..50)' -every

.PHONY: conformance
conformance: deps build lab bin/e2e.test bin/ginkgo ## Kubernetes' own conformance suite, for FOCUS (areas; those of API server, scheduler and controllers); writes docs/conformance.md (root)
	@go run ./deploy/images -suite bin/e2e.test bin/suite-images
	@go -C test/conformance build -o '$(CURDIR)/bin/conformance-report' ./report
	@test/conformance/run.sh $(if $(FOCUS),'$(FOCUS)')

# Specs that ask for what a version's pod security standards allow want to know it.
SUITE = $(subst ., ,$(patsubst v%,%,$(shell awk '$$1 == "require" && $$2 == "k8s.io/kubernetes" {print $$3}' test/conformance/go.mod)))
SUITE_VERSION = -X k8s.io/component-base/version.gitMajor=$(word 1,$(SUITE)) -X k8s.io/component-base/version.gitMinor=$(word 2,$(SUITE))
bin/e2e.test: test/conformance/go.mod test/conformance/go.sum
	go -C test/conformance test -c -trimpath -ldflags '$(SUITE_VERSION)' -o '$(CURDIR)/$@' k8s.io/kubernetes/test/e2e

bin/ginkgo: test/conformance/go.mod test/conformance/go.sum
	go -C test/conformance build -trimpath -o '$(CURDIR)/$@' github.com/onsi/ginkgo/v2/ginkgo

##@ Build

.PHONY: build
build: agent/runtime/bundle/bundle.tar.zst ## bin/muster with the container runtime in it, and its link bin/kubectl
	go build -tags bundle -ldflags '$(LDFLAGS)' -o bin/muster ./cmd/muster
	@ln -sfn muster bin/kubectl

.PHONY: images
images: ## bin/images/*.tar: pause, hello and busybox
	@go run ./deploy/images bin/images

.PHONY: lab
lab: ## bin/lab, which makes and breaks the cluster of `make up`
	@go build -o bin/lab ./deploy/lab/cmd/lab

.PHONY: runtime
runtime: bin/runtime/.made ## bin/runtime: containerd, its shim, runc and the CNI plugins

# From a module of their own, so made again only when that changes. containerd
# says its version, which nodes report, only where the linker tells it.
STATIC := CGO_ENABLED=0 go -C deploy/runtime build -trimpath -o '$(CURDIR)/bin/runtime/'
CONTAINERD = $(patsubst v%,%,$(shell go -C deploy/runtime list -m -f '{{.Version}}' github.com/containerd/containerd/v2))
bin/runtime/.made: deploy/runtime/go.mod deploy/runtime/go.sum
	@mkdir -p bin/runtime
	$(STATIC) -ldflags '-s -w -X github.com/containerd/containerd/v2/version.Version=$(CONTAINERD)' \
		github.com/containerd/containerd/v2/cmd/containerd \
		github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 \
		github.com/containernetworking/plugins/plugins/ipam/host-local \
		github.com/containernetworking/plugins/plugins/main/bridge \
		github.com/containernetworking/plugins/plugins/main/loopback \
		github.com/containernetworking/plugins/plugins/meta/portmap
	CGO_ENABLED=1 go -C deploy/runtime build -trimpath -tags 'seccomp osusergo netgo' -ldflags '-s -w -extldflags -static' \
		-o '$(CURDIR)/bin/runtime/' github.com/opencontainers/runc
	@touch $@

agent/runtime/bundle/bundle.tar.zst: bin/runtime/.made agent/runtime/bundle/pack.go
	go run ./agent/runtime/bundle/pack bin/runtime $@

.PHONY: deps
deps: ## Install the Debian packages that are missing, if any
	@deploy/deps.sh

.PHONY: generate
generate: ## Write the Go code for proto/
	cd tools && go run ./protogen ../proto

.PHONY: clean
clean: ## Remove what was built (not the cluster: make down)
	rm -rf bin agent/runtime/bundle/bundle.tar.zst

##@ Test

.PHONY: check
check: fmt-check generate-check modules vet staticcheck layout ## Everything that is fast: form, generated code, modules, vet, staticcheck, who imports whom

.PHONY: test
test: deps ## All tests; exit status 0 only if they passed
	@test/all.sh

.PHONY: clients
clients: build bin/helm ## Kubernetes' own clients, unmodified: kubectl, client-go, controller-runtime, Helm
	go -C test/clients test -count=1 -timeout 15m ./...

bin/helm: test/clients/helm/cli/go.mod
	go -C test/clients/helm/cli build -trimpath -o '$(CURDIR)/$@' helm.sh/helm/v4/cmd/helm

.PHONY: unit
unit: ## Tests that need no cluster of hosts, without the race detector
	go test -timeout 15m ./...

.PHONY: race
race: ## The same with the race detector; the packages with Kubernetes' own code take long to compile
	CGO_ENABLED=1 go test -race -timeout 30m ./...

.PHONY: soak
soak: ## WRITES writes (1000000) to three control nodes, whose files and memory must stay bounded
	go test -count=1 -timeout 60m -v ./test/soak -args -writes $(or $(WRITES),1000000)

.PHONY: fuzz
fuzz: ## Every fuzz target for FUZZTIME (10s)
	@test/fuzz.sh $(or $(FUZZTIME),10s)

.PHONY: fmt-check
fmt-check:
	@unformatted="$$(git ls-files -co --exclude-standard -z '*.go' | xargs -0 ls -d 2>/dev/null | xargs gofmt -l)"; \
	if [ -n "$$unformatted" ]; then echo "not formatted (gofmt -w):"; echo "$$unformatted"; exit 1; fi

.PHONY: generate-check
generate-check:
	cd tools && go run ./protogen -check ../proto

# Modules of their own that build on ours fall behind when our go.mod changes.
.PHONY: modules
modules:
	@for module in test/bench test/clients test/conformance test/conformance/strategies test/scheduling; do \
		go -C $$module list -deps -test ./... >/dev/null || { echo "$$module: go -C $$module mod tidy"; exit 1; }; \
	done
	@go -C test/bench list -deps tool >/dev/null
	@go -C test/conformance list -deps -test tool k8s.io/kubernetes/test/e2e >/dev/null

.PHONY: vet
vet:
	go vet ./...

.PHONY: staticcheck
staticcheck:
	go tool -modfile=tools/go.mod staticcheck ./...

.PHONY: layout
layout:
	go test ./cmd/internal/layout

.PHONY: help
help: ## List this
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Measure

.PHONY: oracle
oracle: ## Placement beside kube-scheduler's own plugins, on random clusters; more with ORACLE='-clusters 5000'
	@go -C test/scheduling test -count=1 . $(if $(ORACLE),-args $(ORACLE))

.PHONY: strategies
strategies: ## The rules for writes beside upstream's own, on the same objects
	@go -C test/conformance/strategies test ./...

.PHONY: bench-store
bench-store: build bin/etcd ## The store beside etcd, on a quiet machine; more with BENCH='--duration 30s --memory-puts 1000000'
	@go -C test/bench build -o '$(CURDIR)/bin/bench-store' ./store
	@bin/bench-store --json bin/bench-store.json --wait 3m $(BENCH)

bin/etcd: test/bench/go.mod
	go -C test/bench build -trimpath -o '$(CURDIR)/$@' go.etcd.io/etcd/server/v3

.PHONY: bench-api
bench-api: build bin/etcd bin/kube-apiserver ## The API server beside kube-apiserver with etcd, on a quiet machine; less with BENCH='--nodes 1 --only create,get'
	@go -C test/bench build -o '$(CURDIR)/bin/bench-api' ./api
	@bin/bench-api --json bin/bench-api.json --wait 3m $(BENCH)

bin/kube-apiserver: test/bench/go.mod
	go -C test/bench build -trimpath -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES)' \
		-o '$(CURDIR)/$@' k8s.io/kubernetes/cmd/kube-apiserver

.PHONY: bench-workloads
bench-workloads: build bin/etcd bin/kube-apiserver bin/kube-scheduler bin/kube-controller-manager ## The scheduler and controllers beside kube-scheduler and kube-controller-manager, on a quiet machine; less with BENCH='--quick'
	@go -C test/bench build -o '$(CURDIR)/bin/bench-workloads' ./workloads
	@bin/bench-workloads --json bin/bench-workloads.json --wait 3m $(BENCH)

bin/kube-scheduler bin/kube-controller-manager: test/bench/go.mod
	go -C test/bench build -trimpath -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES)' \
		-o '$(CURDIR)/$@' k8s.io/kubernetes/cmd/$(@F)
