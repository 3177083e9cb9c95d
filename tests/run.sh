#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Everything that must hold before a change lands, from a fresh clone on a fresh machine.
#
#   run.sh [--long | --suites | --soak | --bench | --debian VERSION [OPTION]]
#
# Installs what is missing, builds four times (gcc; gcc with the sanitizers for addresses and
# undefined behaviour and with points at which tests end the daemon; gcc with the sanitizer for
# threads; clang, hypefs and the fuzzers without the tests) and runs:
#   the suites         unit in the first two builds, and in the third with the soak; of the suites
#                      mount and vm, those of who starts this (root, say) in the second, and if that
#                      is root, those of an ordinary user in the first. Without what says that it is
#                      for the nightly run (the suite nightly). The soak is run in the third only, and
#                      the suite faults, in which one call after another fails, in the second
#   some of the rest   what is installed, a part of the tests in a machine with another kernel, the
#                      short benchmark (whose results count and not its times), the quickstart,
#                      some units under valgrind, each fuzzer for a moment
# --long     all suites in both builds, and all of the rest: the tests built with clang, too, the
#            benchmark in a release build, the quickstart with --keep, more units under valgrind, each
#            fuzzer for minutes
# --suites   only the first two builds, and the suites in them, those of the nightly run, too
# --soak     only the soak, for long, plain and with the sanitizer for threads
# --bench    only the benchmark, in a release build
# --debian   on Debian 12 or 13, in a chroot: debian.sh tells more
# Builds go on behind the suites before them. With enough memory, the tests in the last two builds have
# their stores in it (/dev/shm): they would wait for the disk most of the time. With TMPDIR all are there.
# The last lines name what failed and what was skipped; the very last is "N passed, N failed, N
# skipped". The exit status is not 0 if anything failed, or was skipped though this machine could have
# run it.
#
# What stays behind: the folders build-gcc, build-sanitize, build-thread, build-clang, build-bench
# and build (which is the quickstart's), and the guests' kernel in ~/.cache/hypefs.
set -eu

packages="build-essential meson ninja-build pkg-config libfuse3-dev fuse3 libcjson-dev
          libcurl4-openssl-dev libmd-dev uthash-dev libcmocka-dev clang valgrind qemu-system-x86 qemu-utils busybox-static cpio procps util-linux e2fsprogs
          bash dash sed vim jq python3-minimal iproute2 btrfs-progs sshfs openssh-sftp-server kmod"
processes=$(($(nproc) * 2)) # at a time: most tests wait, for daemons, guests and deadlines
fuzz_seconds=2
fuzz_seed=1
sanitize_timeouts=2 # times those of a plain build
# Names and lines are enough for reports, and the tests start hundreds of daemons from these builds.
sanitize_options="-Doptimization=1 -Ddebug=false -Dc_args=-g1"
for_the_night="nightly soak" # suites
not_in_thread="user faults"
thread_timeouts=4
soak_times=80 # as much as the soak of every run
# Units that start no programs.
valgrind_units="json_read scan deliver http qmp"
valgrind_more="error json sparse frame scan_json ack machine import import_firecracker config programs
               guest_answer"

root=$(dirname "$(dirname "$(readlink -f "$0")")")
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hypefs
passed=0 failed=0 skipped=0
mode=all
complaints= # why the exit status is not 0, where no test says it
skips=
behind= # before a command: what is done behind the suites waits for them

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

# Counts what was not run, and says why now and at the end.
skip() {
    skipped=$((skipped + $1))
    shift
    echo "skipped: $*"
    skips="$skips
    $*"
}

