/* SPDX-License-Identifier: MIT */
#include "hypervisor/vmm_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hypervisor/guest_memory.h"
#include "util/cleanup.h"
#include "util/directory.h"
#include "util/fault.h"
#include "util/limit.h"
#include "util/plain_file.h"
#include "util/sparse.h"
#include "util/text.h"
#include "util/timing.h"

enum { STATUS_SIZE = 64, END_MS = 2000, REFUSED_MS = 200 };
enum { ROOM = 1024 * 1024 }; /* bytes that a device state may need */

/* ---- its life ---- */

void hypervisor_drop_sockets(const struct hypervisor *hypervisor, int directory_fd)
{
    for (const char *const *name = hypervisor->sockets; *name; name++)
        unlinkat(directory_fd, *name, 0);
}

int vmm_create(const struct hypervisor *hypervisor, pid_t pid, int pidfd, struct vmm **ret,
               struct error *err)
{
    struct vmm *vmm = calloc(1, sizeof *vmm);
    if (!vmm)
        return error_set(err, ENOMEM, "no memory for a VMM");
    *vmm = (struct vmm){.hypervisor = hypervisor, .pid = pid, .pidfd = pidfd, .memory_fd = -1};
    *ret = vmm;
    return 0;
}

void vmm_release(struct vmm *vmm)
{
    guest_memory_destroy(steal_pointer(vmm->memory));
    if (vmm->memory_fd >= 0)
        close(steal_fd(&vmm->memory_fd));
    vmm->hypervisor->release(vmm);
}

static bool ends_within(const struct vmm *vmm, int timeout_ms)
{
    return process_poll(&vmm->pidfd, 1, process_now_ms() + timeout_ms) > 0;
}

int vmm_stop(struct vmm *vmm, struct error *err)
{
    struct vmm_exit exit;
    vmm_reap(vmm, &exit);
    if (exit.ended)
        return 0;
    fault_point(FAULT_STOP);
    if (!vmm->hypervisor->kill_only)
        pidfd_send_signal(vmm->pidfd, SIGTERM, NULL, 0);
    if (vmm->hypervisor->kill_only || !ends_within(vmm, timing_ms(TIMING_STOP))) {
        pidfd_send_signal(vmm->pidfd, SIGKILL, NULL, 0);
        if (!ends_within(vmm, timing_ms(TIMING_KILL)))
            return error_set(err, EIO, "the VM's process %d " PROCESS_STUCK, (int)vmm->pid);
    }
    fault_point(FAULT_STOPPED);
    vmm_reap(vmm, &exit);
    return 0;
}

void vmm_reap(struct vmm *vmm, struct vmm_exit *ret)
{
    siginfo_t info = {0};
    struct vmm_exit *exit = &vmm->exit;
    if (exit->ended) {
        *ret = *exit;
        return;
    }
    if (waitid(P_PIDFD, (id_t)vmm->pidfd, &info, WEXITED | WNOHANG) == 0) {
        if (info.si_pid != 0)
            *exit = info.si_code == CLD_EXITED
                        ? (struct vmm_exit){.ended = true, .code = info.si_status}
                        : (struct vmm_exit){.ended = true, .code = -1, .signal = info.si_status};
    } else if (ends_within(vmm, 0)) {
        /* Somebody else's child: only that it ended can be known. */
        *exit = (struct vmm_exit){.ended = true, .code = -1};
    }
    *ret = *exit;
}

void vmm_close(struct vmm *vmm)
{
    if (!vmm)
        return;
    vmm_release(vmm);
    if (vmm->users && ends_within(vmm, 0)) /* else it is still that one */
        vmm_users_give(vmm->users, vmm->uid);
    close(vmm->pidfd);
    cJSON_Delete(vmm->confinement);
    free(vmm);
}

struct process_limits vmm_limits(const struct vmm_context *context, const struct vmm *vmm,
                                 int timeout_ms)
{
    if (context->answer_ms > 0)
        timeout_ms = context->answer_ms;
    return (struct process_limits){.pidfd = vmm->pidfd,
                                   .cancel_fd = context->cancel_fd,
                                   .deadline_ms = process_now_ms() + timeout_ms};
}

struct process_limits vmm_start_limits(const struct vmm_context *context, const struct vmm *vmm,
                                       int timeout_ms)
{
    struct process_limits limits = vmm_limits(context, vmm, timeout_ms);
    limits.started = vmm->pid;
    return limits;
}

/* ---- its files ---- */

