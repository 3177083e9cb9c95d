/* SPDX-License-Identifier: MIT */
#include "crash.h"

#include "fake.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/fault.h"

enum {
    POINTS_MAX = 200,  /* that one operation passes: more are a loop */
    START_POINTS = 16, /* of a start: one of them is tried after each */
    START_EACH = 3,    /* third crash */
};

const char *crash_plan;
static bool crashed[FAULTS];
static int passes[FAULTS]; /* of the operation that was traced last */

/* What the sanitizer keeps of memory that was freed is copied with each fork. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=4";
}

/* ---- the daemon ---- */

static char *plan_path(struct harness *h)
{
    return harness_format(h, "%s/plan", h->directory);
}

/* VMMs are not ended so. What it is, each daemon asks. */
static const char *fake(struct harness *h)
{
    return fixture_script(
        h, "program",
        harness_format(h,
                       "#!/bin/sh\n[ \"$1\" = --version ] && echo %s && exit\n"
                       "unset HYPEFS_FAULT\nexec '%s' \"$@\"\n",
                       fake_is_firecracker() ? "Firecracker v1.7.0" : "cloud-hypervisor v53.0",
                       fake_program()));
}

static bool start(struct harness *h, const char *plan, int *ret_status)
{
    setenv("HYPEFS_FAULT", plan, 1);
    const char *options[] = {harness_format(h, "--%s", fake_hypervisor()),
                             harness_format(h, "%s/program", h->programs), NULL};
    bool runs = harness_try_mount(h, options, ret_status);
    unsetenv("HYPEFS_FAULT");
    return runs;
}

static void start_anew(struct harness *h)
{
    int status;
    unlink(plan_path(h));
    if (start(h, harness_format(h, "@%s", plan_path(h)), &status))
        return;
    print_error("the daemon does not start: %s", harness_get(h, h->log));
    fail();
}

/* How often does the text have the line that begins so and ends with the name? */
static int count_lines(const char *text, const char *start, const char *name)
{
    int count = 0;
    size_t start_size = strlen(start), name_size = strlen(name);
    for (const char *at = text; (at = strstr(at, start));) {
        at += start_size;
        count += strncmp(at, name, name_size) == 0 && at[name_size] == '\n';
    }
    return count;
}

void crash_note(const char *text)
{
    for (size_t i = 0; i < FAULTS; i++) {
        crashed[i] = crashed[i] || count_lines(text, "fault point reached: ", fault_names[i]) > 0;
        passes[i] += count_lines(text, "fault point passed: ", fault_names[i]);
    }
}

bool crash_passed_all(void)
{
    bool all = true;
    for (size_t i = 0; i < FAULTS; i++)
        if (!crashed[i]) {
            print_error("no daemon was ended at the point %s\n", fault_names[i]);
            all = false;
        }
    return all;
}

char *crash_instance(struct harness *h, const char *id, const char *file)
{
    return harness_path(h, "instances/%s/%s", id, file);
}

char *crash_config(struct harness *h, const char *disk)
{
    const char *path = harness_format(h, "%s/%s", h->directory, disk);
    if (access(path, F_OK) < 0)
        harness_put(path, "0123456789");
    return harness_format(h,
                          "{\"hypervisor\":\"%s\",\"kernel\":\"/etc/passwd\","
                          "\"memory_mib\":8,\"cmdline\":\"mailboxes=m\","
                          "\"disks\":[{\"path\":\"%s\",\"format\":\"raw\"}]}",
                          fake_hypervisor(), path);
}

void crash_make(struct harness *h, const char *id)
{
    assert_works(mkdir(crash_instance(h, id, ""), 0755));
    harness_put(crash_instance(h, id, "config"), crash_config(h, "disk"));
}

/* A daemon that is killed loses nothing that the kernel has. Where this cannot be, it takes longer.
 */
static const char *keep_in_memory(const char *base)
{
    mount("tmpfs", base, "tmpfs", 0, "mode=0700");
    return NULL;
}

void crash_enter(void)
{
    harness_enter_with(keep_in_memory);
}

int crash_setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    fake(h);
    start_anew(h);
    crash_make(h, "base");
    harness_put(crash_instance(h, "base", "state"), "running");
    harness_await(h, crash_instance(h, "base", "console"), "ready");
    harness_put(crash_instance(h, "base", "state"), "standby");
    harness_put(crash_instance(h, "base", "snapshot"), "base");
    return rmdir(crash_instance(h, "base", ""));
}

int crash_teardown(void **state)
{
    struct harness *h = *state;
    if (access(h->log, F_OK) == 0)
        crash_note(harness_get(h, h->log));
    return harness_teardown(state);
}

