/* SPDX-License-Identifier: MIT */
/*
 * harness: what tests of a mounted daemon share. A test program calls harness_enter() first, and
 * gives harness_setup() and harness_teardown() to cmocka for each test.
 *
 * Nothing outlives a test program, whatever happens to it: harness_enter() leaves a keeper behind
 * as the parent, which adopts what is orphaned, and in the end (also at SIGTERM) kills what is
 * left, unmounts what is below the program's directory and removes that. As root all of it happens
 * in a mount namespace of its own.
 *
 * HYPEFS names the program under test. With HYPEFS_TEST_UID=UID a program that root starts goes on
 * as that user: with a /dev/fuse that everyone may open, as distributions have it (a node of its
 * own, laid over the host's in the mount namespace), and all else as it is for that user.
 *
 * A function that cannot do what it says fails the test. Strings returned are the harness's and
 * live until the test's end. All waiting ends after HARNESS_DEADLINE_MS.
 */
#ifndef HYPEFS_TESTS_HARNESS_H
#define HYPEFS_TESTS_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { HARNESS_DEADLINE_MS = 60000, HARNESS_SKIPPED = 77 };

struct harness_block;

struct harness {
    char *directory; /* the test's own; the working directory of commands without a mount */
    char *store;     /* directory/store, or where a test puts it before a daemon makes it */
    char *mount;     /* directory/mount */
    char *log;       /* what daemons wrote to stderr */
    char *programs;  /* directory/programs: once it is there, VMMs may read what is in it */
    pid_t daemon;    /* 0: none */
    int daemon_pidfd;
    bool tolerant; /* teardown does not mind how the daemon ends */
    struct harness_block *blocks;
};

/* Returns in the process that is to run the tests; see above. The keeper ends by itself, with
 * that one's exit status, or with HARNESS_SKIPPED and a reason when tests cannot run here. */
void harness_enter(void);
/* The same. `prepare` runs before the program goes on as another user, and puts what that user
 * cannot reach into `base`, the program's directory. It returns NULL, or why the tests cannot run
 * here. */
void harness_enter_with(const char *(*prepare)(const char *base));

/* For such a `prepare`: a network namespace that ends with the program's processes, with the taps
 * t0, t1, … for the user that the program goes on as. */
const char *harness_make_taps(const char *base, int count);

/* The program's directory, mode 0700, in which each test gets one. */
const char *harness_base(void);

/* For cmocka: *state becomes a struct harness. The teardown fails a test whose daemon did not end
 * with status 0 or was complained about by a sanitizer. */
int harness_setup(void **state);
int harness_teardown(void **state);

/* Memory that lives until the test's end. */
void *harness_alloc(struct harness *h, size_t size);
char *harness_format(struct harness *h, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* MOUNT/…, STORE/… */
char *harness_path(struct harness *h, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
char *harness_store_path(struct harness *h, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The daemon, in the foreground: hypefs mount -f --store STORE OPTION… MOUNT. `options` ends with
 * NULL and may be NULL. Returns when the mount answers. */
void harness_mount(struct harness *h, const char *const *options);
/* The same of one that may end before: then false, and *ret_status is as harness_unmount()'s. */
bool harness_try_mount(struct harness *h, const char *const *options, int *ret_status);
/* SIGTERM; returns the exit status (128 + number for a signal). */
int harness_unmount(struct harness *h);
/* SIGKILL. The mount stays behind, stale. */
void harness_kill(struct harness *h);
/* Waits until the daemon has ended; returns as harness_unmount(). */
int harness_await_end(struct harness *h);

/* A command line. Its own process group; stdin is /dev/null; the working directory is the mount
 * (while one answers). The environment has HYPEFS, M (mount), S (store), T and HOME (directory). */
struct harness_result {
    int status; /* exit status; 128 + number for a signal */
    char *out, *err;
};
struct harness_child {
    pid_t pid; /* and the process group */
    int pidfd, out, err;
};
struct harness_child harness_start(struct harness *h, const char *const *argv);
struct harness_result harness_finish(struct harness *h, struct harness_child *child);
struct harness_result harness_run(struct harness *h, const char *const *argv);
/* shell -c script */
struct harness_result harness_shell(struct harness *h, const char *shell, const char *script);
/* The same, not waited for. */
struct harness_child harness_start_shell(struct harness *h, const char *shell, const char *script);
/* Is the program in PATH? */
bool harness_has(const char *program);
/* SIGSTOP, and waits until none of its threads runs any more. */
void harness_stop_process(pid_t pid);
/* Waits until there is no such process any more: one that is not our child may be a zombie for a
 * moment. */
void harness_await_gone(pid_t pid);
/* Waits until the process (a command) sleeps in a system call whose answer the daemon puts off. */
void harness_await_blocked(struct harness *h, pid_t pid);

/* One open, one write of all bytes, one close: the errno of each, 0 where it went well or was not
 * reached. `flags` without O_CLOEXEC; O_CREAT makes 0600. */
struct harness_steps {
    int open, write, close;
};
struct harness_steps harness_write_steps(const char *path, int flags, const void *bytes,
                                         size_t size);
/* As `printf %s text > path` does it; returns the first errno. */
int harness_write(const char *path, const char *text);
/* The same, and it must succeed. */
void harness_put(const char *path, const char *text);
/* The whole file, with a NUL. */
char *harness_get(struct harness *h, const char *path);
/* The same from where there may be no file: the errno. */
int harness_read_errno(const char *path);

/* Waits until the file's content has `text` in it, and returns the content. Woken by POLLPRI where
 * the file can, else looks every 20 ms. */
char *harness_await(struct harness *h, const char *path, const char *text);
/* Waits until condition(argument) is true; looks every 20 ms. */
void harness_await_that(bool (*condition)(void *argument), void *argument, const char *what);
/* The daemon answers a removal first, and erases then. */
void harness_await_erased(struct harness *h);

/* The value of a member, by its path in a JSON text ("error.code", "mailboxes.0.name"), as text:
 * strings bare, others as JSON prints them; "(none)" if there is none. */
char *harness_json(struct harness *h, const char *text, const char *path);

/* A snapshot made without a VM, for what is looked at before one is loaded. To be made while no
 * daemon runs. Members that are 0 have defaults: standby, qemu, 16 MiB. */
struct harness_frame {
    uint64_t offset;
    const char *name; /* NULL: a resume-network frame */
    const char *token;
    uint32_t sequence;
    const char *payload; /* may be NULL */
};
struct harness_snapshot {
    const char *id, *kind, *hypervisor, *version;
    uint64_t memory_bytes;
    const struct harness_frame *frames;
    size_t count;
};
void harness_craft(struct harness *h, const struct harness_snapshot *snapshot);

#endif
