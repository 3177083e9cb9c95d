/* SPDX-License-Identifier: MIT */
/* Snapshots that others make in the store, or take out of it, while a daemon has it. */
#include <sys/resource.h>

#include "world.h"
#include "store/notes.h"
#include "store/snapshot_entry.h"

/* As hypefs import does it: with nothing of the daemon's but the store's path. */
static int import(struct world *world, const char *id, const struct world_image *image,
                  scan_progress *progress)
{
    struct world_image copy = *image;
    struct store store;
    auto_json cJSON *json = world_snapshot_json(image->size);
    const struct snapshot_import parts = {
        .id = id, .json = json, .fill = world_fill, .progress = progress, .context = &copy};
    assert_int_equal(store_attach(world->path, false, &store, &world->err), 0);
    size_t frames;
    int r = snapshot_import(&store, &parts, &frames, &world->err);
    store_close(&store);
    return r;
}

static void import_box(struct world *world, const char *id)
{
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_arm(world_page(&image, 1), "box", "token");
    if (import(world, id, &image, NULL) < 0)
        fail_msg("snapshot_import: %s", world->err.text);
}

/* After a look at the store. */
static struct snapshot *look_for(struct world *world, const char *id)
{
    snapshots_refresh(&world->snapshots);
    return snapshots_find(&world->snapshots, id);
}

static void assert_listed(struct world *world, const char *id, bool wanted)
{
    size_t count;
    snapshots_refresh(&world->snapshots);
    auto_free struct snapshot_name *names = snapshots_list(&world->snapshots, &count);
    struct snapshot *snapshot = snapshots_find(&world->snapshots, id);
    bool listed = false;
    for (size_t i = 0; i < count; i++)
        listed |= strcmp(names[i].id, id) == 0;
    assert_int_equal(listed, wanted);
    assert_int_equal(snapshot != NULL, wanted);
    snapshot_unref(snapshot);
}

/* By the daemon. */
static int publish(struct world *world, const char *id, const struct world_image *image)
{
    struct world_image copy = *image;
    auto_json cJSON *json = world_snapshot_json(image->size);
    return snapshots_publish(&world->snapshots, id, &json, world_fill, &copy, &world->err);
}

static void snapshot_when_another_process_publishes_it_is_found(void **state)
{
    struct world *world = *state;
    assert_listed(world, "first", false);
    import_box(world, "first");
    assert_listed(world, "first", true);
    /* At once again, so that the directory's times may be the same. */
    for (int i = 0; i < 20; i++) {
        char id[16];
        snprintf(id, sizeof id, "s%d", i);
        assert_listed(world, id, false);
        import_box(world, id);
        assert_listed(world, id, true);
    }
    struct snapshot *snapshot = snapshots_find(&world->snapshots, "first");
    ino_t kept = world_kept_list(world, "first");
    auto_free char *info = world_info(world, snapshot);
    assert_non_null(strstr(info, "\"box\""));
    assert_int_equal(world_kept_list(world, "first"), kept); /* who made it has scanned it */
    snapshot_unref(snapshot);
    assert_string_equal(world->complaints, "");
    const struct world_image image = {.size = FIXTURE_MEMORY};
    assert_int_equal(publish(world, "first", &image), -EEXIST);
}

static bool refuse(void *context, uint64_t done, uint64_t size)
{
    (void)context;
    (void)done;
    (void)size;
    return false;
}

static void import_when_it_fails_leaves_nothing(void **state)
{
    struct world *world = *state;
    const struct world_image image = {.size = FIXTURE_MEMORY};
    import_box(world, "taken");
    assert_int_equal(import(world, "taken", &image, NULL), -EEXIST);
    assert_int_equal(import(world, "new", &image, NULL), -EINVAL);
    assert_int_equal(import(world, "late", &image, refuse), -ECANCELED);
    assert_int_equal(world_count(world_path(world, "store/snapshots")), 1);
}

/* While it fills, another process is faster. */
static int fill_slowly(void *context, const struct store_entry *entry, struct error *err)
{
    struct world_image image = {.size = FIXTURE_MEMORY};
    import_box(context, "base");
    return world_fill(&image, entry, err);
}

static void snapshot_when_another_was_faster_is_refused_and_leaves_that_one(void **state)
{
    struct world *world = *state;
    auto_json cJSON *json = world_snapshot_json(FIXTURE_MEMORY);
    assert_int_equal(
        snapshots_publish(&world->snapshots, "base", &json, fill_slowly, world, &world->err),
        -EEXIST);
    assert_non_null(strstr(world->err.text, "the id base is taken in the store by "));
    struct snapshot *base = look_for(world, "base");
    auto_free char *info = world_info(world, base);
    assert_non_null(strstr(info, "\"box\""));
    snapshot_unref(base);
    assert_int_equal(world_count(world_path(world, "store/snapshots")), 1);
}

static void take_away(struct world *world, const char *id, const char *to)
{
    char from[PATH_MAX];
    snprintf(from, sizeof from, "%s/snapshots/%s", world->path, id);
    assert_int_equal(rename(from, world_path(world, "%s", to)), 0);
}

static void snapshot_when_it_vanishes_from_the_store_is_not_listed(void **state)
{
    struct world *world = *state;
    import_box(world, "base");
    struct snapshot *snapshot = look_for(world, "base");
    assert_non_null(snapshot);
    free(world_info(world, snapshot));
    take_away(world, "base", "away");
    assert_listed(world, "base", false);
    assert_int_equal(snapshot_use(snapshot, &world->err), -ENODEV);
    /* Whoever has it keeps what is known of it, but not its files. */
    auto_free char *info = world_info_now(snapshot);
    assert_non_null(strstr(info, "\"kind\": \"standby\""));
    assert_non_null(strstr(info, "the memory image is gone"));
    snapshot_unref(snapshot);
    assert_string_equal(world->complaints, "");
}

