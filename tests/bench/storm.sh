#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Thousands of commits at once, with real QEMUs: each has to succeed or to be refused for a limit, a stat in
# the mount has to be answered meanwhile, and nothing may be left afterwards.
#
#   storm.sh [--build DIR] [--commits N] [--shells N] [--max-vms N] [--dir DIR]
#
# Builds in build-bench, or takes what is in DIR. By default 2000 commits from 50 shells, and as many VMs as the
# memory allows (--min-free-memory): tens of MiB for each, so use --max-vms on a host that has other work.
# --dir is where the store is made, below a directory of its own (default: $TMPDIR, or else /var/tmp).
#
# It prints how the commits ended, and how long a stat took before and meanwhile. The exit status is not 0 if a
# commit ended otherwise, or if something is left; never for how long it took.
set -eu

root=$(dirname "$(dirname "$(dirname "$(readlink -f "$0")")")")
build= commits=2000 shells=50 max_vms= base=${TMPDIR:-/var/tmp}
while [ $# -gt 0 ]; do
    case $1 in
    --build) build=$(readlink -f "$2") ;;
    --commits) commits=$2 ;;
    --shells) shells=$2 ;;
    --max-vms) max_vms=$2 ;;
    --dir) base=$2 ;;
    *)
        sed -n '4,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
        exit 2
        ;;
    esac
    shift 2
done
if [ -z "$build" ]; then
    build=$root/build-bench
    [ -f "$build/build.ninja" ] || meson setup "$build" "$root" -Dbuildtype=release -Dbench=true >/dev/null
    ninja -C "$build" >/dev/null
fi
hypefs=$build/src/cli/hypefs
kernel=${HYPEFS_TEST_KERNEL:-$("$root/examples/guest/fetch-kernel.sh")}
work=$(mktemp -d "$base/storm.XXXXXX")
m=$work/mnt
forks=$m/snapshots/base/forks
daemon=

fail() {
    echo "storm.sh: $*" >&2
    exit 1
}

pids() {
    find /proc/[0-9]*/cwd -prune -lname "$work/store/*" 2>/dev/null | cut -d / -f 3
}

clean_up() {
    status=$?
    trap - EXIT
    cd /
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    [ -z "$daemon" ] || wait "$daemon" || true
    # shellcheck disable=SC2046 # a list of words
    [ -z "$(pids)" ] || kill -9 $(pids) || true
    fusermount3 -u -z "$m" 2>/dev/null || true
    rm -rf "$work"
    exit $status
}
trap clean_up EXIT
trap 'exit 143' HUP INT TERM

make_snapshot() {
    "$root/examples/guest/make-initramfs.sh" "$kernel"/lib/modules/* "$build/src/guest/hypefs-guest" \
        "$work/initramfs" >/dev/null
    mkdir "$m/instances/base"
    echo "{\"memory_mib\":128,\"kernel\":\"$(echo "$kernel"/boot/vmlinuz-*)\",\"initrd\":\"$work/initramfs\"," \
        "\"cmdline\":\"console=ttyS0 quiet panic=-1\",\"network\":{\"mode\":\"none\"}}" \
        >"$m/instances/base/config"
    echo running >"$m/instances/base/state" || fail "$(cat "$m/instances/base/error")"
    timeout 300 tail -n +1 -s 0.1 -f "$m/instances/base/console" | grep -q -m 1 '^hypefs-guest: ready' ||
        fail "the guest does not get ready: $(cat "$m/instances/base/console")"
    echo standby >"$m/instances/base/state" || fail "$(cat "$m/instances/base/error")"
    echo base >"$m/instances/base/snapshot"
    rmdir "$m/instances/base"
}

# Until the file $2 is there; then the 50th and 99th of 100, and the longest.
watch_stats() {
    python3 - "$1" "$2" <<'END'
import os, sys, time
path, until = sys.argv[1:]
took = []
while not os.path.exists(until) or len(took) < 200:
    begun = time.monotonic()
    os.stat(path)
    took.append((time.monotonic() - begun) * 1000)
    time.sleep(0.005)
took.sort()
n = len(took)
print(f"{n} stats: p50 {took[n // 2]:.2f} ms, p99 {took[n * 99 // 100]:.2f} ms, max {took[-1]:.1f} ms")
END
}

# A shell with its share of the commits, all at once.
commit_share() {
    for ((i = $1; i < commits; i += shells)); do
        (echo 1 >"$forks/f$i/commit") 2>"$work/out/f$i" && echo ok >"$work/out/f$i" &
    done
    wait
}

# ok, or the errno's name: in `result`, or, of one that was not even begun, in words in `error`.
outcome() {
    if [ "$(cat "$work/out/$1")" = ok ]; then
        echo ok
    elif code=$(jq -re .error.code "$forks/$1/result" 2>/dev/null); then
        echo "$code"
    elif grep -q 'commits and deliveries are under way: try again later' "$forks/$1/error"; then
        echo EAGAIN
    else
        echo "$(cat "$work/out/$1"): $(cat "$forks/$1/error")"
    fi
}

mkdir "$m" "$work/out"
# shellcheck disable=SC2086 # an option, or none
"$hypefs" mount -f --store "$work/store" ${max_vms:+--max-vms $max_vms} "$m" 2>"$work/log" &
daemon=$!
until [ -e "$m/README" ]; do
    kill -0 "$daemon" || fail "$(cat "$work/log")"
    sleep 0.1
done
make_snapshot
for ((i = 0; i < commits; i++)); do
    mkdir "$forks/f$i"
    echo "{\"payload\":{\"instance_name\":\"f$i\"}}" >"$forks/f$i/mailboxes/kernel.identity.v1"
done
: >"$work/before"
echo "before: $(watch_stats "$forks/new/status" "$work/before")"
watch_stats "$forks/new/status" "$work/end" >"$work/stats" &
watcher=$!
begun=$(date +%s)
writers=
for ((s = 0; s < shells; s++)); do
    commit_share "$s" &
    writers="$writers $!"
done
# shellcheck disable=SC2086 # a list of words
wait $writers
echo "$commits commits from $shells shells: $(($(date +%s) - begun)) s"
: >"$work/end"
wait "$watcher"
echo "meanwhile: $(cat "$work/stats")"
for ((i = 0; i < commits; i++)); do
    outcome "f$i"
done | sort | uniq -c | tee "$work/outcomes"
grep -vE ' (ok|EAGAIN|ENOMEM)$' "$work/outcomes" && fail "these are neither successes nor refusals for a limit"

cd "$m/instances"
# shellcheck disable=SC2016 # for the inner shell
printf '%s\n' * | xargs -r -P 8 -I ID sh -c 'echo stopped > ID/state && rmdir ID'
cd "$forks"
for draft in f*; do
    [ ! -e "$draft" ] || rmdir "$draft"
done
cd /
[ -z "$(ls "$m/instances")" ] || fail "instances are left: $(ls "$m/instances")"
rmdir "$m/snapshots/base"
[ -z "$(ls -A "$work/store/instances" "$work/store/snapshots" | grep -v :)" ] ||
    fail "the store has $(ls -A "$work/store/instances" "$work/store/snapshots")"
[ -z "$(pids)" ] || fail "processes are left: $(pids)"
kill "$daemon"
wait "$daemon" || fail "the daemon ended with status $?: $(cat "$work/log")"
daemon=
echo "nothing is left"