bool vmm_copy_goes_on(void *context, uint64_t done, uint64_t size)
{
    const struct vmm_context *vmm_context = context;
    (void)done;
    (void)size;
    return vmm_context->cancel_fd < 0 || process_poll(&vmm_context->cancel_fd, 1, 0) <= 0;
}

int vmm_remove_old(const struct vmm_context *context, const char *path, struct error *err)
{
    struct error why;
    if (directory_remove(context->directory_fd, path, &why) == 0)
        return 0;
    return error_set(err, -limit_or_io(-why.code), "the old %s: %s", path, why.text);
}

int vmm_new_link(const struct vmm_context *context, const char *target, const char *name,
                 struct error *err)
{
    int r = vmm_remove_old(context, name, err);
    if (r < 0)
        return r;
    if (symlinkat(target, context->directory_fd, name) < 0)
        return error_errno(err, errno, "the link %s cannot be made", name);
    fault_point(FAULT_LINKED);
    return 0;
}

int vmm_new_file(const struct vmm_context *context, const char *path, int *ret, struct error *err)
{
    int r = vmm_remove_old(context, path, err);
    if (r < 0)
        return r;
    int fd = openat(context->directory_fd, path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                    0600);
    if (fd < 0)
        return error_io(err, errno, "%s cannot be made", path);
    *ret = fd;
    return 0;
}

/* Its content, in a new file: the VMM may have the one that it wrote open for as long as it lives.
 * 1: that is large, and the file system has no reflinks. */
static int copy_written_file(const struct vmm_context *context, int from, const struct stat *known,
                             const char *path, struct error *err)
{
    enum { SMALL = 4 * 1024 * 1024 };
    auto_close int to = -1;
    int r = vmm_new_file(context, path, &to, err);
    if (r < 0)
        return r;
    if (known->st_size > SMALL)
        return ioctl(to, FICLONE, from) == 0 ? 0 : 1;
    return sparse_copy(from, to, known, vmm_copy_goes_on, (void *)(uintptr_t)context, err);
}

/* The one that it wrote becomes that. */
static int move_written_file(const struct vmm_context *context, const char *name,
                             const struct stat *found, const char *path, struct error *err)
{
    struct stat taken;
    int r = vmm_remove_old(context, path, err);
    if (r < 0)
        return r;
    if (renameat(context->directory_fd, name, context->directory_fd, path) < 0)
        return error_io(err, errno, "%s cannot be renamed to %s", name, path);
    if (fstatat(context->directory_fd, path, &taken, AT_SYMLINK_NOFOLLOW) == 0 &&
        file_id_equal(file_id_of(&taken), file_id_of(found)))
        return 0;
    unlinkat(context->directory_fd, path, 0); /* replaced just now */
    return error_set(err, EIO, "%s, which the VMM was to write, is another file now", name);
}

int vmm_take_file(const struct vmm_context *context, const char *name, const char *path,
                  struct error *err)
{
    struct stat found;
    auto_close int fd = -1;
    int r = plain_file_open(context->directory_fd, name, O_RDONLY, name, &fd, err);
    if (r < 0)
        return r;
    if (fstat(fd, &found) < 0 || found.st_nlink != 1 || found.st_uid != geteuid())
        return error_set(err, EIO, "%s, which the VMM was to write, is another's file", name);
    r = copy_written_file(context, fd, &found, path, err);
    if (r > 0)
        return move_written_file(context, name, &found, path, err);
    if (r == 0 && unlinkat(context->directory_fd, name, 0) < 0)
        r = error_io(err, errno, "%s cannot be removed", name);
    return r;
}

