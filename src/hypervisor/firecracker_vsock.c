/* SPDX-License-Identifier: MIT */
#include "hypervisor/firecracker_vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/confine.h"
#include "hypervisor/saved_path.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/unix_socket.h"

enum { VSOCK_PATH_MAX = 80 /* longer ones are not looked at */ };

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* ---- showing it ---- */

static bool is_in_own_directory(const char *path)
{
    return !strchr(path, '/') || (strncmp(path, "./", 2) == 0 && !strchr(path + 2, '/'));
}

static bool is_in_or_at(const char *path, const char *folder)
{
    const size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || !path[length]);
}

/* Why the folder cannot be another one for the VMM: to follow "it". What else it sees there would
 * be gone. NULL: it can be. */
static const char *refuse_folder(const struct vmm_context *context, const char *folder,
                                 const struct arguments *confined)
{
    char link[32], here[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", context->directory_fd);
    const ssize_t size = readlink(link, here, sizeof here - 1);
    here[size > 0 ? size : 0] = '\0';
    if (!folder[0])
        return "is in /";
    if (is_in_or_at("/dev/null", folder) || is_in_or_at("/dev/net/tun", folder))
        return "is in a folder of devices";
    if (size <= 0 || is_in_or_at(here, folder))
        return "is in a folder that has the store in it";
    for (size_t i = 0; i < confined->count; i++)
        if (confined->items[i] && is_in_or_at(confined->items[i], folder))
            return "is in a folder that has other files of the VM's in it";
    return NULL;
}

int firecracker_vsock_show(const struct vmm_context *context, const struct machine *machine,
                           const char *version, struct arguments *confined, struct error *err)
{
    struct firecracker firecracker;
    const char *path = machine->vsock;
    if (!path || is_in_own_directory(path) || !firecracker_parse_version(version, &firecracker) ||
        firecracker_is_at_least(&firecracker, 1, 16))
        return 0;
    auto_free char *folder = strndup(path, (size_t)(name_of(path) - path - 1));
    if (!folder)
        return error_set(err, ENOMEM, "out of memory");
    const char *why = saved_path_refuse(path);
    if (!why && saved_path_is_relative(path))
        why = "is relative, and in a folder";
    if (!why)
        why = context->confine->no_namespaces
                  ? "can be shown only where this host allows namespaces"
                  : refuse_folder(context, folder, confined);
    if (!why) {
        confine_add_at(confined, "--rw-at", folder, ".");
        return 0;
    }
    return error_set(
        err, EOPNOTSUPP,
        "the saved state has its vsock's socket at %.200s, where a VMM that is shut in "
        "cannot make it, for it %s, and this Firecracker (%s) cannot be told another "
        "place: use 1.16 or later, or mount with --confine off",
        path, why, version);
}

/* ---- the load ---- */

/* In this fork's directory, for the saved one is the same for all. Impossible before 1.16. */
void firecracker_vsock_add(const struct firecracker *firecracker, const struct machine *machine,
                           cJSON *body)
{
    if (machine->vsock && firecracker_is_at_least(firecracker, 1, 16))
        json_add_string(json_add_object(body, "vsock_override"), "uds_path",
                        FIRECRACKER_VSOCK_NAME);
}

/* The directory that the socket is in, and its name there. */
static int open_folder(int directory_fd, const char *path, const char **ret_name)
{
    char folder[VSOCK_PATH_MAX + 1];
    const char *slash = strrchr(path, '/');
    *ret_name = name_of(path);
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    return openat(directory_fd, slash == path ? "/" : folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static bool is_same_file(int fd, int other_fd)
{
    struct stat file, other;
    return fstat(fd, &file) == 0 && fstat(other_fd, &other) == 0 && file.st_dev == other.st_dev &&
           file.st_ino == other.st_ino;
}

/* What an earlier VM has left there is in the way of the next. The state may be a stranger's: what
 * lies in other directories is not removed. */
int firecracker_vsock_clear(const struct vmm_context *context,
                            const struct firecracker *firecracker, const struct machine *machine,
                            struct error *err)
{
    const char *path = machine->vsock, *name;
    struct stat file;
    if (!path || firecracker_is_at_least(firecracker, 1, 16) || strlen(path) > VSOCK_PATH_MAX)
        return 0;
    if (context->confine) /* it is found there, whatever the path is */
        path = name_of(path);
    auto_close int folder = open_folder(context->directory_fd, path, &name), fd = -1;
    if (folder < 0 || fstatat(folder, name, &file, AT_SYMLINK_NOFOLLOW) < 0 ||
        !S_ISSOCK(file.st_mode))
        return 0;
    int r = unix_socket_connect(folder, name, &fd, NULL);
    if (r == -ENOENT)
        return 0;
    if (r != -ECONNREFUSED)
        return error_set(err, EBUSY,
                         "the vsock's socket %s is in use, and this Firecracker (%s) cannot give "
                         "each VM one of its own: stop what listens there, or use 1.16 or later",
                         path, firecracker->version);
    if (!is_same_file(folder, context->directory_fd))
        return error_set(err, EBUSY,
                         "the vsock's socket %s is in the way, and nobody listens there any more: "
                         "remove it (hypefs only removes sockets in an instance's own directory), "
                         "or use Firecracker 1.16 or later (this one is %s)",
                         path, firecracker->version);
    unlinkat(folder, name, 0);
    return 0;
}
