/* SPDX-License-Identifier: MIT */
/* internal: the structs behind fs.h, shared by the files of fs/ but ops.c. */
#ifndef HYPEFS_FS_INTERNAL_H
#define HYPEFS_FS_INTERNAL_H

#include <pthread.h>
#include <time.h>
#include <uthash.h>

#include "fork/engine.h"
#include "fs/event_ring.h"
#include "fs/fs.h"

enum {
    FS_TEXT_MAX = 16 * 1024,    /* bytes of a collected file */
    FS_SCRATCH_MAX = 64 * 1024, /* bytes of an editor's scratch file */
    FS_STAGED_MAX = 24,         /* files in a draft's mailboxes/ */
    FS_REFUSALS_MAX = 64,       /* lines of the root's `error` */
};

/* What a directory of the tree stands for. Each kind is a struct that begins with this one. */
enum object_kind {
    OBJECT_ROOT = 1,
    OBJECT_SNAPSHOT,
    OBJECT_INSTANCE,
    OBJECT_DRAFT,
    OBJECT_STAGED,
    OBJECT_EVENTS
};

struct object {
    enum object_kind kind;
    unsigned references;
    uint64_t serial; /* unique among its kind, never reused */
    bool removed;
    struct timespec changed;
    void (*destroy)(struct object *object);
    struct marker *markers; /* of snapshots and instances: by name, those that were looked at */
};

/* A mailbox in a memory image, for as long as its object lives. When the image is another one, or
 * scanned anew, the same name is the same file. */
struct marker {
    unsigned number; /* unique in its object; part of st_ino */
    char name[FRAME_NAME_MAX + 1];
    UT_hash_handle hh;
};

/* A collected file's text and marks. */
struct document {
    char *text; /* owned; not NUL-terminated; NULL: never written */
    size_t size;
    bool unfinished; /* begun, and not complete */
    char *refused;   /* owned: why the last text was refused; NULL: it was not */
};

struct draft;

/* What has the directory forks/. */
struct forks {
    struct object *owner; /* a source or a unit; the list is a part of it */
    struct draft *drafts; /* a table by id, in order of creation; the first is "new" */
};

struct source { /* OBJECT_SNAPSHOT */
    struct object object;
    struct forks forks;
    struct fs *fs;
    struct snapshot *snapshot;
    UT_hash_handle hh; /* in fs.sources, by the snapshot's serial */
};

struct unit { /* OBJECT_INSTANCE */
    struct object object;
    struct forks forks;
    struct fs *fs;
    struct instance *instance;
    struct document config; /* only its marks */
    char *error;            /* owned: why the last write to config, state or snapshot failed */
    uint64_t writes, told;  /* how many there were of these, and which of them `error` is of */
    struct job *job;        /* the transition under way; not counted */
    UT_hash_handle hh;
};

struct staged { /* OBJECT_STAGED: a file in a draft's mailboxes/ */
    struct object object;
    struct draft *draft; /* NULL: unlinked */
    char name[256];
    struct document document;
    struct staged *next;
};

struct draft { /* OBJECT_DRAFT: a draft, or the record of a fork */
    struct object object;
    struct forks *forks;       /* counts a reference of its owner */
    char id[STORE_ID_MAX + 1]; /* "new" for the one that is always there */
    struct staged *files;
    struct document options;
    struct document network;
    bool has_network; /* the file was created; in a record: a network was delivered */
    struct job *job;  /* the commit under way; not counted */
    char *failure;    /* owned: why the last commit failed */
    char *note;       /* owned: why something else was refused; until the next change */
    char *result;     /* owned: the text of `result` */
    cJSON *record;    /* of a record: its result */
    char instance[STORE_ID_MAX + 1]; /* of a record, or of the commit under way */
    UT_hash_handle hh;               /* by id */
};

