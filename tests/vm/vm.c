/* SPDX-License-Identifier: MIT */
#include "vm/vm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { PATH_SIZE = 4096 };

/* The guest's own program; NULL: its init starts the agent. What it says when it is ready. */
static const char *guest_program, *guest_ready;
static int guest_mib = 128;
static const char *guest_network, *guest_disks = "[]";
static const char *(*prepare_more)(const char *base);

/* The program's directory has these. */
static const char kernel_name[] = "vmlinuz", initramfs_name[] = "initramfs";

/* ---- guests ---- */

static int run(const char *const *argv)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid ? status : -1;
}

static const char *find_kernel(char ret[static PATH_SIZE])
{
    const char *told = getenv("HYPEFS_TEST_KERNEL"), *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (told)
        snprintf(ret, PATH_SIZE, "%s", told);
    else if (cache && cache[0])
        snprintf(ret, PATH_SIZE, "%s/hypefs/kernel", cache);
    else
        snprintf(ret, PATH_SIZE, "%s/.cache/hypefs/kernel", home ? home : "");
    return ret;
}

/* Its folder may be closed to the user that the tests run as. */
static const char *prepare_guest(const char *base)
{
    char folder[PATH_SIZE], pattern[PATH_SIZE + 32], kernel[512], initramfs[512];
    glob_t found = {0};
    find_kernel(folder);
    snprintf(pattern, sizeof pattern, "%s/boot/vmlinuz-*", folder);
    snprintf(kernel, sizeof kernel, "%.400s/%s", base, kernel_name);
    snprintf(initramfs, sizeof initramfs, "%.400s/%s", base, initramfs_name);
    if (access("/usr/bin/qemu-system-x86_64", X_OK) < 0 && !harness_has("qemu-system-x86_64"))
        return "there is no qemu-system-x86_64 (apt install qemu-system-x86)";
    if (glob(pattern, 0, NULL, &found) != 0) {
        globfree(&found);
        return "there is no kernel for guests: run examples/guest/fetch-kernel.sh DIR and set "
               "HYPEFS_TEST_KERNEL=DIR/kernel";
    }
    int status = run((const char *const[]){"cp", found.gl_pathv[0], kernel, NULL});
    globfree(&found);
    if (status == 0)
        status = run((const char *const[]){getenv("HYPEFS_MAKE_INITRAMFS"), folder,
                                           getenv("HYPEFS_GUEST"), initramfs, guest_program, NULL});
    chmod(kernel, 0644);
    chmod(initramfs, 0644);
    if (status != 0)
        return "a guest cannot be made (see above)";
    return prepare_more ? prepare_more(base) : NULL;
}

void vm_enter(void)
{
    guest_program = getenv("HYPEFS_VM_GUEST");
    guest_ready = "vm_guest: ready\r\n";
    harness_enter_with(prepare_guest);
}

void vm_enter_with_network(const char *network, const char *(*prepare)(const char *base))
{
    guest_network = network;
    prepare_more = prepare;
    vm_enter();
}

void vm_enter_with_agent(void)
{
    guest_program = NULL;
    guest_ready = "hypefs-guest: ready\r\n";
    harness_enter_with(prepare_guest);
}

void vm_use_disks(const char *disks)
{
    guest_disks = disks;
}

void vm_use_network(const char *network)
{
    guest_network = network;
}

void vm_use_memory(int mib)
{
    guest_mib = mib;
}

const char *vm_vmm(void)
{
    const char *name = getenv("HYPEFS_TEST_VMM");
    return name ? name : "qemu";
}

static bool is_qemu(void)
{
    return strcmp(vm_vmm(), "qemu") == 0;
}

void vm_needs_qemu(void)
{
    if (!is_qemu())
        skip();
}

