/* SPDX-License-Identifier: MIT */
#include "store/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "store/notes.h"
#include "store/snapshot_entry.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/thread.h"

/* An entry that could not be read: a copy that is not complete yet, say. */
struct snapshot_unread {
    char id[STORE_ID_MAX + 1];
    struct store_seen directory, record; /* the entry, and its snapshot.json, before that */
    UT_hash_handle hh;
};

static void snapshot_free(struct snapshot *snapshot)
{
    if (!snapshot)
        return;
    image_unref(snapshot->image);
    cJSON_Delete(snapshot->json);
    cJSON_Delete(snapshot->former);
    free(snapshot);
}

/* snapshot.json, checked for what every snapshot must have. */
static int interpret(struct snapshot *snapshot, struct error *err)
{
    const cJSON *json = snapshot->json;
    const cJSON *memory = json_get(json, "memory_bytes");
    const char *uuid = json_get_text(json, "uuid");
    int r = snapshot_check_version(json, err);
    if (r < 0)
        return r;
    if (!cJSON_IsNumber(memory) || memory->valuedouble < 1 || memory->valuedouble > 0x1p53)
        return error_set(err, EINVAL, "snapshot.json: \"memory_bytes\" is not a size");
    snapshot->memory_bytes = (uint64_t)memory->valuedouble;
    if (!uuid || strlen(uuid) != sizeof snapshot->uuid - 1)
        return error_set(err, EINVAL, "snapshot.json: \"uuid\" is not 32 characters");
    memcpy(snapshot->uuid, uuid, sizeof snapshot->uuid);
    if (!json_get_text(json, "kind") || !json_get_text(json, "hypervisor") ||
        !json_get_text(json, "created_at"))
        return error_set(err, EINVAL,
                         "snapshot.json: \"kind\", \"hypervisor\" or \"created_at\" is missing");
    return 0;
}

/* Takes the directory's descriptor. */
static int load(struct snapshots *table, const char *id, int directory_fd, struct snapshot **ret,
                struct error *err)
{
    auto_close int fd = directory_fd;
    struct stat st = {0};
    struct snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (!snapshot)
        return error_set(err, ENOMEM, "out of memory");
    *snapshot = (struct snapshot){.table = table, .references = 1};
    strncpy(snapshot->id, id, sizeof snapshot->id - 1);
    fstat(fd, &st);
    snapshot->directory = file_id_of(&st);
    int r = store_read_json(fd, "snapshot.json", &snapshot->json, err);
    if (r == 0)
        r = image_create(steal_fd(&fd), "snapshots", id, &table->scans, &snapshot->image, err);
    if (r == 0)
        r = interpret(snapshot, err);
    if (r < 0) {
        snapshot_free(snapshot);
        return error_prefix(err, r, "snapshot %s", id);
    }
    *ret = snapshot;
    return 0;
}

/* With the lock held. */
static void tell(struct snapshots *table, const struct snapshot *snapshot, bool removed)
{
    if (table->happened)
        table->happened(table->listener, snapshot->id, removed);
}

static int insert(struct snapshots *table, struct snapshot *snapshot, struct error *err)
{
    pthread_mutex_lock(&table->lock);
    snapshot->serial = ++table->last_serial;
    HASH_ADD_STR(table->by_id, id, snapshot);
    bool added = snapshot->hh.tbl;
    if (added)
        tell(table, snapshot, false);
    pthread_mutex_unlock(&table->lock);
    atomic_fetch_add(&table->changes, 1);
    if (added)
        store_notes_remove(table->store->notes, STORE_SNAPSHOTS, snapshot->id);
    return added ? 0 : error_set(err, ENOMEM, "out of memory");
}

static bool is_known(struct snapshots *table, const char *id)
{
    struct snapshot *snapshot;
    auto_lock(&table->lock);
    HASH_FIND_STR(table->by_id, id, snapshot);
    return snapshot != NULL;
}

/* With `refreshing` held: loads that id, unless it is in the table. 0 too if it was just removed.
 */