/* What is at a name: a table's entry of an object, and which, where an entry is many. */
struct place {
    struct object *object;
    const struct entry *entry;
    const struct marker *marker; /* of the object; NULL if there is only one */
};

struct node {
    uint64_t id;
    uint64_t lookups;
    struct place place;      /* counts a reference of the object */
    UT_hash_handle hh;       /* in fs.nodes, by id */
    UT_hash_handle hh_place; /* in fs.places, by place; not those of command files */
};

struct handle {
    struct place place; /* counts a reference of the object */
    int flags;          /* of open(2) */
    void *poll;

    /* Generated content: made by the first read and by reads at offset 0. */
    char *content;
    size_t content_size;

    /* `events`: `content` is the lines taken last, which begin at that offset, and how many bytes
     * of it were read. */
    struct event_ring_reader reader;
    off_t content_at;
    size_t served;

    /* Collected files. */
    char *text;
    size_t size;
    bool dirty;
    int refused; /* errno, or 0 */
    pid_t opener_tid, opener_pid;

    /* The job of the last write: of a command file, if waiting for it ended with EINTR; of a
     * collected one while it looks at what the text names. */
    struct job *retry;

    /* Command files: the last text. */
    char command[STORE_ID_MAX + 2];
    int failed; /* of a file_type with `once`: what that text got, or 0 */

    int log_fd;
    struct fs_name *names;
    size_t name_count;
    struct handle *prev, *next; /* in fs.handles */
};

/* A command that takes long, in a thread of its own. */
struct job {
    struct fs *fs;
    unsigned references;
    struct object *object;           /* counted */
    int (*run)(struct job *job);     /* without the lock; returns what the writes get */
    void (*finish)(struct job *job); /* with the lock, before the waiters are answered */
    char text[STORE_ID_MAX + 1];     /* an id or a state */
    char *document;                  /* owned: a collected text, of looks at what it names */
    struct fork_request request;     /* of commits */
    struct fork_outcome outcome;
    enum instance_state target; /* of transitions */
    unsigned wanted;            /* of writes to warm */
    struct place place;         /* of commands that tell of a refusal by themselves: what was */
    pid_t tid;                  /* written, and by which thread */
    uint64_t number;            /* of the last write that waits for it, among its unit's */
    struct error error;
    bool limited;          /* counts for FS_COMMITS_MAX */
    bool queued;           /* a commit that waits for its turn to load */
    bool waiting;          /* one that waits for an ack, and whose instance is there to be seen */
    atomic_bool abandoned; /* it was queued, and nobody waits for it any more */
    bool done;
    int result;
};

/* The lines of the root's `error`, a ring; refusals.c. */
struct refusals {
    char *lines[FS_REFUSALS_MAX]; /* owned, or NULL */
    size_t count;                 /* of all that there ever were */
};

struct fs {
    struct fs_setup setup;
    struct refusals refusals;
    pthread_mutex_t lock;
    struct object root;
    struct object stream; /* `events` */
    pthread_t stream_thread;
    struct node *nodes, *places;
    uint64_t last_node, last_draft, last_staged;
    struct source *sources;
    unsigned vanished; /* of the snapshots' `vanished`: those have no source any more */
    unsigned notes;    /* how often the store's notes had changed when `error` was looked at */
    struct unit *units;
    struct handle *handles;
    int stop_fd; /* eventfd: readable when the daemon stops */
    bool stopping;

    unsigned jobs, commits; /* under way */
    pthread_cond_t no_jobs;
    struct waiter *waiters;    /* all that wait for a job or a scan */
    pthread_cond_t interrupts; /* some waiter's `interrupted` was set, or `stopped` */
    pthread_t interrupt_thread;
    bool stopped;

    /* For fs_unlock(). */
    struct waiter *answers;
    void **wakes;
    size_t wake_count;
};

/* What a file is. A file has `text`, `log` or `stream`; what can be written has `document` or
 * `command`, or both `log` and `command`. */
