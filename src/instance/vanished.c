/* SPDX-License-Identifier: MIT */
/*
 * vanished: instances whose directory others took out of the store (rm -r, mv). Once a second the
 * watch looks, if something has come to that folder of the store or gone from it since. Those of
 * which nothing runs are removed; of those that run it is told, and of those in whose place another
 * directory lies, which is never touched.
 */
#include <errno.h>
#include <string.h>

#include "instance/internal.h"
#include "store/notes.h"

/* With the lock held. Who is busy is looked at later, and who waits for an ack is hidden yet. */
static int check(const struct instance *instance, struct error *err)
{
    int r = instance->published && !instance->busy
                ? store_entry_check(instance->table->setup.store, STORE_INSTANCES, instance->id,
                                    instance->directory, err)
                : 0;
    return r == -ENOENT || r == -EBUSY ? r : 0;
}

/* With the lock held. */
static void warn(const struct instance *instance, const struct error *why)
{
    if (why->code != ENOENT)
        instances_warn(instance->table, "%s", why->text);
    else
        instances_warn(instance->table,
                       "the directory of the instance %s was taken out of the store while its VM "
                       "runs: put it back (mv), or write stopped to its state, which ends the VM "
                       "and removes the instance",
                       instance->id);
}

/* Those of which nothing runs. Returns owned, NULL if there is none. */
static struct snapshot_name *find_all(struct instances *table, size_t *ret_count)
{
    size_t count = 0;
    struct error why;
    table->check_vanished = false;
    pthread_mutex_lock(&table->lock);
    struct snapshot_name *names = calloc(HASH_COUNT(table->by_id) + 1, sizeof *names);
    for (struct instance *i = table->by_id; i && names; i = i->hh.next) {
        int r = check(i, &why);
        if (r == -ENOENT && !i->vmm) {
            memcpy(names[count].id, i->id, sizeof i->id);
            names[count++].serial = i->serial;
        } else if (r < 0 && r != i->vanished) {
            warn(i, &why);
        }
        i->vanished = r;
        table->check_vanished = table->check_vanished || r < 0 || i->busy;
    }
    pthread_mutex_unlock(&table->lock);
    *ret_count = count;
    return names;
}

/* Of what could not be shown, and is not there any more. */
static void tidy_notes(struct instances *table)
{
    const struct store *store = table->setup.store;
    unsigned before = store_notes_changes(store->notes);
    store_notes_tidy(store, STORE_INSTANCES);
    if (store_notes_changes(store->notes) != before)
        table->setup.on_change(table->setup.context, NULL);
}

void instances_find_vanished(struct instances *table)
{
    size_t count;
    bool changed = store_may_have_changed(table->setup.store, STORE_INSTANCES, &table->seen);
    if (changed)
        tidy_notes(table);
    if (!table->setup.on_vanished || (!changed && !table->check_vanished))
        return;
    auto_free struct snapshot_name *names = find_all(table, &count);
    for (size_t i = 0; names && i < count; i++)
        table->setup.on_vanished(table->setup.context, names[i].id, names[i].serial);
}
