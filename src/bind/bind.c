/* SPDX-License-Identifier: MIT */
/*
 * hypefs-bind: runs a program that finds files at paths where the host has others, or nothing. A
 * VMM opens the paths that a saved state names, and that may have been saved on another host, or in
 * a jail.
 *
 *   hypefs-bind PATH FILE [PATH FILE]… -- PROGRAM [ARGUMENT]…
 *
 * PATH is absolute, has no "." or ".." in it, and is not in a folder of the system; FILE is a
 * regular file, by its path from the working directory. The program has a mount namespace of its
 * own, in which FILE is bound to PATH, not to be executed; the host sees nothing of it. If there is
 * nothing at PATH, the last directory on the way there that exists is covered by a small one in
 * memory, in which what it has now is bound under the same names. Whoever may not make a mount
 * namespace makes a user namespace for it, with the same user in it.
 *
 * Mounts of the host's are in that namespace, too. One that the host unmounts goes there as well if
 * the host shares its mounts (with systemd it does), but not if it lies in a covered directory
 * itself: then its file system is in use until the program ends. hypefs's own mounts are taken away
 * here, as far as the user may, because a daemon ends when the last of its mounts has gone.
 *
 * It exits with 126 and a line on standard error if that cannot be done, with 127 if the program
 * cannot be run. Else it becomes the program.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "util/bind_path.h"

enum { CANNOT_BIND = 126, CANNOT_RUN = 127, BINDS_MAX = 256, FD_PATH_SIZE = 64, LINE_SIZE = 8192 };

/* Any directory below / that every host has: where the directory that becomes / is made. */
static const char scratch[] = "/sys";

static dev_t covers[BINDS_MAX];
static size_t cover_count;
static char here[PATH_MAX]; /* the working directory */

__attribute__((format(printf, 2, 3), noreturn)) static void fail(int status, const char *format,
                                                                 ...)
{
    const char *why = strerrordesc_np(errno);
    va_list arguments;
    fputs("hypefs-bind: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, ": %s\n", why);
    exit(status);
}

static void write_map(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        fail(CANNOT_BIND, "cannot write %s", path);
    close(fd);
}

/* ---- the namespace ---- */

static void enter_as_user(unsigned user, unsigned group)
{
    char text[64];
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
        fail(CANNOT_BIND, "this user may make neither a mount namespace nor a user namespace");
    write_map("/proc/self/setgroups", "deny");
    snprintf(text, sizeof text, "%u %u 1", user, user);
    write_map("/proc/self/uid_map", text);
    snprintf(text, sizeof text, "%u %u 1", group, group);
    write_map("/proc/self/gid_map", text);
}

/* In place: \ooo of /proc/self/mountinfo. */
static void unescape(char *text)
{
    char *to = text;
    for (unsigned code; *text; to++)
        if (*text == '\\' && sscanf(text + 1, "%3o", &code) == 1) {
            *to = (char)code;
            text += 4;
        } else {
            *to = *text++;
        }
    *to = 0;
}

/* It fails for who is not root, to whom these mounts are locked. */
static void take_away_hypefs(void)
{
    char line[LINE_SIZE], path[LINE_SIZE];
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    while (mounts && fgets(line, sizeof line, mounts)) {
        const char *type = strstr(line, " - ");
        if (!type || strncmp(type, " - fuse.hypefs ", 15) != 0 ||
            sscanf(line, "%*s %*s %*s %*s %8191s", path) != 1)
            continue;
        unescape(path);
        umount2(path, MNT_DETACH);
    }
    if (mounts)
        fclose(mounts);
}

static void enter(void)
{
    unsigned user = geteuid(), group = getegid();
    if (unshare(CLONE_NEWNS) < 0)
        enter_as_user(user, group);
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        fail(CANNOT_BIND, "cannot keep mounts from the host");
    take_away_hypefs();
}

/* ---- covering a directory ---- */

static void make_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        fail(CANNOT_BIND, "cannot make %s", path);
    close(fd);
}