/* Only QEMU has machines to choose from, and a network of its own. */
static const char *vmm_members(struct harness *h, const char *machine, const char *parameters)
{
    const char *network = guest_network ? guest_network
                          : is_qemu()   ? "{\"mode\":\"user\"}"
                                        : "{\"mode\":\"none\"}";
    return harness_format(h,
                          "\"hypervisor\":\"%s\",\"network\":%s,%s"
                          "\"cmdline\":\"console=ttyS0 quiet panic=-1 %s\"",
                          vm_vmm(), network,
                          is_qemu() ? harness_format(h, "\"machine\":\"%s\",", machine) : "",
                          parameters);
}

void vm_start(struct harness *h, const char *machine, const char *parameters)
{
    auto_free char *base = getcwd(NULL, 0);
    assert_int_equal(mkdir(harness_path(h, "instances/template"), 0755), 0);
    harness_put(harness_path(h, "instances/template/config"),
                harness_format(h,
                               "{%s,\"memory_mib\":%d,\"kernel\":\"%s/%s\",\"initrd\":\"%s/%s\","
                               "\"disks\":%s}",
                               vmm_members(h, machine, parameters), guest_mib, base, kernel_name,
                               base, initramfs_name, guest_disks));
    harness_put(harness_path(h, "instances/template/state"), "running");
}

void vm_boot(struct harness *h, const char *machine, const char *parameters)
{
    vm_start(h, machine, parameters);
    harness_await(h, harness_path(h, "instances/template/console"), guest_ready);
}

void vm_make_base(struct harness *h, const char *machine, const char *parameters)
{
    vm_boot(h, machine, parameters);
    harness_put(harness_path(h, "instances/template/state"), "standby");
    harness_put(harness_path(h, "instances/template/snapshot"), "base");
    assert_int_equal(rmdir(harness_path(h, "instances/template")), 0);
}

int vm_make_template(void **state, const char *machine, const char *parameters)
{
    if (harness_setup(state) != 0)
        return -1;
    struct harness *h = *state;
    harness_mount(h, NULL);
    vm_make_base(h, machine, parameters);
    assert_int_equal(harness_unmount(h), 0);
    return 0;
}

/* ---- stores ---- */

/* By hard links, so that what is known of the image stays true. */
static void share(struct harness *h, const char *from)
{
    auto_closedir DIR *directory = opendir(from);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.')
            assert_int_equal(link(harness_format(h, "%s/%s", from, entry->d_name),
                                  harness_store_path(h, "snapshots/base/%s", entry->d_name)),
                             0);
}

int vm_setup_unmounted(void **state)
{
    struct harness *template = *state;
    if (harness_setup(state) != 0)
        return -1;
    struct harness *h = *state;
    mkdir(h->store, 0700);
    mkdir(harness_store_path(h, "snapshots"), 0700);
    mkdir(harness_store_path(h, "snapshots/base"), 0700);
    share(h, harness_store_path(template, "snapshots/base"));
    return 0;
}

int vm_setup(void **state)
{
    if (vm_setup_unmounted(state) != 0)
        return -1;
    harness_mount(*state, NULL);
    return 0;
}

char *vm_own(struct harness *h, const char *name)
{
    char *path = harness_store_path(h, "snapshots/base/%s", name);
    char *copy = harness_format(h, "%s/copy", h->directory);
    struct harness_result result =
        harness_run(h, (const char *const[]){"cp", "--sparse=always", path, copy, NULL});
    assert_int_equal(result.status, 0);
    assert_int_equal(rename(copy, path), 0);
    return path;
}

char *vm_script(struct harness *h, const char *name, const char *text)
{
    char *path = harness_format(h, "%s/%s", h->directory, name);
    harness_put(path, text);
    assert_int_equal(chmod(path, 0755), 0);
    return path;
}

/* ---- drafts ---- */

char *vm_draft(struct harness *h, const char *draft, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s/%s", draft, file);
}

void vm_stage(struct harness *h, const char *draft, const char *mailbox, const char *text)
{
    harness_put(vm_draft(h, draft, harness_format(h, "mailboxes/%s", mailbox)), text);
}