/* ---- what is there ---- */

/* Calls `each` for each name in the directory but "." and "..". */
static void list(struct harness *h, const char *path,
                 void (*each)(struct harness *h, const char *path, const char *name))
{
    auto_closedir DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            each(h, path, harness_format(h, "%s", entry->d_name));
}

static bool is_among(const char *word, const char *words)
{
    size_t length = strlen(word);
    for (const char *at = words; (at = strstr(at, word)); at += length)
        if ((at == words || at[-1] == ' ') && (at[length] == ' ' || at[length] == 0))
            return true;
    return false;
}

static void assert_among(const char *path, const char *name, const char *names)
{
    if (is_among(name, names))
        return;
    print_error("%s/%s is left over\n", path, name);
    fail();
}

static const char *state_of(struct harness *h, const char *id)
{
    char *state = harness_get(h, crash_instance(h, id, "state"));
    state[strcspn(state, "\n")] = 0;
    return state;
}

static pid_t pid_of(struct harness *h, const char *id)
{
    return atoi(harness_json(h, harness_get(h, crash_instance(h, id, "info")), "pid"));
}

static const char *allowed;
static int vms;

static void check_file(struct harness *h, const char *path, const char *name)
{
    (void)h;
    assert_among(path, name, allowed);
}

static void check_instance(struct harness *h, const char *parent, const char *id)
{
    const char *path = harness_format(h, "%s/%s", parent, id);
    assert_true(id[0] != '.');
    const char *state = state_of(h, id);
    bool runs = is_among(state, "running paused");
    allowed = runs ? "instance.json fork.json vmm.log console.log base run unsynced "
                     "delivered.json"
                   : "instance.json fork.json vmm.log console.log run";
    list(h, path, check_file);
    allowed = runs && !fake_is_firecracker() ? "vmm.sock memory drive-disk0"
              : runs                         ? "vmm.sock drive-disk0"
              : strcmp(state, "standby") == 0
                  ? "memory state mailboxes.json drive-disk0 frozen-disk0"
                  : "drive-disk0 frozen-disk0";
    list(h, harness_format(h, "%s/run", path), check_file);
    const char *record = harness_get(h, harness_format(h, "%s/instance.json", path));
    if (strstr(record, "\"intent\"")) {
        print_error("%s: what was being done is on record still: %s\n", id, record);
        fail();
    }
    if (!runs)
        return;
    vms++;
    assert_vmm_is(h, id, state);
}

static void check_snapshot(struct harness *h, const char *parent, const char *id)
{
    assert_true(id[0] != '.');
    allowed = "snapshot.json memory state mailboxes.json frozen-disk0";
    list(h, harness_format(h, "%s/%s", parent, id), check_file);
    /* Of the disk that all have; an import has none. */
    const char *frozen = harness_format(h, "%s/%s/frozen-disk0", parent, id);
    if (strcmp(id, "base") == 0 || access(frozen, F_OK) == 0)
        assert_file_contains(frozen, "456789");
    /* Its list is there, so is the mailbox. */
    assert_works(access(harness_path(h, "snapshots/%s/mailboxes/m", id), F_OK));
}

static bool runs_in_store(struct harness *h, pid_t pid)
{
    char cwd[4096];
    ssize_t size = readlink(harness_format(h, "/proc/%d/cwd", (int)pid), cwd, sizeof cwd - 1);
    cwd[size > 0 ? size : 0] = 0;
    return strncmp(cwd, h->store, strlen(h->store)) == 0 && cwd[strlen(h->store)] == '/';
}

static void end_process(pid_t pid)
{
    auto_close int pidfd = pidfd_open(pid, 0);
    assert_works(kill(pid, SIGKILL));
    assert_int_equal(poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, HARNESS_DEADLINE_MS),
                     1);
}

/* Those that run in the store; `each` may be NULL. */
static int processes(struct harness *h, void (*each)(pid_t pid))
{
    auto_closedir DIR *proc = opendir("/proc");
    int count = 0;
    for (struct dirent *entry; (entry = readdir(proc));) {
        pid_t pid = atoi(entry->d_name);
        if (pid <= 0 || !runs_in_store(h, pid))
            continue;
        count++;
        if (each)
            each(pid);
    }
    return count;
}

static void check_world(struct harness *h)
{
    vms = 0;
    harness_await_erased(h);
    list(h, harness_store_path(h, "instances"), check_instance);
    list(h, harness_store_path(h, "snapshots"), check_snapshot);
    assert_int_equal(processes(h, NULL), vms);
}

/* That the daemon is gone, and nothing else. */
static void assert_cut_off(int code)
{
    if (code != ECONNABORTED)
        assert_errno(code, ENOTCONN);
}

