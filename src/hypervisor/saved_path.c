/* SPDX-License-Identifier: MIT */
#include "hypervisor/saved_path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "util/cleanup.h"

bool saved_path_is_relative(const char *path)
{
    return path[0] != '/';
}

static bool ends_with(const char *text, size_t size, const char *end)
{
    const size_t length = strlen(end);
    return size >= length && memcmp(text + size - length, end, length) == 0;
}

/* Of a name in the VMM's working directory: is it that of a file that hypefs or a VMM makes there?
 */
static bool is_own(const char *name, size_t size)
{
    static const char *const names[] = {".", "memory", "state", "base", "run", "run.new"};
    static const char *const endings[] = {".tmp", ".sock", ".log", ".json"};
    for (size_t i = 0; i < array_length(names); i++)
        if (size == strlen(names[i]) && memcmp(name, names[i], size) == 0)
            return true;
    for (size_t i = 0; i < array_length(endings); i++)
        if (ends_with(name, size, endings[i]))
            return true;
    return disk_owns_name(name);
}

static const char *refuse_relative(const char *path)
{
    if (strcmp(path, "..") == 0 || strncmp(path, "../", 3) == 0)
        return "leads out of the VMM's directory";
    return is_own(path, strcspn(path, "/")) ? "is the name of a file of the VMM's" : NULL;
}

static const char *skip_here(const char *path)
{
    return strncmp(path, "./", 2) == 0 ? path + 2 : path;
}

/* What a stranger's state names must not replace files of the system. */
static const char *refuse_absolute(const char *path)
{
    static const char *const system[] = {"/bin",   "/boot",  "/etc",    "/gnu", "/lib",
                                         "/lib32", "/lib64", "/libx32", "/nix", "/proc",
                                         "/sbin",  "/sys",   "/usr"};
    for (size_t i = 0; i < array_length(system); i++) {
        const size_t size = strlen(system[i]);
        if (strncmp(path, system[i], size) == 0 && (path[size] == '/' || !path[size]))
            return "is in a folder of the system";
    }
    return NULL;
}

const char *saved_path_refuse(const char *path)
{
    const size_t length = strlen(path);
    if (length >= PATH_MAX)
        return "is too long";
    if (length == 0 || path[length - 1] == '/')
        return "is not the path of a file";
    if (strstr(path, "//") || strstr(path, "/./") || strstr(path, "/../") ||
        strcmp(&path[length > 2 ? length - 2 : 0], "/.") == 0 ||
        strcmp(&path[length > 3 ? length - 3 : 0], "/..") == 0)
        return "has \"//\", \".\" or \"..\" in it";
    return saved_path_is_relative(path) ? refuse_relative(skip_here(path)) : refuse_absolute(path);
}

/* A VMM may have worked in the directory before: links in it are not followed. */
int saved_path_make(int directory_fd, const char *path, struct error *err)
{
    auto_close int folder = -1;
    int in = directory_fd;
    const char *part = skip_here(path);
    for (const char *slash; (slash = strchr(part, '/')); part = slash + 1) {
        char name[NAME_MAX + 1];
        if (slash - part > NAME_MAX)
            return error_set(err, ENAMETOOLONG, "%s", path);
        memcpy(name, part, (size_t)(slash - part));
        name[slash - part] = '\0';
        if (mkdirat(in, name, 0700) < 0 && errno != EEXIST)
            return error_errno(err, errno, "cannot make the folders of %s for the VMM", path);
        int next = openat(in, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (next < 0)
            return error_errno(err, errno, "cannot make the folders of %s for the VMM", path);
        cleanup_close(&folder);
        in = folder = next;
    }
    auto_close int fd =
        openat(in, part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd >= 0 || errno == EEXIST ? 0
                                      : error_errno(err, errno, "cannot make %s for the VMM", path);
}