# One check that is a command: its output matters only when it fails.
check() {
    name=$1
    shift
    if "$@" >"$output" 2>&1; then
        passed=$((passed + 1))
    else
        tail -n 100 "$output"
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
        apt-get -q -y install --no-install-recommends "$@" >"$output" 2>&1 || {
        cat "$output" >&2
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
    # A chroot that debootstrap made lacks it, and fusermount3 unmounts nothing without.
    [ -e /etc/mtab ] || ! can_be_root || as_root ln -s ../proc/self/mounts /etc/mtab
    if is_installed "$runtime" && [ -z "$missing" ] && [ -d "$cache/kernel" ]; then
        return 0
    fi
    if ! can_be_root; then
        [ -z "$missing" ] || fail "please run as root: apt-get install$missing $runtime"
        return 0
    fi
    as_root apt-get -q update >"$output" 2>&1 || cat "$output" >&2
    [ -z "$missing" ] || install $missing
    runtime=libclang-rt-$(apt-cache depends clang |
        sed -n 's/^ *Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)-dev
    is_installed "$runtime" || ! apt-cache show "$runtime" >/dev/null 2>&1 || install "$runtime"
}

can_mount() {
    [ -r /dev/fuse ] && [ -w /dev/fuse ] && [ -n "$(command -v fusermount3)" ]
}

# ---- building ----

# prepare FOLDER MESON-OPTION…
prepare() {
    folder=$root/$1
    shift
    heading "Building in ${folder##*/}: meson setup $*"
    # A folder of an earlier run may have been made with other options.
    if [ -f "$folder/build.ninja" ]; then
        $behind meson configure "$folder" "$@"
    else
        $behind meson setup "$folder" "$root" "$@"
    fi >"$output" 2>&1 || {
        cat "$output" >&2
        fail "meson setup failed"
    }
}

# compile FOLDER TARGET… (by default all)
compile() {
    folder=$root/$1
    shift
    $behind ninja -k 0 -C "$folder" "$@" >"$output" 2>&1 || {
        grep -v '^\[[0-9]*/[0-9]*\] [A-Z]' "$output" >&2
        fail "the build failed"
    }
    tail -n 1 "$output"
}

# build FOLDER MESON-OPTION…
build() {
    prepare "$@"
    compile "$1"
}

# Does that while suites run, and says at await_behind what it said. One at a time.
do_behind() {
    (
        behind="nice -n 19" output=$work/output.behind passed=0 failed=0
        "$@"
        echo "$passed $failed" >"$work/counts.behind"
    ) >"$work/said.behind" 2>&1 &
    done_behind=$!
}

await_behind() {
    status=0
    wait $done_behind || status=$?
    cat "$work/said.behind"
    [ $status = 0 ] || exit $status
    read -r more_passed more_failed <"$work/counts.behind"
    passed=$((passed + more_passed)) failed=$((failed + more_failed))
    complaints=$complaints$(sed -n 's/^FAILED: /    /p' "$work/said.behind" | sed '1s/^/\n/')
}

# ---- suites ----

# Of a log of meson's: for each program its suites and its name, its result, and how many tests
# passed, failed and were skipped in it. A program that is not one of cmocka's counts as one.
count_tests() {
    jq -r '
        def names($mark): [splits("\n") | select(startswith($mark)) | ltrimstr($mark)] | unique;
        (.name | sub("^hypefs:"; "") | sub(" / "; "/")) as $name
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

# may_skip SUITES/PROGRAM: only what this machine cannot run.
may_skip() {
    case $1 in unit/*) false ;; *) ! can_mount ;; esac
}

# suites FOLDER "SUITE…" "SUITE…" MESON-ARGUMENT…: all of the first ones at once, but what is also in
# one of the others, so that what one test waits for is another one's time. Builds what they need and
# is not there yet.
suites() {
    folder=$root/$1 names=$2 without=$3
    shift 3
    heading "Suites $names in ${folder##*/}"
    for name in $names; do
        set -- --suite "hypefs:$name" "$@"
    done
    for name in $without; do
        set -- --no-suite "hypefs:$name" "$@"
    done
    log=$folder/meson-logs/suites.json stores=$memory
    [ "$folder" != "$root/build-gcc" ] || stores=$work
    rm -f "$log"
    TMPDIR=$stores/tmp meson test -C "$folder" --print-errorlogs --logbase suites --num-processes "$processes" "$@" 2>&1 |
        grep --line-buffered -Ev '^(ninja: |\[[0-9]+/[0-9]+\] [A-Z]|$|Full log|Expected Fail|Unexpected Pass)' || true
    if [ ! -f "$log" ]; then
        wrong "suites $names in ${folder##*/} did not run"
        return 0
    fi
    count_tests "$log" >"$work/counts"
    for name in $names; do
        grep -Eq "^([a-z]+\+)*$name[+/]" "$work/counts" || wrong "suite $name in ${folder##*/} is empty"
    done
    while read -r program result ok bad left; do
        passed=$((passed + ok)) failed=$((failed + bad))
        if [ "$bad" -gt 0 ]; then
            complain "$program in ${folder##*/}: $bad failed ($result)"
        elif [ "$left" -gt 0 ]; then
            skip "$left" "$left in $program of ${folder##*/}: $(why_skipped "$log" "$program")"
            may_skip "$program" || wrong "$program: skipped, though it can run here"
        fi
    done <"$work/counts"
    check_reports "$names in ${folder##*/}"
}

# What the program said of it, in one line.
why_skipped() {
    jq -r --arg name "/ ${2#*/}" 'select(.name | endswith($name)) | .stdout + (.stderr // "")' "$1" |
        grep -Ev '^\[' | sort -u | tail -n 5 | tr '\n' ' '
}

# What sanitizers said in daemons and other programs that tests started.
check_reports() {
    for report in "$work"/reports/*; do
        [ -e "$report" ] || continue
        cat "$report"
        wrong "a sanitizer's report in suites $1"
        rm "$report"
    done
}

# What tests left behind: files, mounts, processes. The sanitizer for threads makes tsan.rodata.PID when
# a program starts, and removes it at once: a program that a test kills in between leaves it.
check_leftovers() {
    for tmp in $(printf '%s\n' "$work/tmp" "$memory/tmp" | sort -u); do
        left=$(find "$tmp" -mindepth 1 ! -name 'tsan.rodata.*' | head -n 20)
        [ -z "$left" ] || wrong "files left behind: $left"
        left=$(grep -F " $tmp" /proc/self/mountinfo || true)
        [ -z "$left" ] || wrong "mounts left behind: $left"
        # VMMs run in their instances' folders.
        left=$(pgrep -a -f -- "$tmp" || true)$(find /proc/[0-9]*/cwd -prune \
            -lname "$tmp/*" 2>/dev/null || true)
        [ -z "$left" ] || wrong "processes left running: $left"
    done
}

# ---- valgrind and fuzzers ----

valgrind_unit() {
    logs=$work/valgrind.$1
    $behind valgrind -q --leak-check=full --errors-for-leak-kinds=definite,indirect --error-exitcode=99 \
        --log-file="$logs.%p" "$root/build-gcc/tests/unit/test_$1" || {
        cat "$logs".*
        return 1
    }
}

# Memory by valgrind, and descriptors that were opened and not closed.
run_valgrind() {
    heading "Units under valgrind, and their descriptors"
    # shellcheck disable=SC2086 # a list of words
    for unit in $valgrind_units; do
        check "unit/$unit under valgrind" valgrind_unit "$unit"
        check "descriptors of unit/$unit" env \
            LD_PRELOAD="$root/build-gcc/tests/unit/descriptors.so" \
            "$root/build-gcc/tests/unit/test_$unit"
    done
}

has_libfuzzer() {
    echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d == 0 && n > 9; }' \
        >"$work/probe.c"
    clang -fsanitize=fuzzer,address "$work/probe.c" -o "$work/probe" 2>/dev/null
}

