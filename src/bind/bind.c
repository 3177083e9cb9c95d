/* SPDX-License-Identifier: MIT */
/*
 * hypefs-bind: runs a program that finds files at paths where the host has others, or nothing. A
 * VMM opens the paths that a saved state names, and that may have been saved on another host, or in
 * a jail.
 *
 *   hypefs-bind PATH FILE [PATH FILE]… -- PROGRAM [ARGUMENT]…
 *
 * PATH is absolute; FILE is a regular file, by its path from the working directory. The program has
 * a mount namespace of its own, in which FILE is bound to PATH; the host sees nothing of it, and
 * what the host unmounts is unmounted there, too. If there is nothing at PATH, the last directory
 * on the way there that exists is covered by a small one in memory, in which what it has now is
 * bound under the same names. Whoever may not make a mount namespace makes a user namespace for it,
 * with the same user in it.
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
#include <unistd.h>

enum { CANNOT_BIND = 126, CANNOT_RUN = 127, COVERS_MAX = 256, FD_PATH_SIZE = 64 };

/* Any directory below / that every host has: where the directory that becomes / is made. */
static const char scratch[] = "/sys";

static dev_t covers[COVERS_MAX];
static size_t cover_count;

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

static void enter(void)
{
    unsigned user = geteuid(), group = getegid();
    if (unshare(CLONE_NEWNS) < 0)
        enter_as_user(user, group);
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        fail(CANNOT_BIND, "cannot keep mounts from the host");
}

/* ---- covering a directory ---- */

static void bind(const char *from, const char *to)
{
    if (mount(from, to, NULL, MS_BIND | MS_REC, NULL) < 0)
        fail(CANNOT_BIND, "cannot bind something to %s", to);
}

static void make_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        fail(CANNOT_BIND, "cannot make %s", path);
    close(fd);
}

/* What is at `from` gets the name `to`. A link is made anew. */
static void mirror(const char *from, const struct stat *what, const char *to)
{
    char target[PATH_MAX];
    if (S_ISLNK(what->st_mode)) {
        ssize_t size = readlink(from, target, sizeof target - 1);
        target[size > 0 ? size : 0] = 0;
        if (size < 0 || symlink(target, to) < 0)
            fail(CANNOT_BIND, "cannot make the link %s", to);
        return;
    }
    if (!S_ISDIR(what->st_mode))
        make_file(to);
    else if (mkdir(to, 0700) < 0)
        fail(CANNOT_BIND, "cannot make %s", to);
    bind(from, to);
}

/* `hidden`: what lies under `at`, if that is an entry of the directory itself; or -1. */
static void mirror_all(int directory, int hidden, const char *at)
{
    char from[FD_PATH_SIZE + NAME_MAX], to[PATH_MAX + NAME_MAX + 2];
    struct stat what;
    DIR *entries = fdopendir(directory);
    if (!entries)
        fail(CANNOT_BIND, "cannot read a directory");
    for (struct dirent *entry; (entry = readdir(entries));) {
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
    closedir(entries);
}

static void cover(const char *path)
{
    const bool is_root = strcmp(path, "/") == 0;
    const char *at = is_root ? scratch : path;
    struct stat st;
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int hidden = is_root ? open(at, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (directory < 0 || (is_root && hidden < 0))
        fail(CANNOT_BIND, "cannot open %s", directory < 0 ? path : at);
    if (cover_count == COVERS_MAX || mount("hypefs-bind", at, "tmpfs", 0, "mode=0755") < 0)
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

/* A file at a path where nothing is, in directories that need not be there. */
static void make_place(const char *path)
{
    char part[PATH_MAX];
    struct stat st;
    snprintf(part, sizeof part, "%s", path);
    for (;;) {
        char *slash = strrchr(part, '/');
        slash[slash == part] = 0;
        if (stat(part, &st) == 0)
            break;
        if (errno != ENOENT)
            fail(CANNOT_BIND, "%s", path);
    }
    if (!is_covered(&st))
        cover(part);
    for (size_t i = strlen(part) + 1; path[i]; i++) {
        if (path[i] != '/')
            continue;
        snprintf(part, sizeof part, "%.*s", (int)i, path);
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            fail(CANNOT_BIND, "cannot make %s", part);
    }
    make_file(path);
}

static void place(int working_directory, const char *path, const char *file)
{
    char from[FD_PATH_SIZE];
    struct stat st;
    int fd = openat(working_directory, file, O_PATH | O_CLOEXEC);
    errno = fd < 0 || fstat(fd, &st) < 0 ? errno : S_ISREG(st.st_mode) ? 0 : EINVAL;
    if (errno != 0)
        fail(CANNOT_BIND, "%s", file);
    if (path[0] != '/' || path[strlen(path) - 1] == '/' || strlen(path) >= PATH_MAX) {
        errno = EINVAL;
        fail(CANNOT_BIND, "%.200s", path);
    }
    if (stat(path, &st) < 0 && errno != ENOENT)
        fail(CANNOT_BIND, "%s", path);
    if (stat(path, &st) < 0)
        make_place(path);
    snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    bind(from, path);
    close(fd);
}

int main(int argc, char **argv)
{
    char here[PATH_MAX];
    int i = 1;
    while (i + 1 < argc && strcmp(argv[i], "--") != 0)
        i += 2;
    if (i + 1 >= argc || strcmp(argv[i], "--") != 0) {
        fputs("usage: hypefs-bind PATH FILE [PATH FILE]… -- PROGRAM [ARGUMENT]…\n", stderr);
        return CANNOT_BIND;
    }
    enter();
    int working_directory = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (working_directory < 0 || !getcwd(here, sizeof here))
        fail(CANNOT_BIND, "the working directory");
    for (int k = 1; k < i; k += 2)
        place(working_directory, argv[k], argv[k + 1]);
    if (chdir(here) < 0)
        fail(CANNOT_BIND, "%s", here);
    execvp(argv[i + 1], &argv[i + 1]);
    fail(CANNOT_RUN, "%s", argv[i + 1]);
}
