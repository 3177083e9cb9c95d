#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Everything that must hold before a change lands, from a fresh clone on a fresh machine.
#
#   run.sh [--soak | --bench]
#
# Installs what is missing, builds four times (gcc; gcc with the sanitizers for addresses and
# undefined behaviour and with points at which tests end the daemon; gcc with the sanitizer for
# threads; clang with fuzzers), runs all suites in the second, all but that of VMs in the first, the
# units and the soak in the third, some units under valgrind, and each fuzzer for a while; and looks
# whether what is installed works, the quickstart, and the short benchmark (a release build, with
# VMs), whose results count and not its times. With --soak only the soak is run, for long, plain and
# with the sanitizer for threads; with --bench only the benchmark. The last line is "N passed, N
# failed, N skipped". The exit status is not 0 if anything failed, or was skipped though this machine
# could have run it.
#
# What stays behind: the folders build-gcc, build-sanitize, build-thread, build-clang, build-bench
# and build (which is the quickstart's), and the guests' kernel in ~/.cache/hypefs. Run as root, the
# suites for an ordinary user run as one, too.
set -eu

packages="build-essential meson ninja-build pkg-config libfuse3-dev fuse3 libcjson-dev
          libcurl4-openssl-dev libmd-dev uthash-dev libcmocka-dev clang valgrind qemu-system-x86 qemu-utils busybox-static cpio procps util-linux e2fsprogs
          bash dash sed vim jq python3-minimal iproute2"
suites="unit mount vm"
processes=$(($(nproc) * 3 / 2)) # at a time: most tests wait, for daemons, guests and deadlines
fuzz_seconds=15
sanitize_timeouts=2 # times those of a plain build
thread_timeouts=4
soak_times=40 # as much as the soak of every run
valgrind_units="error json json_read sparse frame scan scan_json deliver ack machine import
                import_firecracker config http qmp programs guest_answer"

root=$(dirname "$(dirname "$(readlink -f "$0")")")
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hypefs
passed=0 failed=0 skipped=0
only_soak=false only_bench=false
complaints= # why the exit status is not 0, where no test says it

fail() {
    echo "run.sh: $*" >&2
    exit 1
}

heading() {
    printf '\n==== %s (%d s)\n' "$*" $(($(date +%s) - began))
}

# Says what failed now and at the end.
complain() {
    echo "FAILED: $*"
    complaints="$complaints
    $*"
}

# A failure that no test counts.
wrong() {
    failed=$((failed + 1))
    complain "$@"
}

# One check that is a command: its output matters only when it fails.
check() {
    name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        passed=$((passed + 1))
    else
        tail -n 100 "$work/log"
        wrong "$name"
    fi
}

# ---- what must be there ----

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

can_be_root() {
    [ "$(id -u)" = 0 ] && return 0
    command -v sudo >/dev/null && sudo -n true 2>/dev/null
}

is_installed() {
    dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' installed$'
}

install() {
    heading "Installing: $*"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y install --no-install-recommends "$@" >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        fail "cannot install: $*"
    }
}

