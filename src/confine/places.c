/* SPDX-License-Identifier: MIT */
#include "confine/places.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "confine/fail.h"
#include "confine/landlock.h"

/* ---- what there is inside ---- */

enum access { READ, WRITE, DEVICE, DEVICE_READ };
struct place {
    const char *path;   /* where it is found inside */
    const char *source; /* what lies there; NULL: the same path */
    enum access access;
    bool optional; /* not every host has it */
    bool as_link;  /* where it is a link, it is one inside, too */
    bool of_system;
    bool is_shown; /* as its user's */
    int tree;      /* what lies there, detached */
};

static const struct place system_places[] = {
    {"/usr", .optional = true},
    {"/bin", .optional = true, .as_link = true},
    {"/sbin", .optional = true, .as_link = true},
    {"/lib", .optional = true, .as_link = true},
    {"/lib32", .optional = true, .as_link = true},
    {"/lib64", .optional = true, .as_link = true},
    {"/libx32", .optional = true, .as_link = true},
    {"/nix/store", .optional = true},
    {"/gnu/store", .optional = true},
    {"/etc/alternatives", .optional = true},
    {"/etc/ld.so.cache", .optional = true},
    {"/etc/ld.so.conf", .optional = true},
    {"/etc/ld.so.conf.d", .optional = true},
    {"/etc/localtime", .optional = true, .as_link = true},
    {"/sys/devices/system/cpu", .optional = true},
    {"/sys/devices/system/node", .optional = true},
    {"/sys/kernel/mm/transparent_hugepage", .optional = true},
    {"/dev/null", .access = DEVICE},
    {"/dev/zero", .access = DEVICE},
    {"/dev/full", .access = DEVICE, .optional = true},
    {"/dev/random", .access = DEVICE, .optional = true},
    {"/dev/urandom", .access = DEVICE},
    {"/dev/kvm", .access = DEVICE, .optional = true},
};
static const struct place network_places[] = {
    {"/etc/resolv.conf", .optional = true},
    {"/dev/net/tun", .access = DEVICE, .optional = true},
    {"/dev/vhost-net", .access = DEVICE, .optional = true},
};

/* Where the new / is made: every host has it, and nothing of it is needed once the trees are open.
 */
static const char scratch[] = "/sys";
/* Inside, for a moment: a name that no place has. */
static const char old_root[] = "/.hypefs-vmm";

enum { PLACES_MAX = 4096 };

static struct place places[PLACES_MAX];
static size_t place_count;

static void add_place(struct place place)
{
    errno = E2BIG;
    if (place_count == PLACES_MAX)
        fail(CANNOT_CONFINE, "%s", place.path);
    place.tree = -1;
    places[place_count++] = place;
}

static void add_table(const struct place *table, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        add_place(table[i]);
        places[place_count - 1].of_system = true;
    }
}

void places_add_system(void)
{
    add_table(system_places, sizeof system_places / sizeof *system_places);
}

void places_add_network(void)
{
    add_table(network_places, sizeof network_places / sizeof *network_places);
}

void places_add_tun(void)
{
    add_place((struct place){.path = "/dev/net/tun", .access = DEVICE, .of_system = true});
}

void places_add_here(const char *here)
{
    add_place((struct place){.path = here, .access = WRITE});
}

/* ---- making it ---- */

static bool is_device(const struct place *place)
{
    return place->access == DEVICE || place->access == DEVICE_READ;
}

static void give(struct place *place, const struct ids *user, const char *here)
{
    struct stat st;
    if (fstat(place->tree, &st) < 0)
        fail(CANNOT_CONFINE, "%s", place->path);
    /* Whoever names a directory to be read does not mean what is its owner's secret. */
    const bool is_named = S_ISDIR(st.st_mode) && place->access == READ;
    if (!place->of_system && !is_device(place) && !is_named)
        place->is_shown = idmap_set(place->tree, (struct ids){st.st_uid, st.st_gid}, *user);
    /* The store's: there nobody else is to have rights. */
    if (place->path == here && !place->is_shown)
        fail(CANNOT_CONFINE,
             "the file system of %s cannot show files as another user's (idmapped mounts: ext4, "
             "XFS and Btrfs can, and tmpfs since Linux 6.3)",
             here);
}

