/* SPDX-License-Identifier: MIT */
/*
 * fault: places at which a test ends the process as a crash would (SIGKILL). Nothing at all unless
 * the build has the option fault_points.
 *
 *     HYPEFS_FAULT=NAME      when that point is passed
 *     HYPEFS_FAULT=NAME:N    when it is passed for the Nth time
 *     HYPEFS_FAULT=@FILE     as soon as there is that file, what it holds counts, from then on
 *
 *     HYPEFS_FAULT=trace     never: each point that is passed is told on stderr
 *
 * "any" is the name of all points. The one that ended the process is told on stderr. Any thread.
 */
#ifndef HYPEFS_UTIL_FAULT_H
#define HYPEFS_UTIL_FAULT_H

/* One line for each. A test passes them all, or fails. */
#define FAULT_POINTS(X)                                                                            \
    X(SPAWN, "spawn:before")                                                                       \
    X(SPAWNED, "spawn:after")                                                                      \
    X(BOOT, "boot:before")                                                                         \
    X(BOOTED, "boot:after")                                                                        \
    X(LOAD, "load:before")                                                                         \
    X(LOADED, "load:after")                                                                        \
    X(PATCH, "patch:before")                                                                       \
    X(PATCHED, "patch:after")                                                                      \
    X(RESUME, "resume:before")                                                                     \
    X(RESUMED, "resume:after")                                                                     \
    X(SHOWN, "show:after")                                                                         \
    X(ACK, "ack:before")                                                                           \
    X(ACKED, "ack:after")                                                                          \
    X(PAUSE, "pause:before")                                                                       \
    X(PAUSED, "pause:after")                                                                       \
    X(SAVE, "save:before")                                                                         \
    X(SAVED, "save:after")                                                                         \
    X(STOP, "stop:before")                                                                         \
    X(STOPPED, "stop:after")                                                                       \
    X(ENTRY_MADE, "entry:made")                                                                    \
    X(PUBLISH_FSYNC, "publish:before-fsync")                                                       \
    X(PUBLISH_RENAME, "publish:before-rename")                                                     \
    X(PUBLISH_RENAMED, "publish:after-rename")                                                     \
    X(PUBLISHED, "publish:after-fsync")                                                            \
    X(UNPUBLISH_RENAME, "unpublish:before-rename")                                                 \
    X(UNPUBLISH_RENAMED, "unpublish:after-rename")                                                 \
    X(ERASE, "erase:before-unlink")                                                                \
    X(ERASED, "erase:after-unlink")                                                                \
    X(JSON_FSYNC, "json:before-fsync")                                                             \
    X(JSON_RENAME, "json:before-rename")                                                           \
    X(JSON_RENAMED, "json:after-rename")                                                           \
    X(JSON_SYNCED, "json:after-fsync")                                                             \
    X(COPY, "copy:before")                                                                         \
    X(COPIED, "copy:after")                                                                        \
    X(LINKED, "link:after")                                                                        \
    X(UNLINK, "unlink:before")                                                                     \
    X(UNLINKED, "unlink:after")                                                                    \
    X(SYNC, "sync:before")                                                                         \
    X(SYNCED, "sync:after")                                                                        \
    X(REPLY, "reply:before")                                                                       \
    X(REPLIED, "reply:after")

enum fault {
#define FAULT_CONSTANT(constant, name) FAULT_##constant,
    FAULT_POINTS(FAULT_CONSTANT)
#undef FAULT_CONSTANT
        FAULTS
};

#ifdef HYPEFS_FAULT_POINTS
extern const char *const fault_names[FAULTS];
void fault_point(enum fault fault);
#else
static inline void fault_point(enum fault fault)
{
    (void)fault;
}
#endif

#endif
