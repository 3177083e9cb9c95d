#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Fetches Debian's cloud kernel for guests: downloaded with apt and unpacked, not installed.
#
#   fetch-kernel.sh [DIR]
#
# Prints the unpacked package's folder, DIR/kernel: boot/vmlinuz-* and lib/modules/ are in it. One
# that is there from an earlier run is used again. DIR is ~/.cache/hypefs if it is not given: the
# quickstart and the tests look there, so one download does for all. Runs as any user.
set -eu

if [ $# -gt 1 ]; then
    echo "usage: fetch-kernel.sh [DIR]" >&2
    exit 2
fi
directory=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/hypefs}
root=$directory/kernel
if [ ! -d "$root" ]; then
    mkdir -p "$directory"
    work=$(mktemp -d "$directory/kernel.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    # linux-image-cloud-ARCH only names the package that has the kernel.
    meta=linux-image-cloud-$(dpkg --print-architecture)
    package=$(apt-cache depends "$meta" | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p')
    if [ -z "$package" ]; then
        echo "fetch-kernel.sh: apt knows no $meta (apt-get update?)" >&2
        exit 1
    fi
    # apt as root would download as another user, who cannot write into this folder.
    (cd "$work" && apt-get -q -o APT::Sandbox::User="$(id -un)" download "$package") >&2
    dpkg -x "$work"/linux-image-*.deb "$work/unpacked"
    # Another run may have been quicker; then its folder is as good.
    mv -T "$work/unpacked" "$root" 2>/dev/null || [ -d "$root" ]
fi
echo "$root"