static void open_tree_of(struct place *place)
{
    const char *source = place->source ? place->source : place->path;
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_NOSUID};
    struct stat st;
    if (lstat(source, &st) == 0 && S_ISLNK(st.st_mode) && place->as_link)
        return; /* it is made anew */
    /* What is in the working directory may be an earlier VMM's, which must not choose for this one
     * what of the host it sees. */
    place->tree = open_tree(AT_FDCWD, source,
                            OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE |
                                (source[0] == '/' ? 0 : AT_SYMLINK_NOFOLLOW));
    if (place->tree < 0 && errno == ENOENT && place->optional)
        return;
    if (place->tree >= 0 && fstat(place->tree, &st) == 0 && S_ISLNK(st.st_mode)) {
        errno = ELOOP;
        fail(CANNOT_CONFINE, "%s", source);
    }
    /* Devices can be written to all the same; but they cannot be given another mode. */
    if (place->access != WRITE)
        attributes.attr_set |= MOUNT_ATTR_RDONLY;
    if (!is_device(place))
        attributes.attr_set |= MOUNT_ATTR_NODEV;
    if (place->access == WRITE)
        attributes.attr_set |= MOUNT_ATTR_NOEXEC;
    if (place->tree < 0 || mount_setattr(place->tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                                         sizeof attributes) < 0)
        fail(CANNOT_CONFINE, "%s", source);
}

static dev_t new_device;

/* Nothing is made but in the new /: a name that leads elsewhere is one that the host has. */
static bool may_make(const char *directory)
{
    struct stat st;
    if (stat(directory, &st) < 0)
        return false;
    errno = EXDEV;
    return st.st_dev == new_device;
}

/* The same of the directory in which the path is. */
static bool may_make_at(char *path)
{
    char *last = strrchr(path, '/');
    *last = 0;
    const bool may = may_make(path);
    *last = '/';
    return may;
}

/* The directories on the way to the last part of a path. */
static void make_way(char *path)
{
    for (char *slash = strchr(path + sizeof scratch, '/'); slash; slash = strchr(slash + 1, '/')) {
        struct stat st;
        *slash = 0;
        if (stat(path, &st) < 0 && (!may_make_at(path) || mkdir(path, 0755) < 0))
            fail(CANNOT_CONFINE, "cannot make %s", path + sizeof scratch - 1);
        *slash = '/';
    }
}

static void make_target(char *path, bool is_directory)
{
    struct stat st;
    make_way(path);
    if (stat(path, &st) == 0)
        return;
    const bool may = may_make_at(path);
    int fd = may && !is_directory ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
    if (!may || (is_directory ? mkdir(path, 0755) : fd) < 0)
        fail(CANNOT_CONFINE, "cannot make %s", path + sizeof scratch - 1);
    if (fd >= 0)
        close(fd);
}

static void make_link(const char *from, char *path)
{
    char target[PATH_MAX];
    ssize_t size = readlink(from, target, sizeof target - 1);
    if (size < 0)
        return;
    target[size] = 0;
    make_way(path);
    if (symlink(target, path) < 0)
        fail(CANNOT_CONFINE, "cannot make the link %s", from);
}

/* A device is that user's whatever its mode on the host, by a node of its own. False: none may be
 * made here (in a container, say). */
static bool make_node(const struct place *place, char *path, const struct stat *st,
                      const struct ids *user)
{
    const mode_t mode = place->access == DEVICE ? 0600 : 0400;
    if (!S_ISCHR(st->st_mode) && !S_ISBLK(st->st_mode))
        return false;
    make_way(path);
    return may_make_at(path) && mknod(path, (st->st_mode & S_IFMT) | mode, st->st_rdev) == 0 &&
           chown(path, user->uid, user->gid) == 0;
}