static int take_in(struct snapshots *table, const char *id, struct error *err)
{
    struct snapshot *snapshot;
    if (is_known(table, id))
        return 0;
    int fd = store_open_entry(table->store, STORE_SNAPSHOTS, id, err);
    int r = fd < 0 ? fd : load(table, id, fd, &snapshot, err);
    if (r < 0)
        return fd == -ENOENT ? 0 : r;
    if (table->open)
        snapshot_entry_tell_undelivered(id, snapshot->json, table->warn, table->context);
    else /* the daemon starts: nobody writes to its list yet */
        store_tidy_entry(snapshot->image->directory_fd);
    image_rest(snapshot->image, table->store->kind_fd[STORE_SNAPSHOTS]);
    r = insert(table, snapshot, err);
    if (r < 0)
        snapshot_free(snapshot);
    return r < 0 ? error_prefix(err, r, "snapshot %s", id) : 0;
}

/* The same failure is told once, however often the store is read. */
static void complain_once(struct snapshots *table, const char *name, struct error *why)
{
    if (store_notes_unread(table->store->notes, STORE_SNAPSHOTS, name, why))
        table->warn(table->context, why->text);
}

/* May what is in the entry be another than before? */
static bool has_changed(const struct snapshots *table, struct snapshot_unread *unread)
{
    const int kind_fd = table->store->kind_fd[STORE_SNAPSHOTS];
    char path[STORE_ID_MAX + sizeof "/snapshot.json"];
    struct stat directory = {0}, record = {0};
    snprintf(path, sizeof path, "%s/snapshot.json", unread->id);
    fstatat(kind_fd, unread->id, &directory, AT_SYMLINK_NOFOLLOW);
    fstatat(kind_fd, path, &record, AT_SYMLINK_NOFOLLOW);
    bool changed = store_seen_changed(&unread->directory, &directory);
    return store_seen_changed(&unread->record, &record) || changed;
}

/* Without memory it is read again when the store's directory changes. */
static void keep_unread(struct snapshots *table, const struct snapshot_unread *unread)
{
    struct snapshot_unread *kept = malloc(sizeof *kept);
    if (!kept)
        return;
    *kept = *unread;
    HASH_ADD_STR(table->unread, id, kept);
    if (!kept->hh.tbl)
        free(kept);
}

static void read_entry(struct snapshots *table, const char *id)
{
    struct error why = {0};
    struct snapshot_unread unread = {0};
    if (is_known(table, id))
        return;
    strncpy(unread.id, id, sizeof unread.id - 1);
    has_changed(table, &unread);
    if (take_in(table, id, &why) == 0)
        return;
    complain_once(table, id, &why);
    keep_unread(table, &unread);
}

static void read_unread_again(struct snapshots *table)
{
    struct snapshot_unread *before = steal_pointer(table->unread), *unread, *next;
    HASH_ITER (hh, before, unread, next) {
        HASH_DEL(before, unread);
        if (has_changed(table, unread))
            read_entry(table, unread->id);
        else
            keep_unread(table, unread);
        free(unread);
    }
}

static void forget_all_unread(struct snapshots *table)
{
    struct snapshot_unread *unread, *next;
    HASH_ITER (hh, table->unread, unread, next) {
        HASH_DEL(table->unread, unread);
        free(unread);
    }
}

static int refresh_entry(void *context, const char *id, struct error *err)
{
    struct snapshots *table = context;
    struct error why = {0};
    (void)err;
    if (store_check_id(id, &why) < 0)
        complain_once(table, id, &why);
    else
        read_entry(table, id);
    return 0;
}

/* Those whose directory somebody else removed or replaced. They cannot be forked any more. */
static void drop_vanished(struct snapshots *table)
{
    struct snapshot *snapshot, *next;
    auto_lock(&table->lock);
    HASH_ITER (hh, table->by_id, snapshot, next) {
        int r = image_check_place(snapshot->image);
        if (r != -ENOENT && r != -EBUSY)
            continue;
        HASH_DEL(table->by_id, snapshot);
        snapshot->removed = true;
        atomic_fetch_add(&table->changes, 1);
        tell(table, snapshot, true);
        image_drop(snapshot->image);
        if (--snapshot->references == 0)
            snapshot_free(snapshot);
    }
}

/* What others have put into the store, or taken out of it. When it cannot be read, what is
 * known stays, and the next time tries again. */
static int refresh(struct snapshots *table, struct error *err)
{
    struct error why;
    int r = 0;
    auto_lock(&table->refreshing);
    if (store_may_have_changed(table->store, STORE_SNAPSHOTS, &table->seen)) {
        drop_vanished(table);
        forget_all_unread(table);
        store_notes_tidy(table->store, STORE_SNAPSHOTS);
        r = store_list(table->store, STORE_SNAPSHOTS, refresh_entry, table, &why);
        if (r == 0)
            store_notes_remove(table->store->notes, STORE_SNAPSHOTS, "");
    } else {
        read_unread_again(table);
    }
    if (r < 0) {
        table->seen.reliable = false;
        if (!table->open)
            error_set(err, why.code, "%s", why.text);
        else if (store_notes_unlisted(table->store->notes, STORE_SNAPSHOTS, &why))
            table->warn(table->context, why.text);
    }
    return r;
}

