/* SPDX-License-Identifier: MIT */
/*
 * instance: VMs with a life, from mkdir or a fork to rmdir.
 *
 *     created ─┬─► running ◄───► paused
 *     stopped ─┘      ▲             │
 *                     └─► standby ◄─┘        and from each of them ──► stopped
 *
 * A fork whose ack may be waited for for long is waiting until then: everybody sees it, and its
 * commit owns it (busy). In the store it is still hidden, so a daemon that is killed leaves nothing
 * of it.
 *
 * instance.json: version, id, state, created_at, hypervisor, config (the text as written),
 * machine (recorded by boot or taken from the snapshot), source, vmm (pid, start time, boot id: to
 * find it again), exit, intent (what was being done with it; there only meanwhile). fork.json, of a
 * fork only: what its draft was and what became of it.
 *
 * Locks: instances.lock guards the table and every member of struct instance that is not constant.
 * While `busy` is set one thread, that of the transition, owns vmm and the instance's files; it
 * runs without the lock. Lock order: fs/ before instances.lock before snapshots.lock. `on_change`
 * is called without any lock.
 */
#ifndef HYPEFS_INSTANCE_INSTANCE_H
#define HYPEFS_INSTANCE_INSTANCE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "hypervisor/hypervisor.h"
#include "instance/limits.h"
#include "instance/turns.h"
#include "store/snapshot.h"
#include "store/store.h"

enum instance_state {
    INSTANCE_CREATED,
    INSTANCE_RUNNING,
    INSTANCE_PAUSED,
    INSTANCE_STANDBY,
    INSTANCE_STOPPED,
    INSTANCE_WAITING, /* never on record, and no word that is written */
    INSTANCE_STATES
};
extern const char *const instance_state_names[INSTANCE_STATES + 1]; /* ends with NULL */

/* What its owner is about to do with a VM that is to run afterwards, on record before it begins. */
enum instance_intent {
    INTENT_NONE,
    INTENT_PAUSE,
    INTENT_RESUME,
    INTENT_STANDBY,
    INTENT_COPY,
    INTENT_RESTORE,
    INTENTS
};

/* What a fork was made of, when it was made. */
struct instance_source {
    enum store_kind kind;
    char id[STORE_ID_MAX + 1]; /* "": of what is no fork */
    char uuid[33];
};
enum { INSTANCE_SOURCE_PATH_SIZE = STORE_ID_MAX + 16 };
/* As the tree names it: "snapshots/base". */
void instance_source_path(const struct instance_source *source,
                          char ret[INSTANCE_SOURCE_PATH_SIZE]);

struct instances;
struct transit;
struct instance_file {
    struct file_id id;
    bool written;
};

/* Its logs: files of its directory, and their names in the tree. */
enum instance_log_kind { INSTANCE_CONSOLE, INSTANCE_VMM_LOG, INSTANCE_LOGS };
extern const struct instance_log {
    const char *name, *shown;
} instance_logs[INSTANCE_LOGS];

struct instance {
    struct instances *table;
    unsigned references;
    uint64_t serial; /* unique in this process, never reused */
    char uuid[33];   /* tells it from a later one of the same id, for forks of it */
    char id[STORE_ID_MAX + 1];
    char created_at[STORE_TIME_SIZE];
    int entry_fd;        /* its directory, which is the daemon's: records and logs. The owner's; -1
                            while there is neither owner nor VMM, or the id is only reserved */
    struct image *image; /* owned; its directory_fd is where the VMM works: the directory "run" in
                            that one, or the same (store_open_run); NULL likewise */
    bool has_run;        /* not the same */
    struct file_id directory; /* the entry */

    atomic_bool unsynced;  /* the disk may not have it yet (unsynced.c), */
    double unsynced_at_ms; /* since then */

