#!/bin/sh
# SPDX-License-Identifier: MIT
#
# From nothing to three forks of a running VM, with every command shown as you would type it.
#
#   quickstart.sh [--keep] [--kernel FILE]
#
# --keep         leaves everything running and mounted, and says what to try.
# --kernel FILE  another kernel for the guest. Its virtio-net must be built in, or its modules be in
#                lib/modules/VERSION beside the folder of FILE (as in an unpacked package), where
#                FILE is named vmlinuz-VERSION.
#
# What stays behind: the build folder (build/), and the guest's kernel in ~/.cache/hypefs.
set -eu

packages="build-essential meson ninja-build pkg-config libfuse3-dev fuse3 libcjson-dev
          libcurl4-openssl-dev libmd-dev uthash-dev qemu-system-x86 qemu-utils busybox-static cpio"
deadline_seconds=120 # for everything that is waited for

repo=$(dirname "$(dirname "$(readlink -f "$0")")")
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hypefs
keep=false
kernel=
work=
mnt=

fail() {
    echo "quickstart.sh: $*" >&2
    exit 1
}

heading() {
    printf '\n# %s\n' "$*"
}

# Shows a command and runs it. When it fails, the file $2 says why.
run() {
    printf '$ %s\n' "$1"
    eval "$1" || fail "failed${2:+: $(cat "$2")}"
}

# Runs a command whose output only matters when it fails.
quietly() {
    "$@" >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        fail "failed: $*"
    }
}

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
        --keep) keep=true ;;
        --kernel)
            [ $# -gt 1 ] || fail "--kernel needs a file"
            [ -f "$2" ] || fail "$2 is not there"
            kernel=$(readlink -f "$2")
            shift
            ;;
        -h | --help)
            sed -n '4,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
            exit 0
            ;;
        *)
            echo "quickstart.sh: unknown argument: $1 (--help tells more)" >&2
            exit 2
            ;;
        esac
        shift
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

can_be_root() {
    [ "$(id -u)" = 0 ] && return 0
    command -v sudo >/dev/null || return 1
    sudo -n true 2>/dev/null || [ -t 0 ]
}

# shellcheck disable=SC2086 # lists of words
install_missing() {
    command -v apt-get >/dev/null ||
        fail "there is no apt here; install by hand what corresponds to:" $packages
    missing=
    for package in $packages; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' ||
            missing="$missing $package"
    done
    kernel_known=true
    if [ -z "$kernel" ] && [ ! -d "$cache/kernel" ]; then
        apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || kernel_known=false
    fi
    # A chroot that debootstrap made lacks it, and fusermount3 unmounts nothing without.
    [ -e /etc/mtab ] || ! can_be_root || as_root ln -s ../proc/self/mounts /etc/mtab
    [ -n "$missing" ] || [ $kernel_known = false ] || return 0
    can_be_root ||
        fail "please run as root: apt-get update${missing:+ && apt-get install$missing}"
    echo "Installing:${missing:- nothing, only the lists of packages}"
    quietly as_root apt-get -q update
    [ -z "$missing" ] || quietly as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y install --no-install-recommends $missing
}

build() {
    build=$repo/build
    [ -w "$repo" ] || build=$cache/build
    [ -f "$build/build.ninja" ] || quietly meson setup "$build" "$repo" -Dtests=false
    quietly ninja -C "$build" src/cli/hypefs src/guest/hypefs-guest
    PATH=$build/src/cli:$PATH
}

