#!/bin/sh
# Installs Muster on a machine with systemd: one file, one unit.
#
#   install.sh server [SETTING=VALUE...]   a control node
#   install.sh agent [SETTING=VALUE...]    a compute node
#   install.sh --uninstall [--purge]       both away; --purge: what they keep, too
#
# Settings are those of `muster server --help` and `muster agent --help` in the
# form of the environment, as INIT=true NAME=c1 or JOIN=10.0.0.1:6443 TOKEN=…;
# they are kept in /etc/muster. Repeating the command with another muster beside
# it is an upgrade: pods go on running meanwhile.
#
# Environment: MUSTER_BINARY (muster beside this script, or in its parent's bin),
# DESTDIR (/).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
destdir=${DESTDIR:-}
bin=$destdir/usr/local/bin
units=$destdir/etc/systemd/system
settings=$destdir/etc/muster

fail() {
	echo "install.sh: $1" >&2
	exit 1
}

# Under DESTDIR, files are put in place and nothing is started.
systemd() {
	[ -n "$destdir" ] || systemctl "$@"
}

uninstall() {
	for role in server agent; do
		if [ -e "$units/muster-$role.service" ]; then
			systemd disable --now "muster-$role.service" || true
			rm -f "$units/muster-$role.service"
		fi
	done
	systemd daemon-reload
	rm -f "$bin/muster"
	if [ "$(readlink "$bin/kubectl" 2>/dev/null || true)" = muster ]; then rm -f "$bin/kubectl"; fi
	if [ "${1:-}" = --purge ]; then
		# Containers outlive the agent's unit, and with it would their files.
		if [ -z "$destdir" ]; then
			pids=$(pgrep -f '^/var/lib/muster/.*/(containerd|containerd-shim-runc-v2) ' || true)
			[ -z "$pids" ] || fail "containers still run (processes $(echo $pids)); delete the node's pods first, or restart the machine"
		fi
		rm -rf "$destdir/var/lib/muster" "$settings"
		echo "Muster is removed, with all it kept."
	else
		echo "Muster is removed. What it kept is in $destdir/var/lib/muster and $settings."
	fi
}

install() {
	role=$1
	shift
	for other in server agent; do
		if [ "$other" != "$role" ] && [ -e "$units/muster-$other.service" ]; then
			fail "this machine is a node already (muster-$other); a machine is one or the other"
		fi
	done
	binary=${MUSTER_BINARY:-}
	for candidate in "$here/muster" "$here/../bin/muster"; do
		if [ -z "$binary" ] && [ -x "$candidate" ]; then binary=$candidate; fi
	done
	[ -n "$binary" ] || fail "no muster beside this script; name it in MUSTER_BINARY"
	"$binary" --version >/dev/null || fail "$binary does not run on this machine"

	mkdir -p "$bin" "$units"
	mkdir -p -m 0700 "$settings"
	# A running program's file can't be written, but it can be replaced.
	cp "$binary" "$bin/.muster.new"
	chmod 0755 "$bin/.muster.new"
	mv "$bin/.muster.new" "$bin/muster"
	[ -e "$bin/kubectl" ] || [ -L "$bin/kubectl" ] || ln -s muster "$bin/kubectl"

	if [ $# -gt 0 ]; then
		(
			umask 077
			for setting in "$@"; do
				case $setting in
				[A-Z]*=*) echo "MUSTER_$setting" ;;
				*) fail "setting $setting: want NAME=VALUE, as JOIN=10.0.0.1:6443" ;;
				esac
			done >"$settings/.$role.env.new"
		)
		mv "$settings/.$role.env.new" "$settings/$role.env"
	fi
	cp "$here/systemd/muster-$role.service" "$units/muster-$role.service"
	systemd daemon-reload
	systemd enable "muster-$role.service"
	systemd restart "muster-$role.service"
	echo "muster $role is installed; see: systemctl status muster-$role, journalctl -u muster-$role"
}

[ -n "$destdir" ] || [ "$(id -u)" = 0 ] || fail "needs root"
case ${1:-} in
server | agent) install "$@" ;;
--uninstall) uninstall "${2:-}" ;;
*)
	sed -n '2,/^set -eu/p' "$0" | sed -e '/^set -eu/d' -e 's/^# \{0,1\}//'
	exit 2
	;;
esac