/* As many as there are: a daemon has 20,000 descriptors, say. */
static void snapshots_at_rest_have_no_descriptor(void **state)
{
    enum { COUNT = 20 };
    struct world *world = *state;
    char id[16];
    const int before = world_descriptors();
    for (int i = 0; i < COUNT; i++) {
        snprintf(id, sizeof id, "s-%d", i);
        import_box(world, id);
        struct snapshot *snapshot = look_for(world, id);
        assert_non_null(snapshot);
        free(world_info(world, snapshot));
        snapshot_unref(snapshot);
    }
    world_await_idle(world);
    assert_int_equal(world_descriptors(), before);
}

static void snapshot_when_replaced_in_the_store_is_another_one(void **state)
{
    struct world *world = *state;
    import_box(world, "base");
    struct snapshot *first = look_for(world, "base");
    take_away(world, "base", "away");
    import_box(world, "base");
    assert_int_equal(snapshot_remove(first, &world->err), -EBUSY); /* before anybody looks */
    struct snapshot *second = look_for(world, "base");
    assert_non_null(second);
    assert_ptr_not_equal(first, second);
    assert_true(first->serial != second->serial);
    assert_string_not_equal(first->uuid, second->uuid);
    assert_int_equal(snapshot_remove(first, &world->err), -ENODEV);
    assert_int_equal(snapshot_remove(second, &world->err), 0);
    store_await_erased(&world->store);
    assert_int_equal(world_count(world_path(world, "store/snapshots")), 0);
    snapshot_unref(first);
    snapshot_unref(second);
}

static void snapshot_when_it_turns_up_damaged_is_named_once(void **state)
{
    struct world *world = *state;
    assert_int_equal(mkdir(world_path(world, "store/snapshots/base"), 0700), 0);
    for (int i = 0; i < 3; i++)
        assert_listed(world, "base", false);
    assert_string_equal(
        world->complaints,
        "snapshot base: cannot open snapshot.json: No such file or directory; it is not shown: "
        "repair it, or move it out of snapshots/ in the store\n");
}

/* Such as for lack of descriptors. */
static void snapshots_when_they_cannot_be_listed_are_told_of_once(void **state)
{
    struct world *world = *state;
    struct rlimit before, none;
    const unsigned notes = store_notes_changes(world->store.notes);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){0, before.rlim_max};
    import_box(world, "base");
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    for (int i = 0; i < 3; i++)
        snapshots_refresh(&world->snapshots);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_non_null(strstr(world->complaints, "cannot list snapshots/ in the store"));
    assert_null(strstr(world->complaints, "it is not shown"));
    assert_string_equal(strchr(world->complaints, '\n'), "\n");
    assert_int_equal(store_notes_changes(world->store.notes), notes + 1);
    assert_listed(world, "base", true);
    assert_int_equal(store_notes_changes(world->store.notes), notes + 2);
}

struct crowd {
    struct world *world;
    atomic_bool stop;
};

static void *look_around(void *argument)
{
    struct crowd *crowd = argument;
    while (!atomic_load(&crowd->stop)) {
        size_t count;
        snapshots_refresh(&crowd->world->snapshots);
        free(snapshots_list(&crowd->world->snapshots, &count));
        snapshot_unref(snapshots_find(&crowd->world->snapshots, "own"));
        snapshot_unref(snapshots_find(&crowd->world->snapshots, "foreign"));
    }
    return NULL;
}

static void snapshots_when_they_come_and_go_while_many_look_are_each_one(void **state)
{
    enum { ROUNDS = 30, LOOKERS = 4 };
    struct world *world = *state;
    struct crowd crowd = {.world = world};
    pthread_t threads[LOOKERS];
    for (size_t i = 0; i < LOOKERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, look_around, &crowd), 0);
    for (int i = 0; i < ROUNDS; i++) {
        import_box(world, "foreign");
        world_publish_box(world, "own");
        for (int own = 0; own < 2; own++) {
            struct snapshot *snapshot = look_for(world, own ? "own" : "foreign");
            assert_non_null(snapshot);
            assert_int_equal(snapshot_remove(snapshot, &world->err), 0);
            snapshot_unref(snapshot);
        }
    }
    atomic_store(&crowd.stop, true);
    for (size_t i = 0; i < LOOKERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_string_equal(world->complaints, "");
    assert_int_equal(HASH_COUNT(world->snapshots.by_id), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_WORLD(snapshot_when_another_process_publishes_it_is_found),
        IN_WORLD(import_when_it_fails_leaves_nothing),
        IN_WORLD(snapshot_when_another_was_faster_is_refused_and_leaves_that_one),
        IN_WORLD(snapshot_when_it_vanishes_from_the_store_is_not_listed),
        IN_WORLD(snapshots_at_rest_have_no_descriptor),
        IN_WORLD(snapshot_when_replaced_in_the_store_is_another_one),
        IN_WORLD(snapshot_when_it_turns_up_damaged_is_named_once),
        IN_WORLD(snapshots_when_they_cannot_be_listed_are_told_of_once),
        IN_WORLD(snapshots_when_they_come_and_go_while_many_look_are_each_one),
    };
    return cmocka_run_group_tests_name("snapshot_entry", tests, NULL, NULL);
}
