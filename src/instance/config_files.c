/* SPDX-License-Identifier: MIT */
#include "instance/config_files.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "instance/config.h"
#include "store/own.h"
#include "util/cleanup.h"
#include "util/process.h"
#include "util/thread.h"

enum { WAIT_S = 5 };

/* A file system that hangs (a network's, or whatever a path leads to) hangs the thread that looks,
 * and not who waits for it: the last of both frees this. */
struct look {
    pthread_mutex_t lock; /* of what follows but the machine and the store */
    pthread_cond_t ended;
    struct machine machine;
    struct store store; /* a copy: this may outlive it, and then nobody asks for the answer */
    struct error err;
    int result;
    bool done;
    unsigned users;
};

/* `disk`: what the path is of, or NULL for a file that the VM boots from. */
static int check_file(const struct look *look, const char *what, const char *path,
                      const struct machine_disk *disk, int mode, struct error *err)
{
    struct stat st;
    if (!path)
        return 0;
    if (stat(path, &st) < 0)
        return error_errno(err, errno, "the %s %s cannot be used: give another in config", what,
                           path);
    int r = disk ? disk_check_kind(path, disk->readonly, &st, err) : 0;
    if (disk && r == 0)
        r = store_check_disk(&look->store, path, &st, err);
    if (!disk && !S_ISREG(st.st_mode))
        r = error_set(err, EINVAL, "the %s %s is not a regular file: give another in config", what,
                      path);
    if (r == 0 && faccessat(AT_FDCWD, path, mode, AT_EACCESS) < 0)
        r = error_errno(err, errno, "the %s %s may not be %s by the mount's user", what, path,
                        mode & W_OK ? "read and written" : "read");
    return r;
}

static int check_files(const struct look *look, struct error *err)
{
    const struct machine *machine = &look->machine;
    int r = check_file(look, "kernel", machine->kernel, NULL, R_OK, err);
    if (r == 0)
        r = check_file(look, "initrd", machine->initrd, NULL, R_OK, err);
    for (size_t i = 0; i < machine->disk_count && r == 0; i++) {
        const struct machine_disk *disk = &machine->disks[i];
        r = check_file(look, "disk", disk->path, disk, disk->readonly ? R_OK : R_OK | W_OK, err);
    }
    return r;
}

static void leave(struct look *look)
{
    bool last = --look->users == 0;
    pthread_mutex_unlock(&look->lock);
    if (!last)
        return;
    machine_finish(&look->machine);
    pthread_cond_destroy(&look->ended);
    pthread_mutex_destroy(&look->lock);
    free(look);
}

static void *run(void *argument)
{
    struct look *look = argument;
    struct error err = {0};
    int r = check_files(look, &err);
    pthread_mutex_lock(&look->lock);
    look->result = r;
    look->err = err;
    look->done = true;
    pthread_cond_signal(&look->ended);
    leave(look);
    return NULL;
}

/* Of a look that was begun. */
static int await(struct look *look, struct error *err)
{
    double deadline_ms = process_now_ms() + WAIT_S * 1000;
    int code = 0;
    pthread_mutex_lock(&look->lock);
    while (!look->done && code == 0)
        code = thread_wait_until(&look->ended, &look->lock, deadline_ms);
    int r = look->result;
    if (!look->done)
        r = error_set(err, ETIMEDOUT,
                      "a file that it names did not answer within %d s: is it on a network that "
                      "hangs?",
                      WAIT_S);
    else if (r < 0 && err)
        *err = look->err;
    leave(look);
    return r;
}

int config_check_files(const struct store *store, const char *text, size_t size, struct error *err)
{
    struct look *look = calloc(1, sizeof *look);
    if (!look)
        return error_set(err, ENOMEM, "out of memory");
    int r = config_parse(text, size, &look->machine, err);
    if (r < 0) {
        free(look);
        return r;
    }
    pthread_mutex_init(&look->lock, NULL);
    pthread_cond_init(&look->ended, NULL);
    const struct machine *machine = &look->machine;
    bool names_files = machine->kernel || machine->initrd || machine->disk_count > 0;
    look->store = *store;
    look->users = 2;
    if (names_files && (r = thread_detach(run, look, err)) == 0)
        return await(look, err);
    look->users = 1; /* there is no thread */
    pthread_mutex_lock(&look->lock);
    leave(look);
    return r;
}