make_guest() {
    if [ -z "$kernel" ]; then
        modules=$("$repo/examples/guest/fetch-kernel.sh" "$cache" 2>"$work/log") || {
            cat "$work/log" >&2
            fail "cannot fetch a kernel for the guest"
        }
        set -- "$modules"/boot/vmlinuz-*
        kernel=$1
    else
        modules=$(dirname "$(dirname "$kernel")")/lib/modules/${kernel##*/vmlinuz-}
        [ -d "$modules" ] || modules=-
    fi
    "$repo/examples/guest/make-initramfs.sh" "$modules" "$build/src/guest/hypefs-guest" \
        "$work/initramfs"
}

clean_up() {
    status=$?
    trap - EXIT HUP INT TERM
    cd /
    if [ -n "$mnt" ] && [ -e "$mnt/README" ]; then
        for instance in "$mnt"/instances/*/; do
            [ ! -e "$instance/state" ] || echo stopped >"$instance/state" || true
        done
        fusermount3 -u "$mnt" || true
        # The daemon has a lock on its store until it has ended. If a mount namespace that was made
        # meanwhile has the mount, too, it does not end by itself.
        flock -w 5 "$work/store/lock" true || kill "$(cat "$work/store/lock")" || true
        flock -w $deadline_seconds "$work/store/lock" true ||
            echo "quickstart.sh: hypefs does not end" >&2
    fi
    [ -z "$work" ] || rm -rf "$work"
    exit $status
}

# Follows the console until the agent says so; not longer than the VM lives, nor for ever.
await_agent() {
    pid=$(sed -n 's/^ *"pid": \([0-9]*\).*/\1/p' instances/base/info)
    timeout $deadline_seconds tail -n +1 -s 0.1 --pid="$pid" -f instances/base/console |
        grep -q -m 1 '^hypefs-guest: ready'
}

make_template() {
    heading "A template: an ordinary VM, whose guest runs hypefs-guest."
    run "mkdir instances/base"
    cat >"$work/config" <<END
{
    "hypervisor": "qemu",
    "memory_mib": 256,
    "kernel": "$kernel",
    "initrd": "$work/initramfs",
    "cmdline": "console=ttyS0 quiet panic=-1 hypefs.exec",
    "network": { "mode": "user" }
}
END
    run "cat $work/config"
    run "cp $work/config instances/base/config" instances/base/error
    run "echo running > instances/base/state" instances/base/error
    heading "Its agent plants a mailbox in the guest's memory and says so on the console."
    await_agent || {
        cat instances/base/console instances/base/vmm.log >&2
        fail "the guest's agent did not get ready; the VM is $(cat instances/base/state)"
    }
    run "grep hypefs-guest instances/base/console"
    heading "The VM's memory is saved and published as a snapshot. The mailbox is found in the memory."
    run "echo standby > instances/base/state" instances/base/error
    run "echo base > instances/base/snapshot" instances/base/error
    run "ls snapshots/base/mailboxes"
}

fork_one() {
    run "echo '{\"payload\":{\"instance_name\":\"$1\"},\"wait_for_ack\":true}' > forks/new/mailboxes/kernel.identity.v1" forks/new/error
    run "echo $1 > forks/new/commit" forks/new/error
}

fork_three() {
    heading "Three forks. Each commit returns when its clone has acknowledged its payload."
    run "cd snapshots/base"
    for name in web-1 web-2 web-3; do
        fork_one "$name"
    done
    heading "What each clone made of its payload, in its own words."
    run "cd ../.."
    for name in web-1 web-2 web-3; do
        run "cat instances/$name/console"
    done
    heading "What a commit did, and how long each step took."
    run "cat instances/web-3/fork/result"
}

# The memory is all that host and guest need for it.
talk() {
    heading "A clone that runs is told something, and answers; and it runs a command."
    run "echo '{\"instance_name\":\"web-9\"}' | hypefs send --mount . web-3 kernel.identity.v1"
    run "hypefs exec --mount . -n web-3 -- uname -a"
}

say_what_to_try() {
    cat <<END

Everything is left running. Try, in $mnt:
    cat README
    cat instances/web-1/info
    tail -f instances/*/console
    $build/src/cli/hypefs exec -n $mnt/instances/web-1 -- ps
A payload that the guest refuses; nothing of the fork is left:
    cd $mnt/snapshots/base/forks/new
    echo '{"payload":{"instance_name":"Not A Name"},"wait_for_ack":true}' > mailboxes/kernel.identity.v1
    echo web-4 > commit
    cat error
To end it, from a folder outside of the mount:
    for i in $mnt/instances/*/; do echo stopped > \$i/state; done
    fusermount3 -u $mnt && rm -r $work
END
}

parse "$@"
[ "$(uname -m)" = x86_64 ] || fail "the guest of this example is an x86-64 one"
work=$(mktemp -d "${TMPDIR:-/tmp}/hypefs-quickstart.XXXXXX")
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
install_missing
[ -c /dev/fuse ] || fail "/dev/fuse is not there (modprobe fuse; a container: --device /dev/fuse)"
if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then
    fail "/dev/fuse is not open to this user; as root: chmod 666 /dev/fuse"
fi
echo "Building in $repo ..."
build
make_guest

heading "hypefs is a filesystem: mount it."
mnt=$work/mnt
run "mkdir $work/mnt $work/store"
run "hypefs mount --store $work/store $work/mnt"
run "cd $work/mnt"
make_template
fork_three
talk
if $keep; then
    say_what_to_try
    trap - EXIT
else
    heading "That was all. Stopping the VMs and cleaning up (--keep leaves everything for you to try)."
fi