# One fuzzer, on a copy of its corpus. What decides whether a change lands begins with the same seed
# each time, so that no change fails for what another one brought; the long run looks further.
fuzz() {
    cp -r "$root/tests/fuzz/corpus/$1" "$work/fuzz/$1"
    chmod -R u+w "$work/fuzz/$1"
    "$root/build-clang/tests/fuzz/fuzz_$1" -seed=$fuzz_seed -max_total_time=$fuzz_seconds -timeout=10 \
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
    rm -rf "$work" "$memory"
    exit $status
}

# Is there as much memory as the tests need, and may programs be started from there?
has_memory() {
    need=$((processes * 1024 * 1024))
    [ -z "${TMPDIR-}" ] && df -P -k /dev/shm 2>/dev/null |
        awk -v need=$need '$1 == "tmpfs" && $4 > need { found = 1 } END { exit !found }' &&
        awk -v need=$need '$1 == "MemAvailable:" && $2 > 2 * need { found = 1 } END { exit !found }' \
            /proc/meminfo &&
        ! grep -q ' /dev/shm [^ ]* [^ ]*noexec' /proc/mounts
}

prepare_environment() {
    mkdir -m 1777 "$work/tmp" "$work/reports"
    [ -d "$memory/tmp" ] || mkdir -m 1777 "$memory/tmp"
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
    [ -z "$skips" ] || echo "What was skipped:$skips"
    [ -z "$complaints" ] || echo "What failed:$complaints"
    echo "$passed passed, $failed failed, $skipped skipped"
    [ -z "$complaints" ]
    exit
}

# soak TIMES
soak() {
    export HYPEFS_SOAK="$1"
    suites build-gcc soak user --timeout-multiplier "$1"
    suites build-thread soak user --timeout-multiplier $(($1 * thread_timeouts))
    unset HYPEFS_SOAK
}