char *vm_commit(struct harness *h, const char *draft, const char *id)
{
    int code = harness_write(vm_draft(h, draft, "commit"), id);
    if (code != 0)
        fail_msg("commit of %s: %s: %s", id, strerrorname_np(code),
                 harness_get(h, vm_draft(h, draft, "error")));
    char *result = harness_get(h, vm_draft(h, draft, "result"));
    assert_string_equal(harness_json(h, result, "status"), "committed");
    assert_string_equal(harness_json(h, result, "error"), "null");
    return result;
}

char *vm_commit_fails(struct harness *h, const char *draft, const char *id, int code,
                      const char *const *words)
{
    int was = harness_write(vm_draft(h, draft, "commit"), id);
    char *error = harness_get(h, vm_draft(h, draft, "error"));
    if (was != code)
        fail_msg("commit of %s: %s: %s", id, was ? strerrorname_np(was) : "0", error);
    for (size_t i = 0; words[i]; i++)
        if (!strstr(error, words[i]))
            fail_msg("the error does not have \"%s\": %s", words[i], error);
    char *result = harness_get(h, vm_draft(h, draft, "result"));
    assert_string_equal(harness_json(h, result, "status"), "failed");
    assert_string_equal(harness_json(h, result, "error.code"), strerrorname_np(code));
    return result;
}

char *vm_fork(struct harness *h, const char *id, const char *mailbox, const char *text)
{
    vm_stage(h, "new", mailbox, text);
    return vm_commit(h, "new", id);
}

struct vm_pending {
    pthread_t thread;
    const char *path, *id;
    int code, done_fd[2]; /* a pipe that ends when the write has returned */
};

static void *commit(void *argument)
{
    struct vm_pending *pending = argument;
    pending->code = harness_write(pending->path, pending->id);
    close(steal_fd(&pending->done_fd[1]));
    return NULL;
}

struct vm_pending *vm_start_commit(struct harness *h, const char *draft, const char *id)
{
    struct vm_pending *pending = harness_alloc(h, sizeof *pending);
    pending->path = vm_draft(h, draft, "commit");
    pending->id = id;
    assert_int_equal(pipe2(pending->done_fd, O_CLOEXEC), 0);
    assert_int_equal(pthread_create(&pending->thread, NULL, commit, pending), 0);
    return pending;
}

static bool ended_within(const struct vm_pending *pending, int timeout_ms)
{
    return poll(&(struct pollfd){.fd = pending->done_fd[0]}, 1, timeout_ms) == 1;
}

bool vm_is_done(struct vm_pending *pending)
{
    return ended_within(pending, 0);
}

int vm_finish_commit(struct vm_pending *pending)
{
    if (!ended_within(pending, HARNESS_DEADLINE_MS))
        fail_msg("the commit of %s does not end", pending->id);
    pthread_join(pending->thread, NULL);
    close(steal_fd(&pending->done_fd[0]));
    return pending->code;
}

/* ---- instances ---- */

char *vm_console(struct harness *h, const char *id)
{
    return harness_path(h, "instances/%s/console", id);
}

void vm_await_payload(struct harness *h, const char *id, const char *mailbox, const char *payload)
{
    harness_await(h, vm_console(h, id),
                  harness_format(h, "vm_guest: %s payload=%s\r\n", mailbox, payload));
}

struct search {
    struct harness *h;
    const char *line;
};

static bool is_printed(void *argument)
{
    const struct search *search = argument;
    glob_t paths = {0};
    bool found = false;
    if (glob(harness_store_path(search->h, "instances/.new-*/console.log"), GLOB_PERIOD, NULL,
             &paths) == 0)
        for (size_t i = 0; i < paths.gl_pathc && !found; i++)
            found = harness_read_errno(paths.gl_pathv[i]) == 0 &&
                    strstr(harness_get(search->h, paths.gl_pathv[i]), search->line);
    globfree(&paths);
    return found;
}