struct file_type {
    /* Generates the content. Returns owned, also if it is empty; NULL only without memory. */
    char *(*text)(struct fs *fs, const struct place *place, size_t *ret_size);
    /* Can that be done now? Asked by lookups too, for the size. 0, -errno, or FS_LATER with the
     * waiter queued. NULL: always. */
    int (*ready)(struct fs *fs, const struct place *place, struct waiter *waiter);
    bool pollable;

    /* Live: a file of the instance's directory. */
    const char *log;

    /* Lines as they happen, for each open file from its opening on. */
    bool stream;

    /* Collected. */
    struct document *(*document)(const struct place *place);
    int (*may_write)(struct fs *fs, const struct place *place);
    /* Is the complete text (its object's span is given) acceptable? */
    int (*check)(struct fs *fs, const struct place *place, const char *text, size_t size,
                 struct json_span object, struct error *err);
    /* A text that is not complete yet comes line by line, or in buffers: a write that stops short
     * of both is refused, because shells do not look at the error of the close. */
    bool in_lines;
    /* May wait, so in a job and without fs.lock: is what such a text names acceptable? Asked of
     * writes. NULL: yes. */
    int (*look)(struct fs *fs, const char *text, size_t size, struct error *err);
    /* The text takes effect; the document has it already. NULL: that is all. May drop fs.lock. */
    int (*apply)(struct fs *fs, const struct place *place, const char *text, size_t size,
                 struct error *err);
    void (*changed)(struct fs *fs, const struct place *place);

    /* Command: one write is one command. 0 or -errno at once, or FS_LATER with a job to wait for.
     */
    int (*command)(struct fs *fs, const struct place *place, const char *text, pid_t tid,
                   struct job **ret);
    /* A text that failed is not tried again through the same open file: programs whose write has
     * failed write the same again when they close. */
    bool once;
};

/* Makes or takes away what is at the name. 0 or -errno. */
typedef int change(struct fs *fs, const struct place *directory, const char *name,
                   struct error *err);

struct directory {
    const struct entry *entries;
    size_t count;
    /* Called without the lock before anything is done in it: what is not known by memory alone is
     * looked at. May be NULL. */
    void (*refresh)(struct fs *fs);
    /* Children that are not in the table. -ENOENT; FS_LATER only with the waiter queued. */
    int (*find)(struct fs *fs, const struct place *directory, const char *name,
                struct waiter *waiter, struct place *ret);
    int (*list)(struct fs *fs, const struct place *directory, struct waiter *waiter,
                struct handle *handle);
    /* mkdir, rmdir, creation and unlink; NULL: EPERM. The text of `err` may be left empty. */
    change *make, *remove, *create, *unlink;
    int (*rename)(struct fs *fs, const struct place *directory, const char *name,
                  const struct place *new_directory, const char *new_name, unsigned flags,
                  struct error *err);
};

struct entry {
    const char *name; /* NULL: not in a table, its names come from its directory's find and list */
    mode_t mode;
    unsigned char number; /* unique among the entries of an object kind; part of st_ino */
    bool command;         /* every lookup gives a new node */
    const struct directory *directory;
    const struct file_type *file;
    void (*link)(const struct place *place, char ret[256]);
    bool (*present)(const struct place *place); /* NULL: always */
};

/* fs.c */
void fs_lock(struct fs *fs);
void fs_unlock(struct fs *fs);
void object_init(struct object *object, enum object_kind kind, uint64_t serial,
                 void (*destroy)(struct object *object));
struct object *object_ref(struct object *object);
void object_unref(struct object *object);
/* mtime, and whoever polls a file of the object. */
void fs_changed(struct fs *fs, struct object *object);
/* The tree's objects of what is in the store; borrowed. ENOENT: there is none; ENOMEM. */
int fs_source(struct fs *fs, const char *id, struct source **ret);
int fs_unit(struct fs *fs, const char *id, struct unit **ret);
/* They are removed: what is open of them gives ENODEV. Does nothing the second time. */
void fs_forget_source(struct fs *fs, struct source *source);
void fs_forget_unit(struct fs *fs, struct unit *unit);
/* The same of the instance with that serial, if anybody has seen it. */
void fs_forget_instance(struct fs *fs, uint64_t serial);

