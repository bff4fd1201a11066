#!/bin/bash
# All tests: what `make test` runs. Every step is named, printed and timed; a
# step that fails does not keep the others from running, but the exit status is
# 0 only if all passed.
set -uo pipefail
cd "$(dirname "$0")/.."

failed=()
summary=()
step() { # step NAME COMMAND...
	local name=$1 began=$SECONDS result=passed
	shift
	printf '\n=== %s\n+ %s\n' "$name" "$*"
	"$@" || { result=FAILED; failed+=("$name"); }
	summary+=("$(printf '%-8s %4d s  %s' "$result" $((SECONDS - began)) "$name")")
	[ "$result" = passed ]
}
skip() { # skip NAME WHY
	printf '\n=== %s\nskipped: %s\n' "$1" "$2"
	summary+=("$(printf '%-8s %4s    %s: %s' skipped '' "$1" "$2")")
}
race() { CGO_ENABLED=1 go test -race -timeout 15m "$@"; }
plain() { go test -timeout 15m "$@"; }

# Packages whose tests link Kubernetes' own code (through control/kube) compile
# for many minutes under the race detector; `make race` is for them.
mapfile -t all < <(go list ./... | grep -v -e '/test/netns$' -e '/test/chaos$')
declare -A heavy=()
while read -r package; do heavy[${package%% *}]=1; done < <(
	go list -test -f '{{$p := .ImportPath}}{{range .Deps}}{{if eq . "k8s.io/kubernetes/pkg/apis/core"}}{{println $p}}{{end}}{{end}}' ./... |
		sed -e 's/ \[.*//' -e 's/\.test$//' -e 's/_test$//'
)
light=() slow=()
for package in "${all[@]}"; do
	if [ -n "${heavy[$package]:-}" ]; then slow+=("$package"); else light+=("$package"); fi
done
slow+=(./consensus/wal) # its exhaustive tests are cut short under the race detector

step "form, generated code, vet, staticcheck, layout" make check
step "build" make build images
step "tests with the race detector" race "${light[@]}"
step "tests of packages with Kubernetes' code" plain "${slow[@]}"
step "placement beside kube-scheduler's plugins" go -C test/scheduling test -count=1 -timeout 15m ./...
step "Kubernetes' clients" go -C test/clients test -count=1 -timeout 15m ./...
[ -x bin/helm ] || skip "a chart with Helm" "there is no bin/helm, which make clients builds"
if [ "$(id -u)" = 0 ]; then
	step "five hosts with real containers, short form" go test -count=1 -timeout 15m -v ./test/netns
	step "linearizability under faults, short form" go test -count=1 -timeout 15m -v ./test/chaos
else
	skip "linearizability under faults" "needs root"
	skip "five hosts with real containers" "needs root"
fi

printf '\n=== summary\n'
printf '%s\n' "${summary[@]}"
if [ ${#failed[@]} -gt 0 ]; then
	printf '%d of %d steps failed\n' ${#failed[@]} ${#summary[@]}
	exit 1
fi
echo "all passed in $SECONDS s"