void vm_await_pending_line(struct harness *h, const char *line)
{
    struct search search = {.h = h, .line = harness_format(h, "vm_guest: %s", line)};
    harness_await_that(is_printed, &search, search.line);
}

void vm_await_pending_payload(struct harness *h, const char *mailbox, const char *begin)
{
    vm_await_pending_line(h, harness_format(h, "%s payload=%s", mailbox, begin));
}

char *vm_info(struct harness *h, const char *id, const char *member)
{
    return harness_json(h, harness_get(h, harness_path(h, "instances/%s/info", id)), member);
}

int vm_pid(struct harness *h, const char *id)
{
    return atoi(vm_info(h, id, "pid"));
}

void vm_await_end(int pidfd)
{
    assert_int_equal(poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, HARNESS_DEADLINE_MS),
                     1);
}

int vm_change(struct harness *h, const char *id, const char *state)
{
    return harness_write(harness_path(h, "instances/%s/state", id), state);
}

unsigned vm_last_tick(struct harness *h, const char *id)
{
    static const char words[] = "vm_guest: tick ";
    unsigned tick = 0;
    const char *console = harness_get(h, vm_console(h, id));
    for (const char *at = console; (at = strstr(at, words));) {
        at += strlen(words);
        if (strchr(at, '\n')) /* else it is only begun */
            tick = (unsigned)strtoul(at, NULL, 10);
    }
    return tick;
}

struct ticking {
    struct harness *h;
    const char *id;
    unsigned tick;
};

static bool has_ticked(void *argument)
{
    const struct ticking *ticking = argument;
    return vm_last_tick(ticking->h, ticking->id) > ticking->tick;
}

void vm_await_tick_after(struct harness *h, const char *id, unsigned tick)
{
    struct ticking ticking = {.h = h, .id = id, .tick = tick};
    harness_await_that(has_ticked, &ticking, harness_format(h, "the guest of %s goes on", id));
}

/* Names that do not begin with a dot; a hidden entry is one that a commit left behind. */
static size_t count_entries(const char *path, bool hidden)
{
    size_t count = 0;
    auto_closedir DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            count += hidden || entry->d_name[0] != '.';
    return count;
}

/* Processes at work in the store. */
static size_t count_vmms(struct harness *h)
{
    char link[64], cwd[PATH_SIZE];
    size_t count = 0, size = strlen(h->store);
    auto_closedir DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        snprintf(link, sizeof link, "/proc/%.20s/cwd", entry->d_name);
        ssize_t n = entry->d_name[0] <= '9' ? readlink(link, cwd, sizeof cwd - 1) : -1;
        count += n > (ssize_t)size && strncmp(cwd, h->store, size) == 0 && cwd[size] == '/';
    }
    return count;
}

void vm_assert_running(struct harness *h, const char *const *ids)
{
    size_t count = 0;
    for (; ids[count]; count++) {
        assert_string_equal(harness_get(h, harness_path(h, "instances/%s/state", ids[count])),
                            "running\n");
        assert_int_equal(kill(vm_pid(h, ids[count]), 0), 0);
    }
    assert_int_equal(count_entries(harness_path(h, "instances"), true), count);
    harness_await_erased(h);
    assert_int_equal(count_entries(harness_store_path(h, "instances"), true), count);
    assert_int_equal(count_vmms(h), count);
}

size_t vm_daemon_sockets(struct harness *h)
{
    char target[64];
    char *path = harness_format(h, "/proc/%d/fd", (int)h->daemon);
    size_t count = 0;
    auto_closedir DIR *directory = opendir(path);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
        ssize_t n = readlinkat(dirfd(directory), entry->d_name, target, sizeof target);
        count += n > 7 && strncmp(target, "socket:", 7) == 0;
    }
    return count;
}

char *vm_checksum(struct harness *h)
{
    struct harness_result result =
        harness_run(h, (const char *const[]){"sha256sum",
                                             harness_store_path(h, "snapshots/base/memory"), NULL});
    assert_int_equal(result.status, 0);
    result.out[64] = 0;
    return result.out;
}
