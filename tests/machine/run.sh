#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Runs tests with a real KVM, where the host has none or one that is not to be touched: in a virtual
# machine whose processor, which QEMU emulates, has AMD's SVM.
#
#   run.sh [--build FOLDER] [NAME…]      the tests NAME, by default all: each is a file NAME.test here
#   run.sh [--build FOLDER] --shell      a shell in the machine, with all that tests have
#
# FOLDER is a build with tests, build-gcc by default. Firecracker and Cloud Hypervisor are taken from the
# variables FIRECRACKER and CLOUD_HYPERVISOR or from PATH; tests that need one that is not there are
# skipped. Other variables:
#   MACHINE_MIB       the machine's memory (6144)
#   MACHINE_CPUS      its processors (2). Its own guests should have one: with more, and several threads
#                     of the emulator, its kernel was seen to crash
#   MACHINE_SECONDS   it is ended after (600)
#   MACHINE_GUEST_KERNEL   what its guests boot, where a VMM does not boot the machine's own kernel:
#                     an older Firecracker needs an ELF file (vmlinux)
#
# For each test one line: "ok NAME", "failed NAME" or "skipped NAME: why". If the machine's own kernel
# has crashed, nothing was said of hypefs: then all is done once more, and a line says so.
set -eu -o pipefail

here=$(dirname "$(readlink -f "$0")")
root=$(dirname "$(dirname "$here")")
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hypefs
build=$root/build-gcc shell=

fail() {
    echo "run.sh: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
    --build) build=$(readlink -f "$2") && shift ;;
    --shell) shell=yes ;;
    -*) sed -n '4,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2 && exit 2 ;;
    *) break ;;
    esac
    shift
done
[ -x "$build/src/cli/hypefs" ] || fail "there is no build with tests in $build"
if [ $# = 0 ]; then
    for file in "$here"/*.test; do
        name=${file##*/}
        set -- "$@" "${name%.test}"
    done
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/machine.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# put FROM TO: into the machine's folder.
put() {
    mkdir -p "$work/add/machine/$(dirname "$2")"
    cp -L "$1" "$work/add/machine/$2"
}

vmm() {
    variable=$1 name=$2
    path=${!variable:-$(command -v "$name" || true)}
    [ -z "$path" ] || put "$path" "bin/$name"
}

kernel=$("$root/examples/guest/fetch-kernel.sh")
base=$cache/machine.cpio
"$here/root.sh" "$kernel" "$base"
put "$build/src/cli/hypefs" bin/hypefs
put "$build/src/preload/hypefs-readonly.so" libexec/hypefs/hypefs-readonly.so
put "$build/src/confine/hypefs-vmm" libexec/hypefs/hypefs-vmm
put "$build/src/guest/hypefs-guest" guest/hypefs-guest
put "$build/tests/vm/guest/vm_guest" guest/vm_guest
for file in make-initramfs.sh init hook; do
    put "$root/examples/guest/$file" "guest/$file"
done
for program in "$build"/tests/vm/test_vm_*; do
    [ -d "$program" ] || put "$program" "vm/${program##*/}"
done
mkdir -p "$work/add/machine/kernel/boot"
cp "${MACHINE_GUEST_KERNEL:-$(ls "$kernel"/boot/vmlinuz-* | head -n 1)}" "$work/add/machine/kernel/boot/vmlinuz-guest"
find "$kernel" -name 'virtio*.ko*' -o -name '*failover.ko*' | while read -r file; do
    put "$file" "kernel/lib/${file##*/}"
done
put "$build/tests/mount/slow_disk.so" lib/slow_disk.so
put "$build/tests/mount/attack" bin/attack
for bare in bare_api bare_qemu; do # where the build has the benchmark
    [ ! -x "$build/tests/bench/$bare" ] || put "$build/tests/bench/$bare" "bin/$bare"
done
put "$here/inside" run
put "$here/speed" speed
put "$here/foreign" foreign
for name in "$@"; do
    [ -e "$here/$name.test" ] || fail "there is no test $name"
    put "$here/$name.test" "tests/$name.test"
done
printf '%s\n' "$@" >"$work/add/machine/names"
[ -z "$shell" ] || : >"$work/add/machine/shell"
vmm FIRECRACKER firecracker
vmm CLOUD_HYPERVISOR cloud-hypervisor
curl=$(command -v curl || true) # libcurl4 is there already
[ -z "$curl" ] || put "$curl" bin/curl
(cd "$work/add" && find . -print0 | cpio --null --quiet -o -H newc -R 0:0) >"$work/add.cpio"
rm -r "$work/add"
cat "$base" "$work/add.cpio" >"$work/initrd"
rm "$work/add.cpio"

boot() {
    timeout --foreground "${MACHINE_SECONDS:-600}" qemu-system-x86_64 -accel tcg -cpu max,+svm,+npt \
        -smp "${MACHINE_CPUS:-2}" -m "${MACHINE_MIB:-6144}" -nographic -no-reboot -nodefaults \
        -serial "$1" -kernel "$(ls "$kernel"/boot/vmlinuz-*)" -initrd "$work/initrd" \
        -append "console=ttyS0 quiet panic=-1 oops=panic tsc=reliable"
}

if [ -n "$shell" ]; then
    boot mon:stdio
    exit
fi
for try in 1 2; do
    status=0
    boot stdio </dev/null 2>&1 | sed -u 's,\r,,g' | tee "$work/said" || status=$?
    ! grep -q '^machine: end$' "$work/said" || break
    [ $status != 124 ] || fail "the machine was ended after ${MACHINE_SECONDS:-600} s"
    [ "$try" = 2 ] || echo "run.sh: the machine itself has crashed, which says nothing: once more"
done
grep -q '^machine: end$' "$work/said" || fail "the machine did not get to its end"
! grep -q '^failed ' "$work/said"