int snapshots_open(const struct store *store, void (*scanned)(void *context),
                   void (*warn)(void *context, const char *text), void *context,
                   struct snapshots *ret, struct error *err)
{
    *ret = (struct snapshots){.store = store, .warn = warn, .context = context};
    image_scans_init(&ret->scans, scanned, warn, context);
    pthread_mutex_init(&ret->lock, NULL);
    pthread_mutex_init(&ret->refreshing, NULL);
    int r = refresh(ret, err);
    ret->open = r == 0;
    return r;
}

void snapshots_stop(struct snapshots *snapshots)
{
    image_scans_stop(&snapshots->scans);
}

void snapshots_close(struct snapshots *snapshots)
{
    struct snapshot *snapshot, *next;
    image_scans_finish(&snapshots->scans);
    forget_all_unread(snapshots);
    HASH_ITER (hh, snapshots->by_id, snapshot, next) {
        HASH_DEL(snapshots->by_id, snapshot);
        snapshot_unref(snapshot);
    }
    pthread_mutex_destroy(&snapshots->refreshing);
    pthread_mutex_destroy(&snapshots->lock);
}

void snapshots_refresh(struct snapshots *snapshots)
{
    refresh(snapshots, NULL);
}

struct snapshot *snapshots_find(struct snapshots *snapshots, const char *id)
{
    struct snapshot *snapshot;
    auto_lock(&snapshots->lock);
    HASH_FIND_STR(snapshots->by_id, id, snapshot);
    if (snapshot)
        snapshot->references++;
    return snapshot;
}

struct snapshot *snapshot_ref(struct snapshot *snapshot)
{
    auto_lock(&snapshot->table->lock);
    snapshot->references++;
    return snapshot;
}

void snapshot_unref(struct snapshot *snapshot)
{
    if (!snapshot)
        return;
    pthread_mutex_lock(&snapshot->table->lock);
    bool last = --snapshot->references == 0;
    pthread_mutex_unlock(&snapshot->table->lock);
    if (last)
        snapshot_free(snapshot);
}

struct snapshot_name *snapshots_list(struct snapshots *snapshots, size_t *ret_count)
{
    auto_lock(&snapshots->lock);
    struct snapshot_name *names = calloc(HASH_COUNT(snapshots->by_id) + 1, sizeof *names);
    size_t count = 0;
    for (struct snapshot *s = snapshots->by_id; s && names; s = s->hh.next, count++) {
        memcpy(names[count].id, s->id, sizeof s->id);
        names[count].serial = s->serial;
    }
    *ret_count = count;
    return names;
}

/* What is removed is out of sight, whatever becomes of its files. */
static void erase(struct snapshots *table, const char *hidden)
{
    struct error why;
    if (store_erase(table->store, STORE_SNAPSHOTS, hidden, &why) < 0)
        table->warn(table->context, why.text);
}

/* Makes the entry the snapshot of that id; one that cannot be read back is taken away again. */
static int appear(struct snapshots *snapshots, struct store_entry *entry, const char *id,
                  struct error *err)
{
    char hidden[STORE_HIDDEN_SIZE];
    struct stat st = {0};
    fstat(entry->fd, &st);
    int r = store_entry_publish(entry, id, true, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&snapshots->refreshing);
    r = take_in(snapshots, id, err);
    pthread_mutex_unlock(&snapshots->refreshing);
    if (r < 0 &&
        store_unpublish(snapshots->store, STORE_SNAPSHOTS, id, file_id_of(&st), hidden, NULL) == 0)
        erase(snapshots, hidden);
    return r;
}

/* The entry, complete but for being seen. `id` is only for its check. */
static int make(struct snapshots *snapshots, cJSON *const *json, snapshot_fill *fill, void *context,
                struct store_entry *entry, struct error *err)
{
    struct image_index *index = NULL;
    int r = snapshot_entry_begin(snapshots->store, fill, context, entry, err);
    if (r == 0)
        r = image_load_or_scan(entry->fd, &snapshots->scans.stop, &index, err);
    if (r == 0)
        r = snapshot_entry_describe(entry, *json, &index->scan, err);
    image_index_unref(index);
    return r;
}

