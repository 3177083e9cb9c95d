/* SPDX-License-Identifier: MIT */
/*
 * timing: how long hypefs waits for what may never come, and how often it looks. Tests that wait
 * for that, too, start a daemon for which it is shorter:
 *
 *     HYPEFS_TEST_TIMING=NAME:MS[,NAME:MS…]
 *
 * A build without the tests (-Dtests=false) does not read that variable. Any thread.
 */
#ifndef HYPEFS_UTIL_TIMING_H
#define HYPEFS_UTIL_TIMING_H

#define TIMINGS(X)                                                                                 \
    X(STOP, "stop", 5000)       /* for a VMM that got SIGTERM; then it gets SIGKILL */             \
    X(KILL, "kill", 30000)      /* for one with SIGKILL: it may have much memory to give back */   \
    X(RECOVER, "recover", 5000) /* at the start, for VMs that have to go on */                     \
    X(LOCK, "lock", 5000)       /* for the store's previous daemon, or the mount point's next */   \
    X(UNMOUNT, "unmount", 2000) /* for the mount point's, which answers, to unmount; and for an */ \
    X(SILENT, "silent", 10000)  /* answer: one that was killed may end only now on a busy host */  \
    X(NETWORK, "network", 5000) /* for the ack of the network, from the resume on */               \
    X(LOOK, "look", 1000)   /* between two looks at logs, at the store, and at VMs loaded ahead */ \
    X(ERASE, "erase", 3000) /* at the end: then what was removed is left to the next start */      \
    X(DEMAND, "demand", 10000) /* in which commits are counted, for what is loaded ahead */        \
    X(SYNC, "sync", 5000)      /* until the disk gets a fork that runs */                          \
    X(RETRY, "retry", 1000)    /* after a VM could not be loaded ahead; doubled each time */

enum timing {
#define TIMING_CONSTANT(constant, name, ms) TIMING_##constant,
    TIMINGS(TIMING_CONSTANT)
#undef TIMING_CONSTANT
};

int timing_ms(enum timing timing);

#endif