int vmm_log_open(const struct vmm_context *context, const char *name, int *ret, struct error *err)
{
    int fd = openat(context->entry_fd, name,
                    O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    if (fd < 0)
        return error_errno(err, errno, "%s cannot be opened", name);
    *ret = fd;
    return 0;
}

/* An instance that an earlier version made has one directory for all. */
void vmm_log_path(const struct vmm_context *context, const char *name,
                  char ret[static VMM_LOG_PATH_SIZE])
{
    struct stat works, logs;
    bool same = fstat(context->directory_fd, &works) == 0 && fstat(context->entry_fd, &logs) == 0 &&
                file_id_equal(file_id_of(&works), file_id_of(&logs));
    snprintf(ret, VMM_LOG_PATH_SIZE, "%s%s", same ? "" : "../", name);
}

off_t vmm_log_size(const struct vmm_context *context)
{
    struct stat file;
    return fstatat(context->entry_fd, VMM_LOG_NAME, &file, AT_SYMLINK_NOFOLLOW) < 0 ? 0
                                                                                    : file.st_size;
}

void vmm_last_words(const struct vmm_context *context, off_t from,
                    char ret[static VMM_WORDS_MAX + 1])
{
    ret[0] = '\0';
    auto_close int fd =
        openat(context->entry_fd, VMM_LOG_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat file;
    if (fd < 0 || fstat(fd, &file) < 0)
        return;
    if (file.st_size < from) /* it was shortened meanwhile */
        from = 0;
    if (file.st_size - from > VMM_WORDS_MAX)
        from = file.st_size - VMM_WORDS_MAX;
    ssize_t got = pread(fd, ret, VMM_WORDS_MAX, from);
    size_t size = got > 0 ? (size_t)got : 0;
    while (size > 0 && (unsigned char)ret[size - 1] <= ' ')
        size--;
    ret[size] = '\0';
    /* The first character may have been cut. */
    size_t cut = 0;
    while (cut < size && ((unsigned char)ret[cut] & 0xC0) == 0x80)
        cut++;
    memmove(ret, ret + cut, size - cut + 1);
    text_make_printable(ret, size - cut, ' ');
}

int vmm_ended(const struct vmm *vmm, int r, struct error *err)
{
    if (r != -ESRCH && r != -ECONNREFUSED)
        return r;
    const int timeout_ms = r == -ESRCH ? END_MS : REFUSED_MS;
    if (process_poll(&vmm->pidfd, 1, process_now_ms() + timeout_ms) > 0 || r == -ESRCH)
        return error_set(err, EIO, "%s has ended", vmm->hypervisor->title);
    if (err)
        err->code = EIO;
    return -EIO;
}

int vmm_find_limit(const struct vmm_context *context, int r, struct error *err)
{
    static const char name[] = "room.tmp"; /* a start removes it, as all that ends so */
    const int directory_fd = context->directory_fd;
    struct error limit;
    if (r != -EIO)
        return r;
    unlinkat(directory_fd, name, 0);
    auto_close int fd =
        openat(directory_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    int code = fd < 0 ? errno : posix_fallocate(fd, 0, ROOM);
    unlinkat(directory_fd, name, 0);
    if (!limit_is(code))
        return r;
    error_errno(&limit, code, "the store cannot be written to");
    if (err)
        err->code = code;
    return error_prefix(err, -code, "%s", limit.text);
}

/* It has ended, and its last words are these: a limit of the host that they name is told, and one
 * of address space, which VMMs do not know of, also if they name none. Returns r, or that errno. */
static int explain_limit(const struct vmm_context *context, const char *words, int r,
                         struct error *err)
{
    char limit[LIMIT_TEXT_SIZE];
    int code = limit_named(words);
    if (code == EROFS && context->confine) /* the walls, rather than the host */
        return r;
    if (r != -EIO || (!code && !limit_has_memory()))
        return r;
    limit_explain(code ? code : ENOMEM, limit);
    error_append(err, code ? " (%s)" : " (this may be the reason: %s)", limit);
    if (!code)
        return r;
    err->code = code;
    return -code;
}

int vmm_explain(const struct vmm_context *context, struct vmm *vmm, off_t log_size, int r,
                struct error *err)
{
    if (r != -ECANCELED && err) {
        struct vmm_exit exit;
        vmm_reap(vmm, &exit);
        char words[VMM_WORDS_MAX + 1], how[STATUS_SIZE] = "";
        vmm_last_words(context, log_size, words);
        if (exit.ended && exit.signal)
            snprintf(how, sizeof how, " (signal %d)", exit.signal);
        else if (exit.ended && exit.code >= 0)
            snprintf(how, sizeof how, " (status %d)", exit.code);
        error_append(err, "%s%s%s", how, words[0] ? ": " : "", words);
        if (exit.ended)
            r = explain_limit(context, words, r, err);
    }
    return vmm_find_limit(context, r, err);
}

int vmm_abandon(const struct vmm_context *context, const struct hypervisor *hypervisor,
                struct vmm *vmm, int r, struct error *err)
{
    if (vmm) {
        if (!vmm->exit.ended)
            process_kill(vmm->pid, vmm->pidfd, timing_ms(TIMING_KILL), err);
        vmm_close(vmm);
    }
    hypervisor_drop_sockets(hypervisor, context->directory_fd);
    return r;
}