static void put(struct place *place, const char *here, const struct ids *user)
{
    char path[2 * PATH_MAX + sizeof scratch];
    struct stat st;
    bool relative = place->path[0] != '/';
    snprintf(path, sizeof path, "%s%s%s%s", scratch, relative ? here : "", relative ? "/" : "",
             place->path);
    if (place->tree < 0) {
        make_link(place->path, path);
        return;
    }
    if (fstat(place->tree, &st) < 0)
        fail(CANNOT_CONFINE, "%s", place->path);
    if (user && is_device(place) && make_node(place, path, &st, user)) {
        close(place->tree);
        return;
    }
    make_target(path, S_ISDIR(st.st_mode));
    if (move_mount(place->tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        fail(CANNOT_CONFINE, "cannot put %s where the program finds it", place->path);
    close(place->tree);
}

/* Of the new pid namespace. A host that hides parts of its own /proc (in a container) allows none:
 * then there is none. */
static void put_proc(void)
{
    char path[64];
    snprintf(path, sizeof path, "%s/proc", scratch);
    if (mkdir(path, 0755) < 0)
        fail(CANNOT_CONFINE, "cannot make /proc");
    mount("proc", path, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL);
}

/* The first process's / cannot be exchanged where that is the kernel's own (an initramfs). */
static void change_root(void)
{
    char old[64];
    snprintf(old, sizeof old, "%s%s", scratch, old_root);
    if (!may_make(scratch) || mkdir(old, 0700) < 0)
        fail(CANNOT_CONFINE, "cannot make a directory");
    if (syscall(SYS_pivot_root, scratch, old) == 0) {
        if (umount2(old_root, MNT_DETACH) < 0 || rmdir(old_root) < 0)
            fail(CANNOT_CONFINE, "cannot leave the host's /");
        return;
    }
    if (errno != EINVAL || rmdir(old) < 0 || chdir(scratch) < 0 ||
        mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
        fail(CANNOT_CONFINE, "cannot replace /");
}

void places_make_root(const char *here, const struct ids *user)
{
    struct mount_attr closed = {.attr_set = MOUNT_ATTR_RDONLY};
    struct stat st;
    const mode_t before = umask(0); /* directories on the way are for all */
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        fail(CANNOT_CONFINE, "cannot keep mounts from the host");
    for (size_t i = 0; i < place_count; i++) {
        open_tree_of(&places[i]);
        if (user && places[i].tree >= 0)
            give(&places[i], user, here);
    }
    if (mount("hypefs-vmm", scratch, "tmpfs", MS_NOSUID | (user ? 0 : MS_NODEV), "mode=0755") < 0 ||
        stat(scratch, &st) < 0)
        fail(CANNOT_CONFINE, "cannot make a file system in memory");
    new_device = st.st_dev;
    put_proc();
    for (size_t i = 0; i < place_count; i++)
        put(&places[i], here, user);
    change_root();
    if (mount_setattr(AT_FDCWD, "/", 0, &closed, sizeof closed) < 0)
        fail(CANNOT_CONFINE, "cannot close the file system in memory");
    umask(before);
}

/* What is read by who has a / of its own, and what of the host's /proc by who has not. */
static const char *const read_in_root[] = {"/", NULL};
static const char *const read_on_host[] = {"/proc/self", "/proc/cpuinfo", "/proc/meminfo",
                                           "/proc/sys/vm", NULL};

static const int access_rights[] = {
    [READ] = LANDLOCK_MAY_READ | LANDLOCK_MAY_RUN,
    [WRITE] = LANDLOCK_MAY_READ | LANDLOCK_MAY_WRITE | LANDLOCK_MAY_MAKE,
    [DEVICE] = LANDLOCK_MAY_READ | LANDLOCK_MAY_WRITE | LANDLOCK_MAY_CONTROL,
    [DEVICE_READ] = LANDLOCK_MAY_READ | LANDLOCK_MAY_CONTROL};

void places_allow(bool has_root)
{
    for (const char *const *path = has_root ? read_in_root : read_on_host; *path; path++)
        landlock_allow(*path, access_rights[READ]);
    for (size_t i = 0; i < place_count; i++) {
        const struct place *place = &places[i];
        errno = EOPNOTSUPP;
        if (!has_root && place->source && strcmp(place->source, place->path) != 0)
            fail(CANNOT_CONFINE, "%s cannot be shown as %s without a mount namespace",
                 place->source, place->path);
        errno = ENOENT;
        if (!has_root && !place->optional && access(place->path, F_OK) < 0)
            fail(CANNOT_CONFINE, "%s", place->path);
        if (!has_root || place->access != READ)
            landlock_allow(place->path, access_rights[place->access]);
    }
}

void places_check(const struct ids *user)
{
    for (size_t i = 0; i < place_count; i++) {
        const struct place *place = &places[i];
        bool writes = place->access == WRITE;
        if (!place->of_system &&
            faccessat(AT_FDCWD, place->path, writes ? R_OK | W_OK : R_OK, AT_EACCESS) < 0)
            fail(CANNOT_CONFINE,
                 place->is_shown
                     ? "%s: its owner, as whose it is shown to the VMM's user %u, may not %s it "
                       "(chmod, chattr -i)"
                     : "%s: the VMM's user %u may not %s it, and it is not shown as that user's: "
                       "give group %u the right (chgrp, chmod)",
                 place->path, user->uid, writes ? "write to" : "read", user->gid);
    }
}

/* ---- options ---- */

static const struct option {
    const char *name;
    int values;
    struct place place;
} options[] = {
    {"--ro", 1, {.access = READ}},         {"--rw", 1, {.access = WRITE}},
    {"--dev", 1, {.access = DEVICE_READ}}, {"--ro-at", 2, {.access = READ}},
    {"--rw-at", 2, {.access = WRITE}},
};

int places_read_option(char **argv, int left)
{
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        struct place place = options[i].place;
        if (strcmp(argv[0], options[i].name) != 0 || left <= options[i].values)
            continue;
        place.path = argv[1];
        place.source = options[i].values > 1 ? argv[2] : NULL;
        add_place(place);
        return 1 + options[i].values;
    }
    return 0;
}