    bool published; /* false: the id is only reserved, or a fork withdrawn; nobody sees it */
    bool removed;
    int vanished; /* at the last look at the store its directory was not there: -errno of
                     store_entry_check(); else 0 (vanished.c) */
    bool busy;
    bool changing;  /* busy, and its owner is about to change the state */
    bool recording; /* busy, but in its new state: only recording that; who wants it waits */
    int cancel_fd;  /* eventfd of the transition under way, or -1; readable when `cancelled` */
    atomic_bool cancelled;
    unsigned stops, stoppers; /* writes of stopped so far, and those of them that wait for the
                                 transition under way to end */
    enum instance_state state;
    enum instance_intent intent; /* one that did not come to its end, or is under way */
    char *recorded;              /* instance.json as it was written last; NULL: not known */
    char *config;                /* as written; NULL: never written */
    struct machine machine;
    struct transit
        *ending;     /* owned; what goes on when its VMM, which was killed, has ended; or NULL */
    struct vmm *vmm; /* while there is a process */
    char taps[MACHINE_INTERFACES_MAX][MACHINE_TAP_MAX + 1]; /* that are its own now (taps.c) */
    size_t tap_count;
    bool has_vm; /* one of --max-vms (limits.h): from before its VMM starts until that has ended */
    struct instance_file *files; /* owned; of disks, those that are not frozen (disks.c) */
    size_t file_count;
    bool loaded;                    /* the VMM maps the file "base", rather than share "memory" */
    struct image_index *base_index; /* of "base", as long as that is mapped; NULL: not known. With
                                       the table's lock */
    unsigned life;                  /* how many VMs it has had: the same in another VMM (live.h) */
    unsigned ended_life;            /* of the last one that did not end by itself */
    struct image_index *list;       /* frames that a search of its memory has found; or NULL */
    double listed_at_ms;            /* and when */
    struct instance_turn *turns;    /* deliveries under way or waiting, at any mailbox */
    cJSON *delivered, *lasts;       /* by mailbox: the record of its last delivery, and what became
                                       of that; or NULL */
    struct snapshot *mapped;        /* of which that is the memory; a user of it */
    struct instance_source source;
    bool logs_grew;                /* a VMM was there at the last look at its logs (logs.c) */
    bool shortened[INSTANCE_LOGS]; /* or could not be, which was told */
    struct instance_pause {
        double ms; /* that the VM stood still, the last time that it was saved and went on; 0: it
                      was not, in this daemon's life */
        bool switched; /* to another VMM, and not copied */
    } last_pause;
    bool cannot_switch; /* an attempt has failed since it was booted */
    struct vmm_exit exit;
    char exit_at[STORE_TIME_SIZE];
    cJSON *fork;                            /* fork.json; constant; NULL unless a fork */
    UT_hash_handle hh;                      /* in the table, by id */
    struct instance *prev_fork, *next_fork; /* in the table, by source; of published forks */
};

/* What happened to an instance, at the moment from which others can see it. */
enum instance_event {
    INSTANCE_MADE,      /* by mkdir or a fork */
    INSTANCE_STATE,     /* its state is another than `from` */
    INSTANCE_VMM_ENDED, /* by itself; the state follows */
    INSTANCE_REMOVED,
    INSTANCE_CONSOLE_CUT, /* for the first time in the daemon's life */
    INSTANCE_LOG_CUT,     /* the same of vmm.log */
};

/* What the mount was told about VMMs and whom to tell about changes. Borrowed. */
struct instances_setup {
    const struct store *store;
    struct snapshots *snapshots;
    struct vmm_programs *programs;
    struct turns *turns; /* how many VMMs start or load at once; NULL: no limit */
    struct instance_limits limits;
    const struct vmm_binary *binaries; /* for hypervisors not among them: NULL */
    size_t binary_count;
    const struct vmm_confine *confine; /* NULL: VMMs are not shut in */
    void (*on_change)(void *context, const char *id); /* NULL: the store's notes (notes.h) */
    void (*warn)(void *context, const char *text);
    /* Others took its directory out of the store, and nothing of it runs: it is to be removed by
     * instance_remove_vanished(). Called again until it is. NULL: nobody removes it. */
    void (*on_vanished)(void *context, const char *id, uint64_t serial);
    /* Snapshots may have come to the store or gone from it. NULL: nobody is told. */
    void (*on_snapshots)(void *context);
    void *context;
    /* Called with the lock held, so that what is told comes in the order in which it happened: may
     * read the instance, takes no lock of fs/ or here. NULL: nobody is told. */
    void (*on_event)(void *listener, const struct instance *instance, enum instance_event what,
                     enum instance_state from);
    void *listener;
};

