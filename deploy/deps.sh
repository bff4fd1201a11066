#!/bin/sh
# Installs the Debian packages that building and running Muster here needs, as
# far as they are missing. As another user than root, it names them.
set -eu

missing=
need() { # need PACKAGE COMMAND...: the package, unless the command succeeds
	package=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $package"
}

# A busybox that needs libraries is of no use in an image.
static_busybox() { [ -x /bin/busybox ] && ! ldd /bin/busybox; }

need git command -v git
need gcc command -v gcc
need libc6-dev test -e /usr/include/stdio.h
need pkg-config command -v pkg-config
need libseccomp-dev test -e /usr/include/seccomp.h
need busybox-static static_busybox
need iproute2 command -v ip
need nftables test -x /usr/sbin/nft

if ! command -v go >/dev/null 2>&1; then
	echo "Go is missing: https://go.dev/dl/ (any version from 1.21 on fetches the one that go.mod names)" >&2
	exit 1
fi
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "Packages are missing; as root: apt-get install$missing" >&2
	exit 1
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -qq -y --no-install-recommends $missing >/dev/null