# shellcheck disable=SC2086 # lists of words
install_missing() {
    command -v apt-get >/dev/null || {
        echo "There is no apt here. What corresponds to these must be there:" $packages
        return 0
    }
    missing=
    for package in $packages; do
        is_installed $package || missing="$missing $package"
    done
    # libFuzzer's runtime comes in a package with clang's version in its name.
    runtime=libclang-rt-$(apt-cache depends clang 2>/dev/null |
        sed -n 's/^ *Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)-dev
    if is_installed "$runtime" && [ -z "$missing" ] && [ -d "$cache/kernel" ]; then
        return 0
    fi
    if ! can_be_root; then
        [ -z "$missing" ] || fail "please run as root: apt-get install$missing $runtime"
        return 0
    fi
    as_root apt-get -q update >"$work/log" 2>&1 || cat "$work/log" >&2
    [ -z "$missing" ] || install $missing
    runtime=libclang-rt-$(apt-cache depends clang |
        sed -n 's/^ *Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)-dev
    is_installed "$runtime" || ! apt-cache show "$runtime" >/dev/null 2>&1 || install "$runtime"
}

can_mount() {
    [ -r /dev/fuse ] && [ -w /dev/fuse ] && [ -n "$(command -v fusermount3)" ]
}

# ---- building ----

# build FOLDER MESON-OPTION…
build() {
    folder=$root/$1
    shift
    heading "Building in ${folder##*/}: meson setup $*"
    [ -f "$folder/build.ninja" ] || meson setup "$folder" "$root" "$@" >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        fail "meson setup failed"
    }
    ninja -k 0 -C "$folder" >"$work/log" 2>&1 || {
        grep -v '^\[[0-9]*/[0-9]*\] [A-Z]' "$work/log" >&2
        fail "the build failed"
    }
    tail -n 1 "$work/log"
}

# ---- suites ----

# Of a log of meson's: for each program its name, its result, and how many tests passed, failed and
# were skipped in it. A program that is not one of cmocka's counts as one.
count_tests() {
    jq -r '
        def names($mark): [splits("\n") | select(startswith($mark)) | ltrimstr($mark)] | unique;
        (.name | split(" / ") | last) as $name
        | (.stdout + "\n" + (.stderr // "")) as $out
        | ($out | names("[       OK ] ") | length) as $ok
        | ($out | names("[  FAILED  ] ") + names("[  ERROR   ] ")
           | map(select(test(" ") | not)) | unique | length) as $bad
        | ($out | names("[  SKIPPED ] ") | map(select(test(" ") | not)) | length) as $left
        | (.result == "OK" or .result == "SKIP" | not) as $broken
        | if $ok + $bad + $left == 0
          then [$name, .result, (.result == "OK"), $broken, (.result == "SKIP")]
          else [$name, .result, $ok, (if $broken and $bad == 0 then 1 else $bad end), $left] end
        | map(if . == true then 1 elif . == false then 0 else . end)
        | map(tostring) | join(" ")' "$1"
}

# may_skip SUITE PROGRAM: only what this machine cannot run. For an ordinary user the programs that
# root runs as one are the others once more.
may_skip() {
    case $1/$2 in
    unit/*) false ;;
    */*_user) [ "$(id -u)" != 0 ] || ! can_mount ;;
    *) ! can_mount ;;
    esac
}

# suite FOLDER SUITE MESON-ARGUMENT… (of which those that are no options name single tests)
suite() {
    folder=$root/$1 name=$2
    shift 2
    heading "Suite $name in ${folder##*/}"
    rm -f "$folder/meson-logs/$name.json"
    meson test -C "$folder" --no-rebuild --suite "hypefs:$name" --print-errorlogs \
        --logbase "$name" --num-processes "$processes" "$@" 2>&1 |
        grep -Ev '^(ninja: |$|Full log|Expected Fail|Unexpected Pass)' || true
    if [ ! -f "$folder/meson-logs/$name.json" ]; then
        wrong "suite $name in ${folder##*/} did not run"
        return 0
    fi
    count_tests "$folder/meson-logs/$name.json" >"$work/counts"
    [ -s "$work/counts" ] || wrong "suite $name in ${folder##*/} is empty"
    while read -r program result ok bad left; do
        passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + left))
        if [ "$bad" -gt 0 ]; then
            complain "$name/$program in ${folder##*/}: $bad failed ($result)"
        elif [ "$left" -gt 0 ]; then
            echo "skipped: $left in $name/$program"
            show_skipped "$folder/meson-logs/$name.json" "$program"
            may_skip "$name" "$program" || wrong "$name/$program: skipped, though it can run here"
        fi
    done <"$work/counts"
    check_reports "$name in ${folder##*/}"
}

show_skipped() {
    jq -r --arg name "$2" 'select((.name | split(" / ") | last) == $name) | .stdout + (.stderr // "")' "$1" |
        grep -Ev '^\[' | tail -n 5 | sed 's/^/    /'
}

# What sanitizers said in daemons and other programs that tests started.
check_reports() {
    for report in "$work"/reports/*; do
        [ -e "$report" ] || continue
        cat "$report"
        wrong "a sanitizer's report in suite $1"
        rm "$report"
    done
}

# What tests left behind: files, mounts, processes.
check_leftovers() {
    left=$(find "$work/tmp" -mindepth 1 | head -n 20)
    [ -z "$left" ] || wrong "files left behind: $left"
    left=$(grep -F " $work/tmp" /proc/self/mountinfo || true)
    [ -z "$left" ] || wrong "mounts left behind: $left"
    # VMMs run in their instances' folders.
    left=$(pgrep -a -f -- "$work/tmp" || true)$(find /proc/[0-9]*/cwd -prune \
        -lname "$work/tmp/*" 2>/dev/null || true)
    [ -z "$left" ] || wrong "processes left running: $left"
}

# ---- valgrind and fuzzers ----

# Leaks, and descriptors that were opened and not closed.
valgrind_unit() {
    logs=$work/valgrind.$1
    valgrind -q --leak-check=full --track-fds=yes --errors-for-leak-kinds=definite,indirect \
        --error-exitcode=99 --log-file="$logs.%p" "$root/build-gcc/tests/unit/test_$1" || {
        cat "$logs".*
        return 1
    }
    ! grep -h -A 6 '^==[0-9]*== Open ' "$logs".* | grep -B 1 -A 5 ' at 0x'
}

# Of units that start no programs.
run_valgrind() {
    heading "Units under valgrind"
    for unit in $valgrind_units; do
        check "unit/$unit under valgrind" valgrind_unit "$unit"
    done
}

has_libfuzzer() {
    echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d == 0 && n > 9; }' \
        >"$work/probe.c"
    clang -fsanitize=fuzzer,address "$work/probe.c" -o "$work/probe" 2>"$work/log"
}

