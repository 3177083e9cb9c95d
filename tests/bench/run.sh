#!/bin/sh
# SPDX-License-Identifier: MIT
#
# What forks, scans and the tree take, each beside the least program that does the same.
#
#   run.sh [--build DIR] [--quick] [--row NAME] [--json FILE]
#
# Builds in build-bench, prints a table and writes it as JSON (by default to build-bench/bench.json).
# --build DIR, which comes first, takes what a build with -Dbench=true has made there: good for whether
# the results are right, not for times.
# --quick takes as few and small images, forks and samples as show whether everything works: its times
# mean little. The exit status is not 0 if something could not be measured or did not do what it should;
# never for how long it took. Images and guests lie in $TMPDIR (by default /var/tmp), of which it needs
# 6 GiB, or 2 with --quick.
# docs/performance.md says what the lines mean.
set -eu

root=$(dirname "$(dirname "$(dirname "$(readlink -f "$0")")")")
build=$root/build-bench
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hypefs
for argument; do
    [ "$argument" != --help ] || {
        sed -n '4,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
    }
done
if [ "${1-}" = --build ] && [ $# -gt 1 ]; then
    build=$(readlink -f "$2")
    shift 2
fi
[ -n "${HYPEFS_TEST_KERNEL:-}" ] || "$root/examples/guest/fetch-kernel.sh"
[ -f "$build/build.ninja" ] ||
    meson setup "$build" "$root" -Dbuildtype=release -Dbench=true >/dev/null
ninja -C "$build" >"$build/build.log" 2>&1 || {
    cat "$build/build.log" >&2
    exit 1
}
export TMPDIR="${TMPDIR:-/var/tmp}" HYPEFS_TEST_KERNEL="${HYPEFS_TEST_KERNEL:-$cache/kernel}" \
    HYPEFS="$build/src/cli/hypefs" HYPEFS_GUEST="$build/src/guest/hypefs-guest" \
    HYPEFS_VM_GUEST="$build/tests/vm/guest/vm_guest" \
    HYPEFS_MAKE_INITRAMFS="$root/examples/guest/make-initramfs.sh" \
    FAKE_FIRECRACKER="$build/tests/fake_vmm/fake_firecracker" \
    BARE_QEMU="$build/tests/bench/bare_qemu" READ_IMAGE="$build/tests/bench/read_image" \
    MINI_FS="$build/tests/bench/mini_fs"
exec "$build/tests/bench/bench" --json "$build/bench.json" "$@"