static void remove_instance(struct harness *h, const char *parent, const char *id)
{
    (void)parent;
    if (strcmp(state_of(h, id), "created") != 0)
        harness_put(crash_instance(h, id, "state"), "stopped");
    assert_works(rmdir(crash_instance(h, id, "")));
}

static void remove_snapshot(struct harness *h, const char *parent, const char *id)
{
    (void)parent;
    if (strcmp(id, "base") != 0)
        assert_works(rmdir(harness_path(h, "snapshots/%s", id)));
}

static void remove_all(struct harness *h)
{
    list(h, harness_path(h, "instances"), remove_instance);
    list(h, harness_path(h, "snapshots"), remove_snapshot);
    check_world(h);
}

/* ---- the crashes ---- */

/* Of a VM that ran before and runs now: it is the same, and its guest did not begin again. */
struct life {
    pid_t pid;
    char *console;
};

static struct life life_of(struct harness *h, const char *id)
{
    struct life life = {0};
    if (access(crash_instance(h, id, ""), F_OK) < 0 || !is_among(state_of(h, id), "running paused"))
        return life;
    life.pid = pid_of(h, id);
    life.console = harness_get(h, crash_instance(h, id, "console"));
    return life;
}

static void assert_same_life(struct harness *h, const struct life *before,
                             const struct crash_operation *operation)
{
    struct life now = life_of(h, "x");
    if (before->pid == 0 || now.pid == 0)
        return;
    if (!operation->moves)
        assert_int_equal(now.pid, before->pid);
    if (operation->talks)
        now.console[strnlen(now.console, strlen(before->console))] = 0;
    assert_string_equal(now.console, before->console);
}

/* The errno of `run`; *ret_died when a point ended the daemon, or the other program. */
static int run_to(struct harness *h, const struct crash_operation *operation, const char *plan,
                  bool *ret_died)
{
    if (operation->stage)
        operation->stage(h);
    if (operation->elsewhere) {
        crash_plan = plan;
        int code = operation->run(h);
        crash_plan = NULL;
        *ret_died = code == EINTR;
        harness_kill(h);
        return code;
    }
    /* In one step: the daemon may look any time. */
    harness_put(harness_format(h, "%s/new-plan", h->directory), plan);
    assert_works(rename(harness_format(h, "%s/new-plan", h->directory), plan_path(h)));
    int code = operation->run(h);
    if (code != 0)
        assert_cut_off(code);
    int status = code == 0 ? harness_unmount(h) : harness_await_end(h);
    *ret_died = status == 128 + SIGKILL;
    assert_int_equal(status, *ret_died ? status : 0);
    return code;
}

/* The daemon that starts is ended too, by a crash of its own or without a point's help. */
static void crash_start(struct harness *h, int point)
{
    int status;
    if (start(h, harness_format(h, "any:%d", 1 + point % START_POINTS), &status))
        harness_kill(h);
    else
        assert_int_equal(status, 128 + SIGKILL);
}

/* True if the daemon was ended; `crash` counts those. */
static bool crash_at(struct harness *h, const struct crash_operation *operation, const char *plan,
                     int crash)
{
    bool died;
    if (operation->prepare)
        operation->prepare(h);
    struct life before = life_of(h, "x");
    int code = run_to(h, operation, plan, &died);
    if (died && operation->host_ends)
        processes(h, end_process);
    if (died && crash % START_EACH == 0)
        crash_start(h, crash / START_EACH);
    start_anew(h);
    check_world(h);
    assert_same_life(h, &before, operation);
    bool done = operation->done(h);
    if (code == 0)
        assert_true(done);
    if (!done && operation->stage)
        operation->stage(h);
    if (!done)
        assert_errno(operation->run(h), 0);
    assert_true(operation->done(h));
    remove_all(h);
    return died;
}

void crash_everywhere(struct harness *h, const struct crash_operation *operation)
{
    int crashes = 0;
    size_t before = strlen(harness_get(h, h->log));
    memset(passes, 0, sizeof passes);
    assert_false(crash_at(h, operation, "trace", 0));
    if (!operation->elsewhere)
        crash_note(harness_get(h, h->log) + before);
    for (size_t i = 0; i < FAULTS; i++)
        for (int pass = 1; pass <= passes[i]; pass++) {
            const char *plan = harness_format(h, "%s:%d", fault_names[i], pass);
            crashes += crash_at(h, operation, plan, crashes + 1);
            assert_true(crashes < POINTS_MAX);
        }
    assert_true(crashes > 0);
    print_message("crashed at %d points\n", crashes);
}