enum { INSTANCE_FORK_LISTS = 1024 };

struct instances {
    struct instances_setup setup;
    pthread_mutex_t lock;
    pthread_cond_t idle; /* some instance's busy became false, or `recovering` less */
    struct instance *by_id;
    struct instance *forks[INSTANCE_FORK_LISTS]; /* instance_forks() */
    uint64_t last_serial;
    bool stopping;
    bool syncing;                      /* a thread does (unsynced.c) */
    unsigned recovering;               /* threads that recover VMs (instances.c) */
    int epoll_fd, stop_fd, inotify_fd; /* of the watch (watch.c); inotify_fd may be -1 */
    pthread_t watch;
    bool watched;           /* that thread runs; the next two are its own (vanished.c) */
    struct store_seen seen; /* of instances/ in the store */
    bool check_vanished;    /* also if nothing has changed there */
};

/* Writes a sentence to the daemon's log. Any lock may be held. */
void instances_warn(const struct instances *instances, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Loads all, finds the VMMs that run, begins to watch them. */
int instances_open(const struct instances_setup *setup, struct instances *ret, struct error *err);
/* Ends every transition under way with ESHUTDOWN and refuses new ones. VMs run on. */
void instances_stop(struct instances *instances);
/* After that: returns when no thread of the table runs any more that could call what is in its
 * setup. */
void instances_join(struct instances *instances);
void instances_close(struct instances *instances);

/* Returns a reference, or NULL. Only what is published. */
struct instance *instances_find(struct instances *instances, const char *id);
struct instance *instance_ref(struct instance *instance);
void instance_unref(struct instance *instance);

/* The ids, each with its serial, of all that are published; or of the forks of the snapshot or
 * instance with that uuid. Returns owned (free), NULL without memory. */
struct snapshot_name *instances_list(struct instances *instances, const char *source_uuid,
                                     size_t *ret_count);

/* Takes the id for an instance that nobody sees yet, and in one step the taps of the machine that
 * it is to run (NULL: none yet). EINVAL, EEXIST; EBUSY, naming the tap and who has it. Returns a
 * reference. */
int instances_reserve(struct instances *instances, const char *id, const struct machine *machine,
                      struct instance **ret, struct error *err);
/* Gives the id and the taps back, if it was not published, and the reference. */
void instance_abandon(struct instance *instance);

/* mkdir: an instance in state created. */
int instances_create(struct instances *instances, const char *id, struct error *err);

/* What a fork's engine hands over when the fork has succeeded. */
struct instance_fork {
    struct store_entry *entry; /* taken when it succeeds */
    struct vmm **vmm;          /* taken when it succeeds; NULL in it: the fork is in standby */
    struct machine *machine;   /* taken when it succeeds */
    struct snapshot *mapped;   /* whose memory the VMM maps, or NULL; borrowed; the caller's use of
                                  it becomes the instance's */
    struct image_index *index; /* of the image that the VM was loaded from; borrowed */
    struct instance_source source;
    cJSON **record; /* fork.json; taken when it succeeds */
};
/* Shows a reserved instance as waiting. All of `fork` but `record` counts, and is only lent until
 * it is published or withdrawn. A write of stopped makes its cancel_fd readable. */
int instance_show_fork(struct instance *instance, const struct instance_fork *fork,
                       struct error *err);
/* One that waits is seen no more, its VMM is the caller's alone, and the machine, which somebody
 * may still look at, becomes the instance's. False: of any other, or NULL, does nothing. */
bool instance_withdraw_fork(struct instance *instance, struct machine *machine);
/* What a daemon that starts has removed, in words: the directory of an instance that an earlier one
 * had not published when it was killed. False: whose it was is not known. */
bool instance_describe_unfinished(enum store_kind kind, int directory_fd, struct error *ret);
/* Publishes a reserved instance, or one that waits. */
int instance_publish_fork(struct instance *instance, struct instance_fork *fork, struct error *err);

/* Where a VMM runs, in that directory, with its logs in the other and the setup's programs. `id` is
 * borrowed, and NULL of a VMM that is of no instance yet. */
struct vmm_context instances_context(const struct instances *instances, const char *id,
                                     const struct hypervisor *hypervisor, int directory_fd,
                                     int entry_fd, int cancel_fd);

/* The config's text, as written or with all defaults. Returns owned. */
char *instance_config(struct instance *instance);
/* EBUSY unless created or stopped, ENODEV. */
int instance_check_config_writable(struct instance *instance, struct error *err);
int instance_set_config(struct instance *instance, const char *text, size_t size,
                        struct error *err);

/* Each log in that directory, which is the instance's or will be, is kept to `max` bytes; what
 * fails is a warning. For a fork that is not published; of all others the table sees to
 * it. */
void instance_shorten_logs(struct instance *instance, int directory_fd, uint64_t max);
/* What its guest wrote so far goes. */
int instance_empty_console(struct instance *instance, struct error *err);

/* A descriptor of its directory, for the caller to close. Any thread. */
int instance_open_entry(const struct instance *instance, struct error *err);

enum instance_state instance_state(struct instance *instance);

/* Blocks until the instance is there, which that user asks for. ENOMEM, EAGAIN: limits.h. EINVAL no
 * such transition, EOPNOTSUPP not supported, EBUSY another one is under way, ECANCELED ended by
 * "stopped", ESHUTDOWN, EIO. */
int instance_change(struct instance *instance, enum instance_state target, uid_t user,
                    struct error *err);
/* Publishes a snapshot of an instance that is running (it is paused for as long as the copy takes),
 * paused or in standby. Blocks. Errors as before; EINVAL in other states, EEXIST. */
int instance_snapshot(struct instance *instance, const char *id, struct error *err);
/* Somebody accepts the image and the disks of one in standby, or the disks of one that is stopped,
 * as they are now. Blocks. EINVAL in other states, EBUSY, EIO. */
int instance_accept(struct instance *instance, struct error *err);
/* The same of a snapshot's image and disks. EIO: a file is not there, or the image has another size
 * than the machine's memory. A failure goes to the log, too. */
int snapshot_accept(struct snapshot *snapshot, struct error *err);

/* EOPNOTSUPP: it cannot be forked in its state, or only if asked to be copied while it runs. */
int instance_check_fork(struct instance *instance, bool from_running, struct error *err);
/* What snapshot.json would say of it now. Returns owned. */
cJSON *instance_describe(struct instance *instance);
/* A snapshot of it that nobody else sees, for one fork: snapshots_make_private(). Waits for a
 * transition under way, blocks. */
int instance_snapshot_private(struct instance *instance, bool from_running,
                              struct store_entry *entry, struct snapshot **ret, struct error *err);
/* EBUSY while a fork of it has an overlay over its disks. */
int instances_check_overlays(struct instances *instances, struct snapshot *snapshot,
                             struct error *err);
/* rmdir. EBUSY unless created, standby or stopped, and if another directory lies in the store. */
int instance_remove(struct instance *instance, struct error *err);
/* The same of one whose directory others took out of the store, and nothing in that is touched.
 * EEXIST: it is there again; EBUSY: another one is. */
int instance_remove_vanished(struct instance *instance, struct error *err);

/* The text of `info`. Returns owned. */
char *instance_info(struct instance *instance);
/* Puts into `ret` which signal has ended its VMM, if that was by itself and for lack of memory or
 * room, so that neither vmm.log nor a write that waited tells; else false. */
bool instance_describe_end(struct instance *instance, struct error *ret);
/* Its member `exit`: for on_event(). Returns owned. */
cJSON *instance_exit(const struct instance *instance);

#endif
