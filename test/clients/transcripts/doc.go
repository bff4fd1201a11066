// Package transcripts holds what the real kubectl prints when it speaks to
// Muster: one file for each verb and one for each kind that is served, read by
// eye, and compared with what a kube-apiserver answers to the same commands.
//
//	go test ./transcripts                                  compares
//	go test ./transcripts -args -update                    writes them anew
//	go test ./transcripts -args -kubeconfig F -update      writes what another cluster says
//
// A transcript is what a terminal shows:
//
//	## A remark
//	$ kubectl apply -f - <<EOF
//	> kind: …
//	> EOF
//	configmap/x created
//	! what went to standard error
//	[exit 1]
//
// What differs each time (ages, uids, addresses) is masked; see mask_test.go.
package transcripts
