/* SPDX-License-Identifier: MIT */
#include "confine/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "confine/fail.h"

/* As linux/landlock.h has them by now: older headers do not. */
#define FS_REFER (UINT64_C(1) << 13)
#define FS_TRUNCATE (UINT64_C(1) << 14)
#define FS_IOCTL_DEV (UINT64_C(1) << 15)
#define NET_TCP UINT64_C(3) /* bind, connect */
#define SCOPE_ABSTRACT UINT64_C(1)
#define SCOPE_SIGNAL UINT64_C(2)

struct ruleset {
    uint64_t files, network, scope;
};

/* What each version can handle more than the one before. */
static const struct {
    int version;
    struct ruleset handles;
} steps[] = {
    {1, {.files = FS_REFER - 1}}, {2, {.files = FS_REFER}},     {3, {.files = FS_TRUNCATE}},
    {4, {.network = NET_TCP}},    {5, {.files = FS_IOCTL_DEV}}, {6, {.scope = SCOPE_ABSTRACT}},
    {6, {.scope = SCOPE_SIGNAL}}, /* some distributions' version 6 has only the other */
};

#define FS_OF_FILES                                                                                \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE |   \
     FS_TRUNCATE | FS_IOCTL_DEV)

static const struct {
    int right;
    uint64_t access;
} rights_of[] = {
    {LANDLOCK_MAY_READ, LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR},
    {LANDLOCK_MAY_RUN, LANDLOCK_ACCESS_FS_EXECUTE},
    {LANDLOCK_MAY_WRITE, LANDLOCK_ACCESS_FS_WRITE_FILE | FS_TRUNCATE},
    {LANDLOCK_MAY_MAKE, LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                            LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
                            LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |
                            LANDLOCK_ACCESS_FS_MAKE_SYM | FS_REFER},
    {LANDLOCK_MAY_CONTROL, FS_IOCTL_DEV},
};

static struct ruleset handled;
static int ruleset_fd = -1;

int landlock_version(void)
{
    long version =
        syscall(SYS_landlock_create_ruleset, NULL, (size_t)0, LANDLOCK_CREATE_RULESET_VERSION);
    return version > 0 ? (int)version : 0;
}

/* The size of the struct as that version knows it. */
static int create(const struct ruleset *ruleset, int version)
{
    size_t size = version < 4   ? offsetof(struct ruleset, network)
                  : version < 6 ? offsetof(struct ruleset, scope)
                                : sizeof *ruleset;
    return (int)syscall(SYS_landlock_create_ruleset, ruleset, size, 0U);
}

/* Each is tried. */
void landlock_begin(bool has_network)
{
    const int version = landlock_version();
    for (size_t i = 0; i < sizeof steps / sizeof *steps && steps[i].version <= version; i++) {
        const struct ruleset *more = &steps[i].handles;
        struct ruleset next = handled;
        next.files |= more->files;
        next.network |= has_network ? 0 : more->network;
        next.scope |= has_network ? more->scope & ~SCOPE_ABSTRACT : more->scope;
        int fd = create(&next, version);
        if (fd < 0)
            continue;
        if (ruleset_fd >= 0)
            close(ruleset_fd);
        ruleset_fd = fd;
        handled = next;
    }
    if (ruleset_fd < 0)
        fail(CANNOT_CONFINE, "cannot use Landlock");
}

void landlock_allow(const char *path, int rights)
{
    struct stat st;
    struct landlock_path_beneath_attr rule = {.parent_fd = open(path, O_PATH | O_CLOEXEC)};
    if (rule.parent_fd < 0 && errno == ENOENT)
        return;
    if (rule.parent_fd < 0 || fstat(rule.parent_fd, &st) < 0)
        fail(CANNOT_CONFINE, "%s", path);
    for (size_t i = 0; i < sizeof rights_of / sizeof *rights_of; i++)
        rule.allowed_access |= rights & rights_of[i].right ? rights_of[i].access : 0;
    rule.allowed_access &= S_ISDIR(st.st_mode) ? handled.files : handled.files & FS_OF_FILES;
    if (rule.allowed_access &&
        syscall(SYS_landlock_add_rule, ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0U) < 0)
        fail(CANNOT_CONFINE, "cannot allow %s", path);
    close(rule.parent_fd);
}

void landlock_end(void)
{
    if (syscall(SYS_landlock_restrict_self, ruleset_fd, 0U) < 0)
        fail(CANNOT_CONFINE, "cannot use Landlock");
    close(ruleset_fd);
}
