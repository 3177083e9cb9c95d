#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Makes the root file system of the tests' machine: an archive for its kernel to unpack at the start.
#
#   root.sh KERNEL OUT
#
# KERNEL is an unpacked kernel package (examples/guest/fetch-kernel.sh). All else are files of packages
# that are installed here, with what these depend on: so programs that were built here run there, with
# the same libraries. No package's scripts run, and nothing of /etc or /var comes along.
#
# One that is there is used again, unless packages or this script have changed since.
set -eu

# With Debian's names, of which one of several is enough. kmod is needed here, too.
packages="bash dash coreutils util-linux mount procps findutils grep sed gzip xz-utils diffutils iproute2 kmod cpio jq
          busybox-static fuse3 libfuse3-3|libfuse3-4 libcjson1 libcurl4 libmd0 libcmocka0 libc-bin libseccomp2
          qemu-system-x86 qemu-utils e2fsprogs"
modules="kvm_amd fuse tun loop ext4"

fail() {
    echo "root.sh: $*" >&2
    exit 1
}

# Names of installed packages: those above and all that they depend on.
all_packages() {
    # shellcheck disable=SC2086 # a list of words
    apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances $1 | sed -n 's/^\([a-z0-9].*\)/\1/p' | sort -u
}

is_installed() {
    dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' installed$'
}

# Of all packages, their files as they are called where / has no links to /usr's folders.
list_files() {
    # shellcheck disable=SC2046 # a list of words
    dpkg -L $(all_packages "$1" | grep -Ev "^(debconf|perl|tzdata)") 2>/dev/null | # some are virtual
        grep '^/' | grep -Ev '^/(etc|var|usr/share/(doc|man|locale|info|lintian|bash-completion|zsh))(/|$)' |
        sed -e 's,^/\(bin\|sbin\|lib\|lib64\|libx32\|lib32\)/,/usr/\1/,' | sort -u
}

copy_packages() {
    list_files "$1" | while IFS= read -r path; do
        [ -d "$path" ] && [ ! -L "$path" ] || printf '%s\n' ".$path"
    done >"$work/list"
    tar -C / --no-recursion -cf - -T "$work/list" 2>"$work/said" | tar -C "$tree" -xf -
    for folder in bin sbin lib lib64; do
        rmdir "$tree/$folder" 2>/dev/null || true
        mkdir -p "$tree/usr/$folder"
        ln -s "usr/$folder" "$tree/$folder"
    done
}

# The modules, and those that they need.
copy_modules() {
    lib=$kernel/lib # Debian 13 has it in usr
    [ -d "$lib/modules" ] || lib=$kernel/usr/lib
    folder=$(ls -d "$lib"/modules/*)
    version=${folder##*/}
    mkdir -p "$tree/usr/lib/modules" "$work/modules/lib"
    cp -a "$lib/modules" "$work/modules/lib/"
    depmod -b "$work/modules" "$version"
    for module in $modules; do
        modprobe -d "$work/modules" -S "$version" --show-depends "$module" | sed -n 's/^insmod //p'
    done | sort -u | while read -r path; do
        to=$tree/usr${path#"$work/modules"}
        mkdir -p "$(dirname "$to")"
        cp "$path" "$to"
    done
    cp "$folder"/modules.order "$folder"/modules.builtin* "$tree/usr/lib/modules/$version/"
    depmod -b "$tree" "$version"
}

[ $# = 2 ] || fail "usage: root.sh KERNEL OUT"
kernel=$1 out=$2
here=$(dirname "$(readlink -f "$0")")
wanted=
for package in $packages; do
    found=
    for name in $(echo "$package" | tr '|' ' '); do
        # Debian 13 has t64 behind some names.
        for name in "$name" "${name}t64"; do
            [ -n "$found" ] || ! is_installed "$name" || found=$name
        done
    done
    [ -n "$found" ] || fail "the package $package is missing (apt install $package)"
    wanted="$wanted $found"
done
# shellcheck disable=SC2086 # a list of words
stamp=$( (cat "$0" "$here/init" "$kernel"/boot/config-* && dpkg-query -W $wanted) | sha256sum)
[ ! -e "$out" ] || [ "$(cat "$out.stamp" 2>/dev/null)" != "$stamp" ] || exit 0

work=$(mktemp -d "${TMPDIR:-/tmp}/machine.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
tree=$work/tree
mkdir -p "$tree"
copy_packages "$wanted"
copy_modules
for folder in dev etc machine mnt proc root run sys tmp var/tmp; do
    mkdir -p "$tree/$folder"
done
ln -s ../run "$tree/var/run"
ln -s ../proc/self/mounts "$tree/etc/mtab"
printf 'root:x:0:0::/root:/bin/bash\nnobody:x:65534:65534::/nonexistent:/bin/false\n' >"$tree/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
cp /etc/ld.so.cache "$tree/etc/"
cp "$here/init" "$tree/init"
chmod 755 "$tree/init" "$tree"
mkdir -p "$(dirname "$out")"
(cd "$tree" && find . -print0 | cpio --null --quiet -o -H newc -R 0:0) >"$out.part"
printf '%s\n' "$stamp" >"$out.stamp"
mv "$out.part" "$out"
