#!/bin/bash
# Runs upstream's end-to-end suite against a cluster of five hosts of its own and
# brings docs/conformance.md up to date. Called by `make conformance`, which builds what this
# uses; needs root.
#
#   run.sh [FOCUS]     FOCUS: a regular expression over the areas (default: those of
#                      the API server, the scheduler and the controllers)
#
# PROCS (4) specs run side by side; those marked [Serial] afterwards, one by one.
# KEEP=1 leaves the cluster up (.conformance/kubeconfig). OUT is the page.
set -uo pipefail
cd "$(dirname "$0")/../.."
focus=${1:-sig-api-machinery|sig-auth|sig-cli|sig-architecture|sig-apps|sig-scheduling}
out=${OUT:-docs/conformance.md}
work=$PWD/.conformance
lab=(bin/lab --dir "$work" --images bin/suite-images)

"${lab[@]}" up || exit 1
[ -n "${KEEP:-}" ] || trap '"${lab[@]}" down' EXIT
export KUBECONFIG=$work/kubeconfig
rm -f "$work"/{parallel,serial}.json # of an earlier run

# Ginkgo runs what any of several --focus matches, so there is one.
area="\\[($focus)\\]"
suite() { # suite NAME FOCUS GINKGO-FLAGS...
	local name=$1 which=$2
	shift 2
	bin/ginkgo --no-color --silence-skips --timeout=80m --keep-going --focus="$which" \
		--output-dir="$work" --json-report="$name.json" "$@" bin/e2e.test -- \
		--kubeconfig="$KUBECONFIG" --provider=skeleton --kubectl-path="$PWD/bin/kubectl" --num-nodes=2 --node-os-distro=debian \
		--allowed-not-ready-nodes=0 --minStartupPods=0 >"$work/$name.log" 2>&1
}
echo "  specs side by side     log: $work/parallel.log"
suite parallel "$area.*\\[Conformance\\]" --procs="${PROCS:-4}" --skip='\[Serial\]'
echo "  specs one by one       log: $work/serial.log"
suite serial "$area.*\\[Serial\\].*\\[Conformance\\]|$area.*\\[Conformance\\].*\\[Serial\\]"

runs=()
for name in parallel serial; do
	[ -s "$work/$name.json" ] && runs+=("$work/$name.json")
done
[ ${#runs[@]} -gt 0 ] || { echo "the suite did not run: see $work/parallel.log"; exit 1; }
bin/conformance-report -reasons test/conformance/reasons.txt -version "$(bin/muster --version | awk '{print $NF}')" -page "$out" "${runs[@]}"
status=$?
sed -n '/^| area/,/^$/p' "$out"
exit $status
