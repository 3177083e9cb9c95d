/* SPDX-License-Identifier: MIT */
#include "cli/import_paths.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/text.h"

static bool is_below(const char *path, const char *folder)
{
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/')
        length--;
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || strcmp(folder, "/") == 0);
}

/* `folder` as the user gave it; one that is not there has nothing in it. */
static bool is_in(const char *path, const char *folder)
{
    auto_free char *real = realpath(folder, NULL);
    return real && is_below(path, real);
}

static int check(const char *path, const char *own_folder, const struct import_allowed *allowed,
                 struct error *err)
{
    auto_free char *real = realpath(path, NULL);
    if (!real)
        return error_errno(err, errno, "the disk %s cannot be found", path);
    bool found = is_in(real, own_folder);
    for (size_t i = 0; i < allowed->count && !found; i++)
        found = is_in(real, allowed->folders[i]);
    if (found)
        return 0;
    auto_free char *folder = strdup(real);
    return error_set(err, EPERM,
                     "the machine would open %s%s%s, which lies outside the folder of its "
                     "configuration: allow it with --allow-disk %s if you trust where the snapshot "
                     "comes from",
                     path, strcmp(path, real) ? ", that is " : "", strcmp(path, real) ? real : "",
                     folder ? dirname(folder) : "DIR");
}

int import_paths_check(const struct import *import, const char *config_path,
                       const struct import_allowed *allowed, struct error *err)
{
    auto_free char *copy = strdup(config_path ? config_path : "");
    int r = copy ? 0 : error_set(err, ENOMEM, "out of memory");
    const char *own_folder = copy ? dirname(copy) : NULL;
    for (size_t i = 0; i < import->machine.disk_count && r == 0; i++) {
        const char *from = import->frozen_from[i];
        r = check(from ? from : import->machine.disks[i].path, own_folder, allowed, err);
    }
    return r;
}

static void print(const char *what, const char *path)
{
    auto_free char *line = strdup(path);
    if (line)
        text_make_printable(line, strlen(line), '?');
    printf("%s: %s\n", what, line ? line : "out of memory");
}

void import_paths_print(const struct import *import)
{
    for (size_t i = 0; i < import->machine.disk_count; i++) {
        const char *from = import->frozen_from[i];
        print(from ? "copied into the snapshot" : "opened by each clone, for reading",
              from ? from : import->machine.disks[i].path);
    }
    if (import->machine.vsock)
        print("made by each clone, or in the clone's own folder", import->machine.vsock);
}