int snapshots_publish(struct snapshots *snapshots, const char *id, cJSON *const *json,
                      snapshot_fill *fill, void *context, struct error *err)
{
    struct store_entry entry = {.fd = -1};
    int r = store_check_id(id, err);
    snapshots_refresh(snapshots);
    struct snapshot *snapshot = r == 0 ? snapshots_find(snapshots, id) : NULL;
    if (snapshot) {
        snapshot_unref(snapshot);
        return error_set(err, EEXIST, "there is a snapshot %s already", id);
    }
    if (r == 0)
        r = make(snapshots, json, fill, context, &entry, err);
    if (r == 0)
        r = appear(snapshots, &entry, id, err);
    store_entry_discard(&entry);
    return r < 0 ? error_prefix(err, r, "snapshot %s", id) : 0;
}

int snapshots_make_private(struct snapshots *snapshots, cJSON *const *json, snapshot_fill *fill,
                           void *context, struct store_entry *ret_entry, struct snapshot **ret,
                           struct error *err)
{
    int r = make(snapshots, json, fill, context, ret_entry, err);
    int fd = r == 0 ? fcntl(ret_entry->fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (r == 0 && fd < 0)
        r = error_errno(err, errno, "cannot keep the copy");
    return r < 0 ? r : load(snapshots, ret_entry->name, fd, ret, err);
}

/* Another one there is told from it by its time of birth, too: then it is none of the store's. */
static struct file_id directory_of(const struct snapshot *snapshot)
{
    return image_check_place(snapshot->image) == -EBUSY ? (struct file_id){0} : snapshot->directory;
}

int snapshot_remove(struct snapshot *snapshot, struct error *err)
{
    struct snapshots *table = snapshot->table;
    char hidden[STORE_HIDDEN_SIZE];
    int r = 0;
    pthread_mutex_lock(&table->lock);
    if (snapshot->removed)
        r = error_set(err, ENODEV, "the snapshot %s is removed", snapshot->id);
    else if (snapshot->users > 0)
        r = error_set(err, EBUSY,
                      "the snapshot %s is in use by %u running VMs or commits: stop them first",
                      snapshot->id, snapshot->users);
    else
        r = store_unpublish(table->store, STORE_SNAPSHOTS, snapshot->id, directory_of(snapshot),
                            hidden, err);
    if (r == 0) {
        snapshot->removed = true;
        HASH_DEL(table->by_id, snapshot);
        tell(table, snapshot, true);
    }
    pthread_mutex_unlock(&table->lock);
    if (r < 0)
        return r;
    image_remove(snapshot->image);
    erase(table, hidden);
    snapshot_unref(snapshot);
    return 0;
}

bool snapshot_is_removed(struct snapshot *snapshot)
{
    auto_lock(&snapshot->table->lock);
    return snapshot->removed;
}

const cJSON *snapshot_json(const struct snapshot *snapshot)
{
    auto_lock(&snapshot->table->lock);
    return snapshot->json;
}

const cJSON *snapshot_machine(const struct snapshot *snapshot)
{
    return json_get(snapshot_json(snapshot), "machine");
}

int snapshot_set_machine(struct snapshot *snapshot, const cJSON *machine, struct error *err)
{
    auto_json cJSON *json = cJSON_Duplicate(snapshot_json(snapshot), true);
    auto_close int fd = image_open(snapshot->image, err);
    if (fd < 0)
        return fd;
    cJSON_DeleteItemFromObjectCaseSensitive(json, "machine");
    json_add(json, "machine", cJSON_Duplicate(machine, true));
    int r = store_write_json(fd, "snapshot.json", json, err);
    if (r < 0)
        return r;
    auto_lock(&snapshot->table->lock);
    if (!snapshot->former && !(snapshot->former = cJSON_CreateArray()))
        return error_set(err, ENOMEM, "out of memory");
    json_append(snapshot->former, snapshot->json); /* needs no memory */
    snapshot->json = steal_pointer(json);
    return 0;
}

int snapshot_use(struct snapshot *snapshot, struct error *err)
{
    auto_lock(&snapshot->table->lock);
    if (snapshot->removed)
        return error_set(err, ENODEV, "the snapshot %s is removed", snapshot->id);
    snapshot->users++;
    return 0;
}

void snapshot_leave(struct snapshot *snapshot)
{
    auto_lock(&snapshot->table->lock);
    snapshot->users--;
}
