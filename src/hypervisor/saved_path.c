/* SPDX-License-Identifier: MIT */
#include "hypervisor/saved_path.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

/* What a stranger's state names must not replace files of the system. */
const char *saved_path_refuse(const char *path)
{
    static const char *const system[] = {"/bin",   "/boot",  "/etc",    "/gnu", "/lib",
                                         "/lib32", "/lib64", "/libx32", "/nix", "/proc",
                                         "/sbin",  "/sys",   "/usr"};
    const size_t length = strlen(path);
    if (length >= PATH_MAX)
        return "is too long";
    if (path[0] != '/' || path[length - 1] == '/')
        return "is not the absolute path of a file";
    if (strstr(path, "//") || strstr(path, "/./") || strstr(path, "/../") ||
        strcmp(&path[length > 2 ? length - 2 : 0], "/.") == 0 ||
        strcmp(&path[length > 3 ? length - 3 : 0], "/..") == 0)
        return "has \"//\", \".\" or \"..\" in it";
    for (size_t i = 0; i < sizeof system / sizeof *system; i++) {
        const size_t size = strlen(system[i]);
        if (strncmp(path, system[i], size) == 0 && (path[size] == '/' || !path[size]))
            return "is in a folder of the system";
    }
    return NULL;
}
