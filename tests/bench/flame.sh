#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Where the daemon's CPU time goes in commits that take a VM loaded ahead, as a flame graph. As root; needs perf.
#
#   flame.sh [--commits N] BUILD SVG
#
# BUILD has a hypefs with debug information:
#
#   meson setup BUILD . -Dbuildtype=debugoptimized -Dbench=true
#
# The VMM is tests/fake_vmm's Firecracker, without walls. 300 commits by default; the VMs that take the place of
# those taken are loaded meanwhile, and their work in the daemon is in the graph. What VMMs do, before and after
# their exec, is not.
set -eu

root=$(dirname "$(dirname "$(dirname "$(readlink -f "$0")")")")
commits=300
[ "${1-}" != --commits ] || { commits=$2; shift 2; }
[ $# = 2 ] || {
    sed -n '4,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 2
}
build=$(readlink -f "$1")
svg=$(readlink -f "$2")
work=$(mktemp -d "${TMPDIR:-/var/tmp}/flame.XXXXXX")
m=$work/mnt
daemon= tracer=

clean_up() {
    status=$?
    trap - EXIT
    cd /
    [ -z "$tracer" ] || kill "$tracer" 2>/dev/null || true
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    [ -z "$daemon" ] || wait "$daemon" || true
    find /proc/[0-9]*/cwd -prune -lname "$work/store/*" 2>/dev/null | cut -d / -f 3 | xargs -r kill -9
    rm -rf "$work"
    exit $status
}
trap clean_up EXIT
trap 'exit 143' HUP INT TERM

await() { # FILE TEXT
    timeout 60 sh -c 'until grep -qs -- "$2" "$1"; do sleep 0.05; done' - "$1" "$2"
}

begin() {
    mkdir -p "$m"
    "$build/src/cli/hypefs" mount -f --store "$work/store" --confine off \
        --firecracker "$build/tests/fake_vmm/fake_firecracker" "$m" 2>"$work/log" &
    daemon=$!
    await "$m/README" .
    mkdir "$m/instances/base"
    echo '{"hypervisor":"firecracker","kernel":"/etc/passwd","memory_mib":8,"cmdline":"mailboxes=m"}' \
        >"$m/instances/base/config"
    echo running >"$m/instances/base/state"
    await "$m/instances/base/console" ready
    echo standby >"$m/instances/base/state"
    echo base >"$m/instances/base/snapshot"
    echo 16 >"$m/snapshots/base/warm"
    await "$m/snapshots/base/info" '"ready": 16'
}

# Each with a payload, and a VM that is loaded ahead: of 16 that are ready, 8 are taken one after the other.
commit() { # COUNT
    local i
    for ((i = 1; i <= $1; i++)); do
        ((i % 8)) || await "$m/snapshots/base/info" '"ready": 16'
        echo '{"hello":"flame"}' >"$m/snapshots/base/forks/new/mailboxes/m"
        echo "f$i" >"$m/snapshots/base/forks/new/commit"
    done
}

draw() {
    perf record -q -e cpu-clock -F 4999 --call-graph dwarf,8192 -p "$daemon" -o "$work/perf" &
    tracer=$!
    commit "$commits"
    kill -INT "$tracer"
    wait "$tracer" || true
    tracer=
    perf script -i "$work/perf" --pid "$daemon" --no-inline -F comm,ip,sym,dso 2>/dev/null |
        awk -v title="The daemon's CPU time: $commits commits that take a VM loaded ahead" \
            -f "$root/tests/bench/flame.awk" >"$work/svg"
    mv "$work/svg" "$svg"
}

begin
draw
