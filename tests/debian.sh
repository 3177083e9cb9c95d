#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs the tests on another Debian than this machine's, in a chroot.
#
#   debian.sh VERSION [OPTION]…
#
# VERSION is 12 or 13. The options are those of run.sh, which is run in the chroot on a copy of this
# folder; by default --suites. The chroot is made with debootstrap in ~/.cache/hypefs/debian-VERSION
# and used again the next time: remove that folder for a fresh one. Needs root and a network.
#
# Everything runs in namespaces of its own, for mounts and for processes: when this script ends, in
# whatever way, the kernel ends those processes and takes those mounts away.
set -eu

root=$(dirname "$(dirname "$(readlink -f "$0")")")
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hypefs

fail() {
    echo "debian.sh: $*" >&2
    exit 1
}

# The chroot is complete when it has its name.
make_chroot() {
    [ ! -d "$chroot" ] || return 0
    command -v debootstrap >/dev/null ||
        DEBIAN_FRONTEND=noninteractive apt-get -q -y install debootstrap >/dev/null ||
        fail "debootstrap is missing (apt-get install debootstrap)"
    rm -rf --one-file-system "$chroot.part"
    mkdir -p "$chroot.part"
    echo "Making Debian $version in $chroot"
    debootstrap --variant=minbase "$codename" "$chroot.part" >"$chroot.log" 2>&1 || {
        tail -n 20 "$chroot.log" >&2
        fail "debootstrap failed"
    }
    # run.sh looks for new packages only if one is missing. No package starts a service in there.
    printf '#!/bin/sh\nexit 101\n' >"$chroot.part/usr/sbin/policy-rc.d"
    chmod 755 "$chroot.part/usr/sbin/policy-rc.d"
    mv "$chroot.part" "$chroot"
}

# A folder that only root can enter, as a newcomer's clone is; its builds stay from run to run.
copy_sources() {
    mkdir -p "$chroot/root/hypefs"
    find "$chroot/root/hypefs" -mindepth 1 -maxdepth 1 ! -name 'build*' -exec rm -rf {} +
    tar -C "$root" --exclude='./build*' --exclude=./.git -cf - . | tar -C "$chroot/root/hypefs" -xf -
    find "$chroot/tmp" -mindepth 1 -delete # of a run that was killed
    cp -L /etc/resolv.conf "$chroot/etc/resolv.conf"
}

# In the namespaces. It becomes their root, rather than that of one process: tests change how mounts below
# / propagate, and whoever is in a chroot may make no user namespace.
inside() {
    mount --bind "$chroot" "$chroot"
    mount -t proc proc "$chroot/proc"
    mount --rbind /sys "$chroot/sys"
    mount --rbind /dev "$chroot/dev"
    mount -t tmpfs tmpfs "$chroot/dev/shm" # goes with the namespace, whatever tests leave in it
    cd "$chroot"
    pivot_root . mnt
    umount -l mnt
    exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
        ${http_proxy:+http_proxy="$http_proxy"} /root/hypefs/tests/run.sh "$@"
}

version=${1-}
case $version in
12) codename=bookworm ;;
13) codename=trixie ;;
*)
    sed -n '4,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
shift
chroot=$cache/debian-$version
[ "$(id -u)" = 0 ] || fail "please run as root: a chroot is made"
if [ "${1-}" = --inside ]; then
    shift
    inside "$@"
fi
mkdir -p "$cache"
exec 9>"$cache/debian-$version.lock"
flock 9 # one at a time
make_chroot
copy_sources
[ $# -gt 0 ] || set -- --suites
# unshare pays no heed to what asks it to end; killed, it takes all that is in the namespaces with it.
unshare --mount --propagation private --pid --fork --kill-child "$0" "$version" --inside "$@" &
pid=$!
trap 'kill -KILL $pid' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
status=0
wait $pid || status=$?
trap - EXIT
exit $status