/* What is at `from` gets the name `to`. A link is made anew. What has gone is left out. */
static void mirror(const char *from, const struct stat *what, const char *to)
{
    char target[PATH_MAX];
    if (S_ISLNK(what->st_mode)) {
        ssize_t size = readlink(from, target, sizeof target - 1);
        target[size > 0 ? size : 0] = 0;
        if (size >= 0 ? symlink(target, to) < 0 : errno != ENOENT)
            fail(CANNOT_BIND, "cannot make the link %s", to);
        return;
    }
    if (!S_ISDIR(what->st_mode))
        make_file(to);
    else if (mkdir(to, 0700) < 0)
        fail(CANNOT_BIND, "cannot make %s", to);
    if (mount(from, to, NULL, MS_BIND | MS_REC, NULL) == 0)
        return;
    if (errno != ENOENT || remove(to) < 0)
        fail(CANNOT_BIND, "cannot bind something to %s", to);
}

/* `hidden`: what lies under `at`, if that is an entry of the directory itself; or -1. */
static void mirror_all(int directory, int hidden, const char *at)
{
    char from[FD_PATH_SIZE + NAME_MAX], to[PATH_MAX + NAME_MAX + 2];
    struct stat what;
    DIR *entries = fdopendir(directory);
    if (!entries)
        fail(CANNOT_BIND, "cannot read a directory");
    for (struct dirent *entry; (errno = 0, entry = readdir(entries));) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
            fstatat(directory, name, &what, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        snprintf(to, sizeof to, "%s/%s", at, name);
        if (hidden >= 0 && strcmp(name, scratch + 1) == 0)
            snprintf(from, sizeof from, "/proc/self/fd/%d", hidden);
        else
            snprintf(from, sizeof from, "/proc/self/fd/%d/%s", directory, name);
        mirror(from, &what, to);
    }
    if (errno != 0)
        fail(CANNOT_BIND, "cannot read a directory");
    closedir(entries);
}