/* The tables: *_files.c */
extern const struct entry root_entry, snapshot_entry, instance_entry, marker_entry, draft_entry,
    staged_entry;

/* node.c */
void node_drop(struct fs *fs, struct node *node);
/* Adds one name to a listing. */
int listing_add(struct handle *handle, const char *name, const struct object *object,
                const struct entry *entry, const struct marker *marker);

/* For fs_create(): makes the file if it is not there (with O_EXCL it must not be). */
int fs_create_node(struct fs *fs, uint64_t parent, const char *name, int flags, pid_t tid,
                   uint64_t *ret_node, struct stat *ret);
/* Locks; -ENODEV if the node's object is removed. Counts a reference; place_give() undoes both. */
int place_take(struct fs *fs, uint64_t node, struct place *ret);
void place_give(struct fs *fs, struct place *place);

/* file.c */
/* The handle is of that place, counted, and in fs.handles. */
void handle_register(struct fs *fs, struct handle *handle, const struct place *place);
/* The outcome of the command that was written to the handle. */
void command_ended(struct handle *handle, int result);
/* A part of the handle's content, as a read's answer. */
int content_give(const struct handle *handle, size_t at, size_t size, char **ret, size_t *ret_size);

/* The process of a thread; 0 if that cannot be known. */
pid_t process_of(pid_t tid);

/* What a commit says of a file that is refused: directory, name, reason. */
#define FS_REFUSED "%s%s was refused (%s)"

/* refusals.c */
struct refusal {
    const char *operation;         /* "mkdir" */
    const struct place *directory; /* of what the operation was refused, */
    const char *name;              /* and its name there */
    pid_t tid;                     /* of the caller; 0: nobody knows */
};
/* Keeps the reason where it can be read: a line of the root's `error`, and the `error` of the draft
 * or instance in which the directory lies. Returns -err->code. */
int refusal_tell(struct fs *fs, const struct refusal *refusal, struct error *err);
char *refusals_text(struct fs *fs, const struct place *place, size_t *ret_size);
void refusals_finish(struct refusals *refusals);

/* instance_files.c: what the instance's `error` says from now on. */
void unit_note(struct fs *fs, struct unit *unit, const char *text);

/* document.c */
void document_finish(struct document *document);
void document_refuse(struct document *document, const char *why);
void document_mend(struct document *document);
int document_set(struct document *document, const char *text, size_t size);
/* The object is removed: what its open files hold is nobody's any more. */
void handles_wipe(struct fs *fs, const struct object *object);
/* Is it the name of a file that an editor has for itself, and that is not delivered? */
bool draft_scratch_name(const char *name);
/* O_TRUNC, truncation to 0; a file that was just created is like this too. */
int document_begin(struct document *document);
/* The open file stays refused until it is truncated to 0. Returns -err->code. */
int handle_refuse(struct fs *fs, struct handle *handle, const struct error *err);
/* Begins the file type's `look` at what the handle has collected. FS_LATER, or -errno. */
int document_look(struct fs *fs, struct handle *handle, struct waiter *waiter, struct error *err);
/* The text that was looked at has changed. */
void document_forget_look(struct handle *handle);
/* The text is to count: EINTR if a look at it has not ended, as after a write that got that. */
int document_end_look(struct handle *handle, struct error *err);
/* Does a write end neither at the end of a line nor at that of a program's buffer? */
bool document_stops_short(const char *bytes, size_t size);

