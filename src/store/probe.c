/* SPDX-License-Identifier: MIT */
#include "store/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "util/cleanup.h"
#include "util/directory.h"
#include "util/limit.h"
#include "util/trust.h"
#include "util/unix_socket.h"

enum { PROBE_BYTES = 4096 };

/* ---- what it can do: each returns 0 or -errno, in an empty directory ---- */

static int try_link(int fd)
{
    auto_close int file = openat(fd, "memory", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return file >= 0 && linkat(fd, "memory", fd, "base", 0) == 0 ? 0 : -errno;
}

/* QEMU's memory is such a mapping. */
static int try_map(int fd)
{
    auto_close int file = openat(fd, "memory", O_RDWR | O_CLOEXEC);
    if (file < 0 || ftruncate(file, PROBE_BYTES) < 0)
        return -errno;
    void *bytes = mmap(NULL, PROBE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (bytes == MAP_FAILED)
        return -errno;
    return munmap(bytes, PROBE_BYTES) == 0 ? 0 : -errno;
}

static int try_socket(int fd)
{
    auto_close int listener = -1;
    return unix_socket_listen(fd, "vmm.sock", &listener, NULL);
}

static int try_rename(int fd)
{
    return mkdirat(fd, "entry", 0700) == 0 && renameat(fd, "entry", fd, "id") == 0 ? 0 : -errno;
}

static int try_sync(int fd)
{
    return fsync(fd) == 0 ? 0 : -errno;
}

static const struct {
    const char *what;
    int (*try)(int directory_fd);
} features[] = {
    {"hard links", try_link},           {"shared mappings of files", try_map},
    {"unix sockets", try_socket},       {"renamed directories", try_rename},
    {"fsync of directories", try_sync},
};

int probe_type(dev_t device, char ret[static PROBE_TYPE_SIZE], struct error *err)
{
    auto_fclose FILE *file = fopen("/proc/self/mountinfo", "re");
    auto_free char *line = NULL;
    size_t size = 0;
    snprintf(ret, PROBE_TYPE_SIZE, "unknown");
    if (!file)
        return error_errno(err, errno, "cannot read /proc/self/mountinfo");
    while (getline(&line, &size, file) > 0) {
        unsigned major_, minor_;
        const char *type = strstr(line, " - ");
        if (type && sscanf(line, "%*d %*d %u:%u", &major_, &minor_) == 2 &&
            makedev(major_, minor_) == device)
            snprintf(ret, PROBE_TYPE_SIZE, "%.*s", (int)strcspn(type + 3, " "), type + 3);
    }
    return 0;
}

static int explain(int fd, const char *path, const char *what, int r, struct error *err)
{
    char type[PROBE_TYPE_SIZE] = "unknown";
    struct stat st;
    if (limit_is(-r))
        return error_errno(err, -r, "the store %s cannot be written to", path);
    if (fstat(fd, &st) == 0)
        (void)probe_type(st.st_dev, type, NULL);
    return error_set(
        err, EOPNOTSUPP,
        "the file system of the store %s (%s) has no %s, which hypefs needs (%s): give "
        "a --store on another one, on a disk of this host",
        path, type, what, strerrordesc_np(-r));
}

int probe_file_system(int kind_fd, const char *path, struct error *err)
{
    static const char *const files[] = {"memory", "base", "vmm.sock"}, *const names[] = {"entry",
                                                                                         "id"};
    char name[STORE_HIDDEN_SIZE];
    store_hidden_name(STORE_NEW, name);
    if (mkdirat(kind_fd, name, 0700) < 0)
        return error_errno(err, errno, "the store %s cannot be written to", path);
    auto_close int fd = openat(kind_fd, name, O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int r = fd >= 0 ? 0 : error_errno(err, errno, "the store %s cannot be read", path);
    for (size_t i = 0; i < array_length(features) && r == 0; i++)
        if ((r = features[i].try(fd)) < 0)
            r = explain(fd, path, features[i].what, r, err);
    for (size_t i = 0; i < array_length(files) && fd >= 0; i++)
        unlinkat(fd, files[i], 0);
    for (size_t i = 0; i < array_length(names) && fd >= 0; i++)
        unlinkat(fd, names[i], AT_REMOVEDIR);
    unlinkat(kind_fd, name, AT_REMOVEDIR);
    return r;
}

/* ---- whom it belongs to ---- */

static int check_entry(void *context, int kind_fd, const char *name, struct error *err)
{
    char path[PATH_MAX + NAME_MAX + 2];
    snprintf(path, sizeof path, "%s/%s", (const char *)context, name);
    int r = trust_directory(kind_fd, name, path, err);
    return r == -ENOENT ? 0 : r; /* a daemon has just removed it */
}

int probe_trust(int store_fd, const char *path, struct error *err)
{
    int r = trust_path(path, err);
    if (r == 0)
        r = trust_directory(AT_FDCWD, path, path, err);
    if (r == 0)
        r = trust_directory(store_fd, "", path, err);
    for (int kind = 0; kind < STORE_KINDS && r == 0; kind++) {
        char name[PATH_MAX];
        if (faccessat(store_fd, store_kind_names[kind], F_OK, AT_SYMLINK_NOFOLLOW) < 0)
            continue; /* it is going to be made */
        snprintf(name, sizeof name, "%s/%s", path, store_kind_names[kind]);
        r = trust_directory(store_fd, store_kind_names[kind], name, err);
        if (r == 0)
            r = directory_walk(store_fd, store_kind_names[kind], check_entry, name, err);
        if (r == -ENOTDIR) /* who opens it says so */
            r = 0;
    }
    if (r == -EPERM)
        error_append(err,
                     ": root does not use such a store: correct that (chown, chmod go-w, or give "
                     "the path that the link points to), or accept it with --insecure-store");
    return r;
}
