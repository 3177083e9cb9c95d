/* SPDX-License-Identifier: MIT */
#include "util/libexec.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"

/* The folder of the program that runs: src/cli or tests/unit of the build folder, or bindir. What
 * is found from there is run as the daemon's user, so nothing else may be taken for a build folder.
 */
static int find_here(char ret[static PATH_MAX], struct error *err)
{
    ssize_t length = readlink("/proc/self/exe", ret, PATH_MAX - 1);
    ret[length > 0 ? length : 0] = 0;
    char *slash = strrchr(ret, '/');
    if (!slash)
        return error_set(err, EIO, "/proc/self/exe does not tell where hypefs is");
    *slash = 0;
    return 0;
}

int libexec_find(const char *folder, const char *name, char ret[static PATH_MAX], struct error *err)
{
    char here[PATH_MAX];
    auto_free char *built = NULL, *installed = NULL;
    int r = find_here(here, err);
    if (r < 0)
        return r;
    if (asprintf(&built, "%s/../../src/%s/%s", here, folder, name) < 0 ||
        asprintf(&installed, "%s/%s/%s", HYPEFS_LIBEXEC[0] == '/' ? "" : here, HYPEFS_LIBEXEC,
                 name) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    const char *folder_here = strrchr(here, '/');
    const bool is_built =
        folder_here && (strcmp(folder_here, "/cli") == 0 || strcmp(folder_here, "/unit") == 0);
    if ((is_built && realpath(built, ret)) || realpath(installed, ret))
        return 0;
    return error_set(err, EIO, "%s is neither there nor in the build folder: install hypefs again",
                     installed);
}