# Those of an ordinary user are for root to run, who becomes one.
all_suites() {
    in_plain="unit mount vm"
    if [ "$(id -u)" != 0 ]; then
        in_plain="unit mount" plain=user sanitized=user
    elif [ $mode = long ]; then
        plain= sanitized=
    else
        plain=self sanitized=user
    fi
    [ $mode != all ] || plain="$plain $for_the_night faults" sanitized="$sanitized $for_the_night"
    # Sanitizers make gcc warn of what cannot happen.
    # shellcheck disable=SC2086 # a list of words
    do_behind build build-sanitize -Db_sanitize=address,undefined -Dfault_points=true $sanitize_options
    suites build-gcc "$in_plain" "$plain"
    await_behind
    [ $mode = suites ] || do_behind beside_suites
    suites build-sanitize "unit mount vm" "$sanitized" --timeout-multiplier $sanitize_timeouts
    [ $mode = suites ] || await_behind
}

beside_suites() {
    # shellcheck disable=SC2086 # a list of words
    prepare build-thread -Db_sanitize=thread $sanitize_options
    # What its suites need: `true` is run in the place of each test. What fails is told by the suites.
    # shellcheck disable=SC2046,SC2086 # lists of words
    $behind meson test -C "$root/build-thread" --wrapper true --logbase build --suite hypefs:unit \
        --suite hypefs:soak $(printf -- '--no-suite hypefs:%s ' $not_in_thread) >"$output" 2>&1 || true
    run_valgrind
    ! has_libfuzzer || build_fuzzers
}

build_fuzzers() {
    CC=clang prepare build-clang --werror -Dfuzzers=true
    if [ $mode = long ]; then compile build-clang; else compile build-clang programs; fi
}

bench() {
    heading "The benchmark"
    check "the benchmark" "$root/tests/bench/run.sh" "$@"
}

installed() {
    heading "Installing into a folder"
    check "meson install" meson install -C "$root/build-gcc" --no-rebuild --destdir "$work/installed"
    check "what is installed" "$root/tests/check_install.sh" "$work/installed" \
        "$(can_mount || echo --no-mount)"
}

# Whatever this host's kernel has, VMMs are shut in with an older Landlock, too; and real VMMs run with KVM, as
# many of them as there are. With one processor that machine was never seen to crash or to stand still.
other_kernel() {
    heading "Debian's kernel, in a virtual machine"
    check "machine/run.sh" env MACHINE_CPUS=1 "$root/tests/machine/run.sh" --build "$root/build-gcc" \
        confine kvm_fork firecracker_life cloud_hypervisor_life
}

quickstart() {
    heading "The quickstart"
    check "quickstart.sh" "$root/tests/check_quickstart.sh"
    [ $mode != long ] || check "quickstart.sh --keep" "$root/tests/check_quickstart.sh" --keep
}

usage() {
    sed -n '4,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit "$1"
}

case ${1-} in
"") ;;
--debian)
    [ $# -gt 1 ] || usage 2
    shift
    exec "$root/tests/debian.sh" "$@"
    ;;
--long | --suites | --soak | --bench) mode=${1#--} ;;
--help) usage 0 ;;
*) usage 2 ;;
esac
[ $# -le 1 ] || usage 2
[ "$(uname -m)" = x86_64 ] || fail "the VM tests' guests are x86-64 ones"
began=$(date +%s)
work=$(mktemp -d "${TMPDIR:-/tmp}/hypefs-tests.XXXXXX")
output=$work/output memory=$work
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
! has_memory || memory=$(mktemp -d /dev/shm/hypefs-tests.XXXXXX)
chmod 711 "$work" "$memory"
install_missing
heading "The guests' kernel"
"$root/examples/guest/fetch-kernel.sh" || fail "cannot fetch a kernel for the guests"

prepare_environment
case $mode in
bench)
    bench
    finish
    ;;
soak)
    prepare build-gcc --werror -Dbench=true
    # shellcheck disable=SC2086 # a list of words
    prepare build-thread -Db_sanitize=thread $sanitize_options
    soak $soak_times
    finish
    ;;
long)
    not_in_thread=user
    fuzz_seconds=120
    fuzz_seed=0 # one of libFuzzer's own
    valgrind_units="$valgrind_units $valgrind_more"
    ;;
esac
build build-gcc --werror -Dbench=true
all_suites
[ $mode != suites ] || finish
suites build-thread "unit soak" "$not_in_thread" --timeout-multiplier $thread_timeouts
installed
other_kernel
if ! can_mount; then
    skip 2 "the benchmark and the quickstart: nothing can be mounted here"
else
    if [ $mode = long ]; then bench; else bench --build "$root/build-gcc" --quick; fi
    quickstart
fi
if has_libfuzzer; then
    run_fuzzers
else
    skip 1 "the fuzzers: clang's runtime is not there"
fi
finish
