/* SPDX-License-Identifier: MIT */
/*
 * no_files: laid over the daemon with LD_PRELOAD. While there is a file that HYPEFS_TEST_GATE
 * names, the host has no more open files (fs.file-max), which root's processes never see for real
 * and others could bring about only for all of the host.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((visibility("default"))) int eventfd(unsigned count, int flags)
{
    const char *gate = getenv("HYPEFS_TEST_GATE");
    if (gate && access(gate, F_OK) == 0) {
        errno = ENFILE;
        return -1;
    }
    return (int)syscall(SYS_eventfd2, count, flags);
}
