/* SPDX-License-Identifier: MIT */
/*
 * entry: how the tree is declared: a table of entries for each directory, and for each file what
 * its type can do. Not the tables themselves, which are in *_files.c, nor what goes through them:
 * node.c through directories, file.c and file_write.c through files.
 *
 * Lock: all functions here are called with objects.lock held, but where it is said.
 */
#ifndef HYPEFS_FS_ENTRY_H
#define HYPEFS_FS_ENTRY_H

#include <sys/stat.h>
#include <sys/types.h>

#include "fs/document.h"
#include "fs/object.h"
#include "util/error.h"
#include "util/json.h"

struct fs;
struct handle;
struct job;
struct waiter;

/* What is at a name: a table's entry of an object, and which, where an entry is many. */
struct place {
    struct object *object;
    const struct entry *entry;
    const struct mailbox_file *mailbox; /* of the object; NULL if there is only one */
};

/* What a file is. A file has `text`, `log` or `stream`; what can be written has `document` or
 * `command`, or both `log` and `command`. */
struct file_type {
    /* Generates the content, of collected files if their document has none. Returns owned, also if
     * it is empty; NULL only without memory. */
    char *(*text)(const struct place *place);
    /* Is it there, and can that be done now? Asked by lookups too, for the size. 0, -ESTALE and
     * others, or FS_LATER with the waiter queued; FS_MUST_WAIT without one. NULL: always. */
    int (*ready)(const struct place *place, struct waiter *waiter);
    bool pollable;

    /* Live: a file of the instance's directory. */
    const char *log;

    /* Lines as they happen, for each open file from its opening on. */
    bool stream;

    /* Collected: where in its object's struct the document is; 0: it has none. */
    size_t document;
    int (*may_write)(const struct place *place);
    /* Is the text acceptable, which is complete and whose object that is? */
    int (*check)(const struct place *place, const char *text, struct json_span object,
                 struct error *err);
    /* A text that is not complete yet comes line by line, or in buffers: a write that stops short
     * of both is refused, because shells ignore the error of the close. */
    bool in_lines;
    /* May wait, so in a job and without the lock: is what such a text names acceptable? Asked of
     * writes. NULL: yes. */
    int (*check_files)(const struct place *place, const char *text, size_t size, struct error *err);
    /* The text takes effect; the document has it already. NULL: that is all. May release the lock
     * meanwhile. */
    int (*apply)(const struct place *place, struct error *err);
    /* `complete`: the text has taken effect. */
    void (*changed)(const struct place *place, bool complete);

    /* Command: one write is one command, of that writer. 0 or -errno at once, or FS_LATER with a
     * job to wait for.
     */
    int (*command)(const struct place *place, const char *text, const struct waiter *by,
                   struct job **ret);
    /* A text that failed is not tried again through the same open file: programs whose write has
     * failed write the same again when they close. */
    bool once;
    /* It takes JSON objects: each is a command, and may come in several writes (file_write.c). */
    bool objects;
    /* It takes a list of words, which may come in several writes (file_write.c). */
    bool list;
};

/* Makes or takes away what is at the name. 0 or -errno. */
typedef int change(const struct place *directory, const char *name, struct error *err);

struct directory {
    const struct entry *entries;
    size_t count;
    bool of_snapshots; /* it has those that are in the store, whoever put them there */
    /* Children that are not in the table. -ENOENT; FS_LATER only with the waiter queued. */
    int (*find)(const struct place *directory, const char *name, struct waiter *waiter,
                struct place *ret);
    int (*list)(const struct place *directory, struct waiter *waiter, struct handle *handle);
    /* mkdir, rmdir, creation and unlink; NULL: EPERM. The text of `err` may be left empty. */
    change *make, *remove, *create, *unlink;
    int (*rename)(const struct place *directory, const char *name,
                  const struct place *new_directory, const char *new_name, unsigned flags,
                  struct error *err);
};

struct entry {
    const char *name; /* NULL: not in a table, its names come from its directory's find and list */
    mode_t mode;
    unsigned char number; /* unique among the entries of an object kind; part of st_ino */
    bool command;         /* every lookup gives a new node */
    bool appears;         /* can be made by other requests than mkdir and creation of the name */
    const struct directory *directory;
    const struct file_type *file;
    void (*link)(const struct place *place, char ret[256]);
    bool (*present)(const struct place *place); /* of the object; NULL: always */
};

ino_t entry_ino(const struct object *object, const struct entry *entry,
                const struct mailbox_file *mailbox);
/* Of a collected file; NULL: it is none. */
struct document *place_document(const struct place *place);
/* Is the text a JSON object, with white space around it? 1; 0: it is not complete so far, and the
 * error says where; -EINVAL: it never becomes one. */
int text_check(const char *text, size_t size, struct json_span *ret, struct error *err);
/* What can be known from that much of a collected file's text. 1: it is complete and acceptable; 0:
 * it is incomplete so far, and the error says where. */
int place_check(const struct place *place, const char *text, size_t size, struct error *err);
/* The content of a file that has `text`. Returns owned; NULL without memory. */
char *place_text(const struct place *place, size_t *ret_size);

#endif
