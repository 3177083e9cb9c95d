#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Network identities in a real Debian guest, whose network systemd-networkd or NetworkManager
# manages: a fork has the addresses that it was given, and the template's do not come back.
#
#   check_debian_guest.sh BUILD [networkd|NetworkManager]...
#
# BUILD is a build folder with hypefs and hypefs-guest. The guest's files are made once, with
# debootstrap, and kept in the user's cache. Takes minutes: for the nightly run. Exit status 77, with
# a reason, where it cannot run.
set -eu

address=10.0.2.77 mac=02:00:00:00:00:77
samples=15 # lines of the guest about its addresses, one each second, that must all be right

skip() {
    echo "check_debian_guest.sh: skipped: $*"
    exit 77
}

build=$(readlink -f "$1")
shift
[ $# -gt 0 ] || set -- networkd NetworkManager
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hypefs
kernel=${HYPEFS_TEST_KERNEL:-$cache/kernel}
[ "$(id -u)" = 0 ] || skip "debootstrap needs root"
for program in debootstrap mke2fs qemu-system-x86_64 busybox cpio fusermount3; do
    command -v $program >/dev/null || skip "there is no $program"
done
ls "$kernel"/boot/vmlinuz-* >/dev/null 2>&1 ||
    skip "there is no kernel in $kernel (examples/guest/fetch-kernel.sh)"

work=$(mktemp -d)
clean_up() {
    status=$?
    trap - EXIT
    cd /
    if mountpoint -q "$work/mnt"; then
        for instance in "$work"/mnt/instances/*/; do
            [ ! -d "$instance" ] || echo stopped >"$instance/state" || true
        done
        fusermount3 -u "$work/mnt" || true
    fi
    rm -rf "$work"
    exit $status
}
trap clean_up EXIT
trap 'exit 143' HUP INT TERM

fail() {
    tail -n 40 "$work/mnt/instances"/*/console || true
    echo "check_debian_guest.sh: $*"
    exit 1
}

# ---- the guest ----

# Debian with both managers; which of them runs the kernel's command line says.
make_tree() {
    tree=$cache/debian-guest
    [ ! -d "$tree" ] || return 0
    mkdir -p "$cache"
    rm -rf "$tree.part"
    # libpam-systemd is what polkitd depends on, and NetworkManager on that.
    debootstrap --variant=minbase \
        --include=systemd,systemd-sysv,libpam-systemd,udev,dbus,iproute2,kmod,network-manager \
        bookworm "$tree.part" >"$work/debootstrap.log" 2>&1 || {
        tail -n 5 "$work/debootstrap.log"
        rm -rf "$tree.part"
        skip "debootstrap cannot make a Debian here"
    }
    rm -rf "$tree.part"/var/cache/apt/archives/*.deb "$tree.part"/var/lib/apt/lists/* \
        "$tree.part"/usr/share/doc "$tree.part"/usr/share/man "$tree.part"/usr/share/locale
    mv "$tree.part" "$tree"
}

put() {
    mkdir -p "$(dirname "$1")"
    cat >"$1"
}

make_disk() {
    root=$work/root
    cp -a "$cache/debian-guest" "$root"
    mkdir -p "$root/lib/modules"
    cp -a "$kernel"/lib/modules/* "$root/lib/modules/"
    cp "$build/src/guest/hypefs-guest" "$root/usr/local/bin/"
    put "$root/etc/systemd/network/eth0.network" <<END
[Match]
Name=eth0
[Network]
DHCP=yes
END
    put "$root/usr/local/bin/hook" <<END
#!/bin/sh
exit 0
END
    # What the guest has: all its addresses, and the gateway.
    put "$root/usr/local/bin/tell" <<'END'
#!/bin/sh
while sleep 1; do
    echo "guest: $(cat /sys/class/net/eth0/address)" \
        "$(ip -4 -o address show dev eth0 | awk '{ printf "%s ", $4 }')via" \
        "$(ip -4 route show default | awk '{ printf "%s ", $3 }')"
done
END
    chmod 755 "$root/usr/local/bin/hook" "$root/usr/local/bin/tell"
    for unit in tell hypefs-guest; do
        command=/usr/local/bin/$unit
        [ $unit = tell ] || command="$command --network --mailbox m --hook /usr/local/bin/hook"
        put "$root/etc/systemd/system/$unit.service" <<END
[Service]
ExecStart=$command
StandardOutput=file:/dev/ttyS0
StandardError=file:/dev/ttyS0
[Install]
WantedBy=multi-user.target
END
        mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
        ln -sf "../$unit.service" "$root/etc/systemd/system/multi-user.target.wants/$unit.service"
    done
    ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
    rm -f "$root/etc/machine-id" && : >"$root/etc/machine-id"
    mke2fs -q -t ext4 -d "$root" "$work/disk" 700M
    rm -rf "$root"
}

# Loads what the disk needs, and goes over to it.
make_initramfs() {
    root=$work/early
    mkdir -p "$root/bin" "$root/proc" "$root/dev" "$root/new" "$root/modules"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for module in virtio_ring virtio virtio_mmio virtio_blk failover net_failover virtio_net; do
        find "$kernel/lib/modules" -name "$module.ko" -exec cp {} "$root/modules/" \;
    done
    put "$root/init" <<'END'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in virtio_ring virtio virtio_mmio virtio_blk failover net_failover virtio_net; do
    [ ! -f /modules/$module.ko ] || /bin/busybox insmod /modules/$module.ko
done
/bin/busybox mount -t ext4 /dev/vda /new
exec /bin/busybox switch_root /new /sbin/init
END
    chmod 755 "$root/init"
    (cd "$root" && find . | cpio --quiet -o -H newc >"$work/initramfs")
}

# ---- the check ----

# Waits until the console of instance $1 has $2 lines like $3.
await() {
    tries=0
    while [ "$(grep -c "$3" "$work/mnt/instances/$1/console" || true)" -lt "$2" ]; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || fail "$1 never says: $3 ($2 times)"
        sleep 0.5
    done
}

# $1: the manager that runs in the guest.
check() {
    case $1 in
    networkd) services="systemd.wants=systemd-networkd.service systemd.mask=NetworkManager.service" ;;
    NetworkManager) services="systemd.mask=systemd-networkd.service systemd.mask=systemd-networkd.socket" ;;
    *) fail "no such manager: $1" ;;
    esac
    mkdir "$work/store" "$work/mnt"
    "$build/src/cli/hypefs" mount --store "$work/store" "$work/mnt"
    cd "$work/mnt"
    mkdir instances/base
    cat >instances/base/config <<END
{
    "kernel": "$(echo "$kernel"/boot/vmlinuz-*)", "initrd": "$work/initramfs", "memory_mib": 512,
    "cmdline": "console=ttyS0 quiet panic=-1 net.ifnames=0 systemd.show_status=0 $services",
    "disks": [{"path": "$work/disk", "format": "raw"}]
}
END
    echo running >instances/base/state
    await base 1 'hypefs-guest: ready'
    await base 1 '^guest: .* 10\.0\.2\.15/24 via 10\.0\.2\.2 '
    echo standby >instances/base/state
    echo base >instances/base/snapshot
    echo '{"interface_name":"eth0","mac":"'$mac'","ipv4":"'$address'","prefix":24,"gateway":"10.0.2.2"}' \
        >snapshots/base/forks/new/network
    echo '{"payload":{},"wait_for_ack":true,"ack":"udp","ack_timeout_ms":30000}' \
        >snapshots/base/forks/new/mailboxes/m
    echo fork >snapshots/base/forks/new/commit || fail "$(cat snapshots/base/forks/new/error)"
    grep -q '"status": "applied"' instances/fork/fork/result ||
        fail "the network was not applied: $(cat instances/fork/fork/result)"
    before=$(grep -c '^guest: ' instances/fork/console || true)
    await fork $((before + samples)) '^guest: '
    # The line at the commit's end may have been begun before.
    grep '^guest: ' instances/fork/console | tail -n +$((before + 2)) | tr -d '\r' | sort | uniq -c >"$work/seen"
    sed "s/^/$1: /" "$work/seen"
    [ "$(wc -l <"$work/seen")" = 1 ] || fail "$1: the addresses did not stay"
    grep -q " guest: $mac $address/24 via 10.0.2.2 \$" "$work/seen" ||
        fail "$1: other addresses than it was given"
    for instance in base fork; do echo stopped >instances/$instance/state; done
    cd /
    fusermount3 -u "$work/mnt"
    rm -rf "$work/store" "$work/mnt"
}

make_tree
make_disk
make_initramfs
for manager in "$@"; do
    check "$manager"
done
echo "check_debian_guest.sh: networks of Debian guests are as they should be"