# One fuzzer, on a copy of its corpus.
fuzz() {
    cp -r "$root/tests/fuzz/corpus/$1" "$work/fuzz/$1"
    chmod -R u+w "$work/fuzz/$1"
    "$root/build-clang/tests/fuzz/fuzz_$1" -max_total_time=$fuzz_seconds -timeout=10 \
        -rss_limit_mb=1024 -artifact_prefix="$work/fuzz/$1." "$work/fuzz/$1" \
        >"$work/fuzz/$1.log" 2>&1 && touch "$work/fuzz/$1.passed"
}

# As many at once as there are processors.
run_fuzzers() {
    heading "Fuzzers, each for $fuzz_seconds s"
    mkdir "$work/fuzz"
    running=0
    for fuzzer in "$root"/tests/fuzz/fuzz_*.c; do
        fuzzer=$(basename "$fuzzer" .c)
        fuzz "${fuzzer#fuzz_}" &
        running=$((running + 1))
        [ $((running % $(nproc))) != 0 ] || wait
    done
    wait
    for fuzzer in "$root"/tests/fuzz/fuzz_*.c; do
        fuzzer=$(basename "$fuzzer" .c)
        fuzzer=${fuzzer#fuzz_}
        check "fuzzer $fuzzer" test -e "$work/fuzz/$fuzzer.passed"
        tail -n "$([ -e "$work/fuzz/$fuzzer.passed" ] && echo 1 || echo 60)" "$work/fuzz/$fuzzer.log"
        # The input that made it fail, to be added to the corpus.
        find "$work/fuzz" -name "$fuzzer.*-*" -exec base64 {} +
    done
}

# ---- all of it ----

clean_up() {
    status=$?
    trap - EXIT HUP INT TERM
    rm -rf "$work"
    exit $status
}

prepare_environment() {
    mkdir -m 1777 "$work/tmp" "$work/reports"
    export TMPDIR="$work/tmp"
    export ASAN_OPTIONS="log_path=$work/reports/asan:detect_leaks=1"
    export UBSAN_OPTIONS="log_path=$work/reports/ubsan:halt_on_error=1:print_stacktrace=1"
    export TSAN_OPTIONS="log_path=$work/reports/tsan"
    export HYPEFS_TEST_KERNEL="$cache/kernel"
}

# The last lines, and the exit.
finish() {
    check_leftovers
    heading "Done"
    [ -z "$complaints" ] || echo "What failed:$complaints"
    echo "$passed passed, $failed failed, $skipped skipped"
    [ -z "$complaints" ]
    exit
}

# soak TIMES
soak() {
    export HYPEFS_SOAK="$1"
    suite build-gcc mount --timeout-multiplier "$1" mount_soak
    suite build-thread mount --timeout-multiplier $(($1 * thread_timeouts)) mount_soak
    unset HYPEFS_SOAK
}

bench() {
    heading "The benchmark"
    check "the benchmark" "$root/tests/bench/run.sh" --quick
}

if [ $# = 1 ] && [ "$1" = --soak ]; then
    only_soak=true
    shift
elif [ $# = 1 ] && [ "$1" = --bench ]; then
    only_bench=true
    shift
fi
if [ $# -gt 0 ]; then
    sed -n '4,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    [ "$1" = --help ] || exit 2
    exit 0
fi
[ "$(uname -m)" = x86_64 ] || fail "the VM tests' guests are x86-64 ones"
began=$(date +%s)
work=$(mktemp -d "${TMPDIR:-/tmp}/hypefs-tests.XXXXXX")
chmod 711 "$work"
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
install_missing
heading "The guests' kernel"
"$root/examples/guest/fetch-kernel.sh" "$cache" || fail "cannot fetch a kernel for the guests"

if $only_bench; then
    prepare_environment
    bench
    finish
fi
build build-gcc --werror
# Sanitizers make gcc warn of what cannot happen.
$only_soak || build build-sanitize -Db_sanitize=address,undefined -Dfault_points=true
build build-thread -Db_sanitize=thread
prepare_environment
if $only_soak; then
    soak $soak_times
    finish
fi
for name in $suites; do
    [ "$name" = vm ] || suite build-gcc "$name"
done
for name in $suites; do
    suite build-sanitize "$name" --timeout-multiplier $sanitize_timeouts
done
suite build-thread unit --timeout-multiplier $thread_timeouts
suite build-thread mount --timeout-multiplier $thread_timeouts mount_soak
heading "Installing into a folder"
check "meson install" meson install -C "$root/build-gcc" --no-rebuild --destdir "$work/installed"
check "what is installed" "$root/tests/check_install.sh" "$work/installed" \
    "$(can_mount || echo --no-mount)"
can_mount && bench
heading "The quickstart"
if can_mount; then
    check "quickstart.sh" "$root/tests/check_quickstart.sh"
    check "quickstart.sh --keep" "$root/tests/check_quickstart.sh" --keep
else
    echo "skipped: the quickstart, for nothing can be mounted here"
    skipped=$((skipped + 1))
fi
run_valgrind
if has_libfuzzer; then
    CC=clang build build-clang --werror -Dfuzzers=true
    run_fuzzers
else
    echo "skipped: the fuzzers, for clang's runtime is not there"
    skipped=$((skipped + 1))
fi
finish
