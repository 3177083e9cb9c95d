/* SPDX-License-Identifier: MIT */
#include "cli/mount_confine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"

static bool is_below(const char *path, const char *directory)
{
    char real[PATH_MAX], above[PATH_MAX];
    if (!realpath(directory, above))
        return false;
    if (realpath(path, real)) /* else it is made later */
        path = real;
    size_t size = strcmp(above, "/") == 0 ? 0 : strlen(above);
    return strncmp(path, above, size) == 0 && (path[size] == '/' || !path[size]);
}

/* A VMM would see what lies there, the store with all VMs, say. */
static int check_readable(const struct mount_arguments *arguments, const char *path,
                          struct error *err)
{
    if (access(path, F_OK) < 0)
        return error_errno(err, errno, "--vmm-read: %s", path);
    if (is_below(arguments->mountpoint, path) || is_below(arguments->store, path))
        return error_set(err, EINVAL,
                         "--vmm-read: the store or the mount lies in %s, and no VMM may see those "
                         "of others: give directories without them",
                         path);
    return 0;
}

static bool is_script(const char *program)
{
    char begin[2] = "";
    auto_close int fd = open(program, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return fd >= 0 && read(fd, begin, sizeof begin) == sizeof begin && memcmp(begin, "#!", 2) == 0;
}

/* Scripts that worked before are to work on, and nobody knows what they need. */
static void leave_scripts_open(struct mount_arguments *arguments,
                               void (*warn)(void *context, const char *text), void *context)
{
    struct error text;
    for (size_t i = 0; i < HYPERVISORS; i++) {
        struct vmm_binary *binary = &arguments->binaries[i];
        binary->open = binary->path && is_script(binary->path);
        if (!binary->open)
            continue;
        error_set(&text, EPERM,
                  "%s is a script, and its VMMs are not shut in, because nobody knows what it "
                  "needs: with --confine strict they are, and it sees what --vmm-read names",
                  binary->path);
        warn(context, text.text);
    }
}

/* Can VMMs be shut in here? */
static int try(const struct mount_arguments *arguments, struct mount_confine *ret,
               struct error *err)
{
    auto_close int directory = cli_open_above(arguments->store);
    int r = arguments->vmm_users.first
                ? vmm_users_create(&arguments->vmm_users, &ret->vmm.users, err)
                : 0;
    if (r == 0)
        r = vmm_confine_find(&ret->vmm, directory, err);
    const bool is_strict = arguments->confine == CONFINE_STRICT;
    if (r == 0 && is_strict && ret->vmm.no_namespaces)
        return -EPERM;
    if (r == 0 && is_strict && geteuid() == 0 && !ret->vmm.users)
        r = error_set(err, EPERM,
                      "they would be root without rights, but root: give each a user of its own "
                      "(--vmm-uids FIRST-LAST) or all of them one (--vmm-user NAME)");
    return r;
}

int mount_confine_prepare(struct mount_arguments *arguments,
                          void (*warn)(void *context, const char *text), void *context,
                          struct mount_confine *ret, struct error *err)
{
    struct error why, text;
    ret->vmm.readable = (const char *const *)(uintptr_t)arguments->readable;
    ret->vmm.readable_count = arguments->readable_count;
    int r = 0;
    for (size_t i = 0; i < arguments->readable_count && r == 0; i++)
        r = check_readable(arguments, arguments->readable[i], err);
    if (r < 0 || arguments->confine == CONFINE_OFF)
        return r;
    r = try(arguments, ret, &why);
    ret->is_on = r == 0;
    if (r == 0 && ret->vmm.no_namespaces) {
        error_set(&text, EPERM,
                  "VMMs are shut in by Landlock and a filter of system calls alone, which is not "
                  "all that can be done: %s",
                  why.text);
        warn(context, text.text);
    }
    /* Who has users for VMMs does not want them to be root. */
    if (r == 0 && arguments->confine == CONFINE_AUTO && !arguments->vmm_users.first)
        leave_scripts_open(arguments, warn, context);
    if (r == 0)
        return 0;
    if (arguments->confine == CONFINE_STRICT)
        return error_set(err, -r, "--confine strict: VMMs cannot be shut in on this host: %s",
                         why.text);
    if (arguments->vmm_users.first)
        return error_set(err, -r, "VMMs cannot be given users of their own: %s", why.text);
    error_set(
        &text, -r,
        "VMMs are not shut in, for this host cannot do that, and one whose guest has taken it "
        "over can do whatever this user can: %s",
        why.text);
    warn(context, text.text);
    return 0;
}

void mount_confine_finish(struct mount_confine *confine)
{
    vmm_users_destroy(confine->vmm.users);
}