static void cover(const char *path)
{
    const bool is_root = strcmp(path, "/") == 0;
    const char *at = is_root ? scratch : path;
    struct stat st;
    errno = EBUSY;
    if (strcmp(path, here) == 0) /* what it makes there would be seen by nobody */
        fail(CANNOT_BIND, "cannot cover the working directory, %s", here);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int hidden = is_root ? open(at, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (directory < 0 || (is_root && hidden < 0))
        fail(CANNOT_BIND, "cannot open %s", directory < 0 ? path : at);
    if (cover_count == BINDS_MAX || mount("hypefs-bind", at, "tmpfs", 0, "mode=0755") < 0)
        fail(CANNOT_BIND, "cannot cover %s", path);
    mirror_all(directory, hidden, at);
    if (is_root && (chdir(at) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0))
        fail(CANNOT_BIND, "cannot replace /");
    if (stat(path, &st) < 0)
        fail(CANNOT_BIND, "cannot stat %s", path);
    covers[cover_count++] = st.st_dev;
}

static bool is_covered(const struct stat *directory)
{
    for (size_t i = 0; i < cover_count; i++)
        if (directory->st_dev == covers[i])
            return true;
    return false;
}

/* ---- one path ---- */

static void refuse(const char *path, const char *why, int code)
{
    errno = code;
    if (why)
        fail(CANNOT_BIND, "nothing can be put at %.200s: it %s", path, why);
}

/* Where links lead counts, too. `there` is the path, or the directory on its way that exists. */
static void check_real(const char *path, const char *there)
{
    char real[PATH_MAX];
    if (!realpath(there, real))
        fail(CANNOT_BIND, "%s", path);
    refuse(path, strcmp(real, "/") == 0 ? NULL : bind_path_refusal(real), EPERM);
}

/* Nothing is ever made on the host. */
static void check_covered(const char *directory)
{
    struct stat st;
    errno = EXDEV;
    if (stat(directory, &st) < 0 || !is_covered(&st))
        fail(CANNOT_BIND, "%s leads out of what was covered", directory);
}

/* The last directory on the way there that exists. */
static void find_existing(const char *path, char ret[static PATH_MAX])
{
    struct stat st;
    snprintf(ret, PATH_MAX, "%s", path);
    do {
        char *slash = strrchr(ret, '/');
        slash[slash == ret] = 0;
        if (stat(ret, &st) == 0)
            return;
    } while (errno == ENOENT);
    fail(CANNOT_BIND, "%s", path);
}

/* A file at a path where nothing is, in directories that need not be there. */
static void make_place(const char *path)
{
    char part[PATH_MAX];
    struct stat st;
    find_existing(path, part);
    check_real(path, part);
    if (stat(part, &st) < 0 || !is_covered(&st))
        cover(part);
    for (size_t i = strlen(part) + 1; path[i]; i++) {
        if (path[i] != '/')
            continue;
        check_covered(part);
        snprintf(part, sizeof part, "%.*s", (int)i, path);
        if (mkdir(part, 0755) < 0)
            fail(CANNOT_BIND, "cannot make %s", part);
    }
    check_covered(part);
    make_file(path);
}

static unsigned long flags_of(const char *path)
{
    struct statvfs st;
    if (statvfs(path, &st) < 0)
        fail(CANNOT_BIND, "%s", path);
    return (st.f_flag & ST_RDONLY ? MS_RDONLY : 0U) | (st.f_flag & ST_NOATIME ? MS_NOATIME : 0U) |
           (st.f_flag & ST_NODIRATIME ? MS_NODIRATIME : 0U) |
           (st.f_flag & ST_RELATIME ? MS_RELATIME : 0U);
}

static void place(const char *path, int file)
{
    const unsigned long closed = MS_BIND | MS_REMOUNT | MS_NOEXEC | MS_NOSUID | MS_NODEV;
    char from[FD_PATH_SIZE];
    struct stat st;
    if (stat(path, &st) == 0)
        check_real(path, path);
    else if (errno == ENOENT)
        make_place(path);
    else
        fail(CANNOT_BIND, "%s", path);
    snprintf(from, sizeof from, "/proc/self/fd/%d", file);
    if (mount(from, path, NULL, MS_BIND, NULL) < 0 ||
        mount(NULL, path, NULL, closed | flags_of(path), NULL) < 0)
        fail(CANNOT_BIND, "cannot bind a file to %s", path);
    close(file);
}

static int open_file(const char *path)
{
    struct stat st;
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        fail(CANNOT_BIND, "%s", path);
    errno = EINVAL;
    if (!S_ISREG(st.st_mode))
        fail(CANNOT_BIND, "%s is not a regular file", path);
    return fd;
}

int main(int argc, char **argv)
{
    int files[BINDS_MAX], count = 0;
    while (2 * count + 2 < argc && count < BINDS_MAX && strcmp(argv[2 * count + 1], "--") != 0)
        count++;
    char **const program = &argv[2 * count + 2];
    if (2 * count + 2 >= argc || strcmp(program[-1], "--") != 0) {
        fputs("usage: hypefs-bind PATH FILE [PATH FILE]… -- PROGRAM [ARGUMENT]…\n", stderr);
        return CANNOT_BIND;
    }
    enter();
    if (!getcwd(here, sizeof here))
        fail(CANNOT_BIND, "the working directory");
    for (int i = 0; i < count; i++) {
        refuse(argv[2 * i + 1], bind_path_refusal(argv[2 * i + 1]), EINVAL);
        files[i] = open_file(argv[2 * i + 2]);
    }
    /* Only now: a file may be bound in the place of another. */
    for (int i = 0; i < count; i++)
        place(argv[2 * i + 1], files[i]);
    if (chdir(here) < 0)
        fail(CANNOT_BIND, "%s", here);
    execvp(program[0], program);
    fail(CANNOT_RUN, "%s", program[0]);
}