/* job.c */
int jobs_open(struct fs *fs, struct error *err);
void jobs_close(struct fs *fs);
/* Starts job->run in a thread. EAGAIN, ESHUTDOWN. Takes the job (one reference). */
int job_start(struct job *job, struct error *err);
struct job *job_create(struct fs *fs, struct object *object);
struct job *job_ref(struct job *job);
void job_unref(struct job *job);
/* Lets the waiter wait for the job. */
void job_wait(struct fs *fs, struct job *job, struct handle *handle, struct waiter *waiter);
/* With the lock held: does a write wait for it? */
bool job_is_awaited(const struct fs *fs, const struct job *job);
void scan_wait(struct fs *fs, struct waiter *waiter);
/* Lets the waiter wait for a line of `events`. */
void stream_wait(struct fs *fs, struct handle *handle, struct waiter *waiter);
/* With the lock held: all that wait for the job (NULL: for scans) are answered. */
void waiters_answer(struct fs *fs, const struct job *job, int result);
/* The same for those that wait for a line: they look again. */
void readers_answer(struct fs *fs);

/* stream.c */
int stream_start(struct fs *fs, struct error *err);
/* With the lock held: readers get what there is, and then the end. */
void stream_end(struct fs *fs);
void stream_join(struct fs *fs);
void stream_open(struct fs *fs, struct handle *handle);
int stream_read(struct fs *fs, struct handle *handle, size_t size, off_t offset,
                struct waiter *waiter, char **ret, size_t *ret_size);
unsigned stream_readiness(struct fs *fs, const struct handle *handle);
/* Of the root, whose table has all but `events`. */
int root_find(struct fs *fs, const struct place *directory, const char *name, struct waiter *waiter,
              struct place *ret);
int root_list(struct fs *fs, const struct place *directory, struct waiter *waiter,
              struct handle *handle);

/* draft.c */
/* NULL without memory. */
struct draft *draft_create(struct fs *fs, struct forks *forks, const char *id);
void draft_destroy(struct object *object);
struct draft *draft_find(const struct forks *forks, const char *id);
/* Takes it out of its list; what is open of it gives ENODEV. */
void draft_remove(struct fs *fs, struct draft *draft);
struct staged *draft_file(struct draft *draft, const char *name);
struct staged *draft_add_file(struct fs *fs, struct draft *draft, const char *name);
void draft_drop_file(struct fs *fs, struct staged *file);
void draft_drop_network(struct draft *draft);
/* Something was staged anew: the last commit's failure is history. */
void draft_touched(struct fs *fs, struct draft *draft);
/* Something else than a commit was refused, and only the errno gets to the user: `error` tells why.
 * Returns -err->code. */
int draft_note(struct fs *fs, struct draft *draft, const struct error *err);
const char *draft_status(const struct draft *draft);
/* Has a commit of `new` dropped what was staged, and nothing been staged since? */
bool draft_is_emptied(const struct draft *draft);
/* The record of a fork that lies in the store, if it has one. ENOMEM: some of it may be there. */
int draft_load_record(struct fs *fs, struct forks *forks, struct instance *instance);
/* Does one of them commit? */
bool forks_busy(const struct forks *forks);
/* -EBUSY while it commits, -EPERM as a record. */
int draft_writable(const struct draft *draft);
int draft_commit(struct fs *fs, const struct place *place, const char *text, pid_t tid,
                 struct job **ret);

/* snapshot_files.c */
void markers_free(struct object *object);
/* What somebody has vouched for last, of a snapshot or an instance in standby. */
char *accept_text(struct fs *fs, const struct place *place, size_t *ret_size);
/* The entry `network` of a directory with a memory image. */
int network_find(struct fs *fs, const struct place *directory, const char *name,
                 struct waiter *waiter, struct place *ret);
int network_list(struct fs *fs, const struct place *directory, struct waiter *waiter,
                 struct handle *handle);

/* The directories that the tables of other files name. */
extern const struct directory snapshots_directory, instances_directory, forks_directory,
    markers_directory;

#endif
