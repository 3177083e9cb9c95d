#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Makes a guest's initramfs: busybox, modules for network and disks, and the agent with a hook.
#
#   make-initramfs.sh MODULES AGENT OUT [PROGRAM]
#
# MODULES  a folder with the kernel's modules somewhere below it: an unpacked kernel package (see
#          fetch-kernel.sh), or lib/modules/VERSION. "-": none, the kernel has virtio-net built in.
# AGENT    hypefs-guest, linked statically.
# PROGRAM  a static program that the guest runs instead of the agent. The agent is there all the same
#          and runs with the kernel parameter hypefs.agent; see init, also for hypefs.network.
#
# Needs busybox-static and cpio. Runs as any user.
set -eu

# In dependency order; what a kernel has built in is not there as a file and left out.
modules="virtio_ring virtio virtio_mmio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci
         failover net_failover virtio_net virtio_blk"

fail() {
    echo "make-initramfs.sh: $*" >&2
    exit 1
}

is_static() {
    ! LC_ALL=C ldd "$1" 2>/dev/null | grep -q '=>'
}

if [ $# -lt 3 ] || [ $# -gt 4 ]; then
    echo "usage: make-initramfs.sh MODULES AGENT OUT [PROGRAM]" >&2
    exit 2
fi
module_root=$1 agent=$2 out=$3 program=${4-}
here=$(dirname "$(readlink -f "$0")")
busybox=$(command -v busybox) || fail "busybox is missing (apt install busybox-static)"
command -v cpio >/dev/null || fail "cpio is missing (apt install cpio)"
for file in "$busybox" "$agent" ${program:+"$program"}; do
    [ -f "$file" ] || fail "$file is not there"
    is_static "$file" || fail "$file is not linked statically"
done
[ "$module_root" = - ] || [ -d "$module_root" ] || fail "$module_root is not a folder"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$root/bin" "$root/dev" "$root/etc" "$root/modules" "$root/proc" "$root/sys" "$root/tmp"
cp "$busybox" "$root/bin/busybox"
cp "$agent" "$root/bin/hypefs-guest"
cp "$here/init" "$root/init"
cp "$here/hook" "$root/etc/hook"
[ -z "$program" ] || cp "$program" "$root/bin/guest-program"
chmod 755 "$root/init" "$root/etc/hook" "$root/bin"/*

for module in $modules; do
    [ "$module_root" != - ] || break
    file=$(find "$module_root" -name "$module.ko*")
    [ -n "$file" ] || continue # built in
    [ "$(echo "$file" | wc -l)" = 1 ] ||
        fail "more than one $module below $module_root: name the folder of one kernel"
    case $file in
    *.ko) cp "$file" "$root/modules/" ;;
    *.ko.gz) gzip -dc "$file" >"$root/modules/$module.ko" ;;
    *.ko.xz) xz -dc "$file" >"$root/modules/$module.ko" ;;
    *.ko.zst) zstd -qdc "$file" >"$root/modules/$module.ko" ;;
    *) fail "$file is compressed in a way that is not known here" ;;
    esac
    echo "$module" >>"$root/etc/modules"
done

find "$root" -type d -exec chmod 755 {} + # the guest's other users, too
chmod 1777 "$root/tmp"
(cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) >"$out.part"
mv "$out.part" "$out"
