/* SPDX-License-Identifier: MIT */
#include "fs/object.h"

#include <stdio.h>
#include <stdlib.h>
#include <utlist.h>

#include "util/cleanup.h"
#include "util/thread.h"

void objects_lock(struct objects *objects)
{
    pthread_mutex_lock(&objects->lock);
}

void objects_names_only(struct objects *objects)
{
    objects->names_only = true;
}

void objects_unlock(struct objects *objects)
{
    struct deferred *all = steal_pointer(objects->deferred);
    const bool names_only = objects->names_only;
    objects->names_only = false;
    pthread_mutex_unlock(&objects->lock); /* they may be gone, when the last job has unlocked */
    if (!names_only)
        thread_wipe_stack();
    while (all) {
        struct deferred *deferred = all;
        DL_DELETE(all, deferred);
        deferred->run(deferred);
    }
}

void objects_defer(struct objects *objects, struct deferred *deferred)
{
    DL_APPEND(objects->deferred, deferred);
}

void objects_defer_first(struct objects *objects, struct deferred *deferred)
{
    DL_PREPEND(objects->deferred, deferred);
}

void object_init(struct object *object, struct objects *objects, enum object_kind kind,
                 uint64_t serial, void (*destroy)(struct object *object))
{
    *object = (struct object){
        .objects = objects, .kind = kind, .references = 1, .serial = serial, .destroy = destroy};
    clock_gettime(CLOCK_REALTIME, &object->changed);
    object->listed = object->changed;
}

struct object *object_ref(struct object *object)
{
    object->references++;
    return object;
}

void object_unref(struct object *object)
{
    struct mailbox_file *mailbox, *next;
    if (!object || --object->references > 0)
        return;
    HASH_ITER (hh, object->mailboxes, mailbox, next) {
        HASH_DEL(object->mailboxes, mailbox);
        free(mailbox);
    }
    if (object->destroy)
        object->destroy(object);
}

void object_remove(struct object *object)
{
    object->removed = true;
    object_changed(object);
    object->objects->end_nodes(object);
}

struct wake {
    struct deferred deferred;
    void (*wake)(void *poll);
    void *poll;
};

static void run_wake(struct deferred *deferred)
{
    struct wake *wake = (struct wake *)deferred;
    wake->wake(wake->poll);
    free(wake);
}

void object_changed(struct object *object)
{
    object_touched(object);
    object->listed = object->changed;
    object->objects->expire_nodes(object);
}

void object_touched(struct object *object)
{
    struct poller *poller;
    clock_gettime(CLOCK_REALTIME, &object->changed);
    DL_FOREACH (object->pollers, poller) {
        struct wake *wake = poller->poll ? malloc(sizeof *wake) : NULL;
        if (!wake)
            continue; /* without memory, the next change tries again */
        *wake =
            (struct wake){{.run = run_wake}, object->objects->wake, steal_pointer(poller->poll)};
        objects_defer(object->objects, &wake->deferred);
    }
}

const struct mailbox_file *object_mailbox_file(struct object *object, const char *name)
{
    struct mailbox_file *mailbox;
    HASH_FIND_STR(object->mailboxes, name, mailbox);
    if (mailbox || !(mailbox = calloc(1, sizeof *mailbox)))
        return mailbox;
    mailbox->number = HASH_COUNT(object->mailboxes);
    snprintf(mailbox->name, sizeof mailbox->name, "%s", name);
    HASH_ADD_STR(object->mailboxes, name, mailbox);
    if (!mailbox->hh.tbl)
        free(steal_pointer(mailbox));
    return mailbox;
}
