#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Looks whether what `meson install` left in a folder works: its files, a mount, and the README's
# program, built as the README says.
#
#   check_install.sh DESTDIR [--no-mount]
set -eu

root=$(dirname "$(dirname "$(readlink -f "$0")")")
prefix=$(readlink -f "$1")/usr/local
work=$(mktemp -d)
pid=

fail() {
    echo "check_install.sh: $*"
    exit 1
}

clean_up() {
    status=$?
    trap - EXIT
    cd /
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    [ ! -e "$work/mnt/README" ] || fusermount3 -u -z "$work/mnt"
    rm -rf "$work"
    exit $status
}
trap clean_up EXIT
trap 'exit 143' HUP INT TERM

has_files() {
    for file in bin/hypefs bin/hypefs-guest libexec/hypefs/hypefs-readonly.so libexec/hypefs/hypefs-vmm \
        include/hypefs-guest.h share/man/man1/hypefs.1 share/man/man1/hypefs-guest.1 \
        share/man/man3/hypefs-guest.3; do
        [ -s "$prefix/$file" ] || fail "there is no $file"
    done
    for file in libhypefs-guest.a libhypefs-guest.so hypefs-guest.pc; do
        [ -n "$(find -L "$prefix"/lib* -name $file -size +0)" ] || fail "there is no $file"
    done
    "$prefix/bin/hypefs" --version
    "$prefix/bin/hypefs-guest" --version
}

mounts() {
    mkdir "$work/mnt"
    "$prefix/bin/hypefs" mount --store "$work/store" "$work/mnt"
    grep -q hypefs "$work/mnt/README" || fail "the mount has no README"
    [ -z "$(ls "$work/mnt/snapshots")" ] || fail "the new store has snapshots"
    fusermount3 -u "$work/mnt"
    flock -w 60 "$work/store/lock" true || fail "the daemon does not end"
}

# The README's app.c and the command below it.
builds_the_readmes_program() {
    cd "$work"
    sed -n '/^```c$/,/^```$/{/^```/!p}' "$root/README.md" >app.c
    build=$(sed -n '/^cc -static app\.c/p' "$root/README.md")
    [ -s app.c ] && [ -n "$build" ] || fail "the README has no app.c"
    PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name hypefs-guest.pc)")
    export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR="${prefix%/usr/local}"
    echo "$build"
    eval "$build"
    mkfifo said
    ./app >said &
    pid=$!
    line=$(timeout 60 head -n 1 said)
    [ "$line" = "app: armed" ] || fail "it said: $line"
}

has_files
[ "${2-}" = --no-mount ] || mounts
builds_the_readmes_program
