#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs examples/quickstart.sh, and looks whether its three clones say who they are.
#
#   check_quickstart.sh [--keep]
#
# --keep  with that option, and then ends it by the commands that it prints.
#
# Nothing of it may be there afterwards: what is, fails the check and is taken away.
set -eu

root=$(dirname "$(dirname "$(readlink -f "$0")")")
log=$(mktemp)
work=

clean_up() {
    status=$?
    trap - EXIT
    if [ -e "$work" ]; then
        # VMMs run in their instances' folders.
        pids=$(find /proc/[0-9]*/cwd -prune -lname "$work/*" 2>/dev/null | cut -d / -f 3)
        # shellcheck disable=SC2086 # a list of words
        [ -z "$pids" ] || kill -9 $pids || true
        fusermount3 -u -z "$work/mnt" || true
        rm -rf "$work"
    fi
    rm -f "$log" "$log.end"
    exit $status
}
trap clean_up EXIT
trap 'exit 143' HUP INT TERM

fail() {
    cat "$log"
    echo "check_quickstart.sh: $*"
    exit 1
}

cd /
"$root/examples/quickstart.sh" "$@" >"$log" 2>&1 || fail "it failed"
work=$(sed -n 's|^\$ hypefs mount --store \(.*\)/store .*|\1|p' "$log")
[ -n "$work" ] || fail "it does not tell its folder"
for name in web-1 web-2 web-3; do
    count=$(grep -c "^hook: this clone is now $name.\?\$" "$log" || true)
    [ "$count" = 1 ] || fail "$count clones said that they are now $name"
done

if [ "${1-}" = --keep ]; then
    for name in web-1 web-2 web-3; do
        [ "$(cat "$work/mnt/instances/$name/state")" = running ] || fail "$name does not run"
    done
    sed -n '/^To end it/,$s/^    //p' "$log" >"$log.end"
    sh -eu "$log.end" >>"$log" 2>&1 || fail "what it says does not end it"
fi
[ ! -e "$work" ] || fail "$work is there still"
