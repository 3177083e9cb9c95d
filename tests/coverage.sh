#!/bin/sh
# SPDX-License-Identifier: MIT
#
# How many of the lines and branches of src and fs the suites pass, and which lines none passes.
#
#   coverage.sh [BUILD]     default: build-coverage in the project's folder
#
# Needs what tests/run.sh installs, and gcovr, which root gets if it is missing. The figures are the last lines; the lines that no test
# passes are in BUILD/not-covered.txt, a file and its lines each. The exit status is that of the
# suites. Not counted is what a process passes that is ended by SIGKILL, as those of mount_crash are.
set -eu

root=$(dirname "$(dirname "$(readlink -f "$0")")")
build=${1:-$root/build-coverage}
status=0

command -v gcovr >/dev/null || apt-get install -y -q gcovr >/dev/null || {
    echo "coverage.sh: gcovr is missing" >&2
    exit 1
}
[ -e "$build/build.ninja" ] ||
    CC=gcc meson setup "$build" "$root" -Db_coverage=true -Dfault_points=true >/dev/null
ninja -C "$build" >/dev/null
find "$build" -name '*.gcda' -delete
HYPEFS_TEST_KERNEL=${HYPEFS_TEST_KERNEL:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hypefs/kernel} \
    meson test -C "$build" --no-rebuild --suite unit --suite mount --suite vm --timeout-multiplier 4 \
    --num-processes $(($(nproc) * 2)) --print-errorlogs || status=$?
# An ordinary user's counts lie apart; gcov wants the notes beside them.
find "$build/coverage-user" -name '*.gcda' 2>/dev/null | while read -r counts; do
    notes=${counts#"$build/coverage-user"}
    cp "${notes%.gcda}.gcno" "${counts%.gcda}.gcno"
done
cd "$root"
gcovr --root . --filter src/ --filter fs/ --txt "$build/lines.txt" --print-summary "$build" |
    grep -E '^(lines|branches)' >"$build/summary.txt"
awk '$1 ~ /\.[ch]$/ { file = $1 } $NF ~ /[0-9]/ && $NF ~ /^[0-9,-]+$/ { print file, $NF }' "$build/lines.txt" \
    >"$build/not-covered.txt"
cat "$build/summary.txt"
exit $status
