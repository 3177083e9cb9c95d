/* SPDX-License-Identifier: MIT */
/*
 * descriptors: preloaded into a program, ends it with status 99 if a descriptor is open at its exit
 * that was not open when it began (run.sh).
 */
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { DESCRIPTORS = 1024, STATUS = 99 };

static bool inherited[DESCRIPTORS];
static pid_t began;

/* Marks those that are open; or tells of each that was not marked, and returns how many there are.
 */
static int look(bool mark)
{
    int found = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (!directory)
        abort();
    for (const struct dirent *entry; (entry = readdir(directory));) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] == '.' || fd == dirfd(directory) || fd >= DESCRIPTORS)
            continue;
        if (mark) {
            inherited[fd] = true;
        } else if (!inherited[fd]) {
            char link[64], target[256] = "";
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            if (readlink(link, target, sizeof target - 1) < 0)
                target[0] = 0;
            fprintf(stderr, "descriptor %d is open still: %s\n", fd, target);
            found++;
        }
    }
    closedir(directory);
    return found;
}

__attribute__((constructor)) static void begin(void)
{
    began = getpid();
    look(true);
}

/* Children of the program are not asked. */
__attribute__((destructor)) static void end(void)
{
    if (getpid() == began && look(false) > 0)
        _exit(STATUS);
}
