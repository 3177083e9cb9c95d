/* SPDX-License-Identifier: MIT */
/* taps: a network namespace of the test's own, with interfaces for guests. */
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "harness/harness.h"

enum { TUN_MAJOR = 10, TUN_MINOR = 200, OPEN_TO_ALL = 0666 };

/* A device that everyone may open, as distributions have it. It stays in `base`: what has no name
 * any more cannot be shown to a VMM that is shut in. */
static bool open_tun_to_all(const char *base)
{
    char node[300];
    snprintf(node, sizeof node, "%.280s/tun", base);
    return mknod(node, S_IFCHR | OPEN_TO_ALL, makedev(TUN_MAJOR, TUN_MINOR)) == 0 &&
           chmod(node, OPEN_TO_ALL) == 0 && mount(node, "/dev/net/tun", NULL, MS_BIND, NULL) == 0;
}

const char *harness_make_taps(const char *base, int count)
{
    const char *user = getenv("HYPEFS_TEST_UID");
    char command[256];
    if (access("/dev/net/tun", F_OK) < 0)
        return "there is no /dev/net/tun";
    if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0)
        return "only root can make a network namespace with taps";
    if (user && !open_tun_to_all(base))
        return "no /dev/net/tun for users can be laid over the host's";
    if (system("ip link set lo up") != 0)
        return "ip(8) cannot start the loopback interface";
    for (int i = 0; i < count; i++) {
        snprintf(command, sizeof command,
                 "ip tuntap add t%d mode tap user %s && ip link set t%d up", i, user ? user : "0",
                 i);
        if (system(command) != 0)
            return "ip(8) cannot make a tap here";
    }
    return NULL;
}
