/* SPDX-License-Identifier: MIT */
#include "world.h"

static const char *text_of(const cJSON *json, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, name));
    return text ? text : "(none)";
}

static void snapshot_when_published_is_whole_and_found(void **state)
{
    struct world *world = *state;
    auto_json cJSON *json = NULL;
    world_publish_box(world, "base");
    struct snapshot *snapshot = snapshots_find(&world->snapshots, "base");
    assert_non_null(snapshot);
    assert_string_equal(snapshot->id, "base");
    assert_string_equal(text_of(snapshot_json(snapshot), "kind"), "standby");
    assert_string_equal(text_of(snapshot_json(snapshot), "hypervisor"), "qemu");
    assert_string_equal(text_of(snapshot_json(snapshot), "hypervisor_version"), "7.2.22");
    assert_int_equal(snapshot->memory_bytes, FIXTURE_MEMORY);
    assert_true(cJSON_IsObject(snapshot_machine(snapshot)));
    assert_int_equal(strlen(snapshot->uuid), 32);
    assert_int_equal(world_count(world_path(world, "store/snapshots")), 1);
    assert_int_equal(world_count(world_path(world, "store/snapshots/base")), 4);
    auto_close int fd = image_open(snapshot->image, &world->err);
    assert_true(fd >= 0);
    assert_int_equal(store_read_json(fd, "snapshot.json", &json, NULL), 0);
    assert_string_equal(text_of(json, "uuid"), snapshot->uuid);
    assert_string_equal(text_of(json, "created_at"),
                        text_of(snapshot_json(snapshot), "created_at"));
    assert_string_equal(text_of(json, "source_instance"), "base");
    assert_true(cJSON_GetObjectItemCaseSensitive(json, "version")->valuedouble == 1);
    snapshot_unref(snapshot);
}

static int fill_badly(void *context, const struct store_entry *entry, struct error *err)
{
    const struct world_image *image = context;
    world_fill(context, entry, err);
    return image->size == 0 ? error_set(err, ENOSPC, "the disk is full") : 0;
}

static void assert_not_published(struct world *world, const char *id, int code, const char *why)
{
    struct world_image image = {.size = FIXTURE_MEMORY};
    auto_json cJSON *json = world_snapshot_json(FIXTURE_MEMORY);
    int before = world_count(world_path(world, "store/snapshots"));
    int descriptors = world_descriptors();
    assert_int_equal(
        snapshots_publish(&world->snapshots, id, &json, world_fill, &image, &world->err), -code);
    assert_int_equal(world->err.code, code);
    assert_non_null(strstr(world->err.text, why));
    assert_int_equal(world_count(world_path(world, "store/snapshots")), before);
    assert_int_equal(world_descriptors(), descriptors);
}

static void snapshot_when_its_id_is_bad_or_taken_is_not_published(void **state)
{
    struct world *world = *state;
    world_publish_box(world, "base");
    assert_not_published(world, "base", EEXIST, "base");
    assert_not_published(world, "new", EINVAL, "not an id");
    assert_not_published(world, "", EINVAL, "not an id");
    assert_not_published(world, "../base", EINVAL, "not an id");
    /* One that lies in the store and could not be read is not overwritten. */
    assert_int_equal(mkdir(world_path(world, "store/snapshots/broken"), 0700), 0);
    assert_not_published(world, "broken", EEXIST, "broken");
}

static void snapshot_when_it_cannot_be_filled_leaves_nothing(void **state)
{
    struct world *world = *state;
    struct world_image image = {.size = 0};
    auto_json cJSON *json = world_snapshot_json(FIXTURE_MEMORY);
    int before = world_descriptors();
    assert_int_equal(
        snapshots_publish(&world->snapshots, "base", &json, fill_badly, &image, &world->err),
        -ENOSPC);
    assert_string_equal(world->err.text, "snapshot base: the disk is full");
    assert_int_equal(world_count(world_path(world, "store/snapshots")), 0);
    assert_int_equal(world_descriptors(), before);
    assert_null(snapshots_find(&world->snapshots, "base"));
}

static void snapshot_when_its_description_is_not_whole_leaves_nothing(void **state)
{
    static const char *const missing[] = {"kind", "hypervisor", "memory_bytes"};
    struct world *world = *state;
    struct world_image image = {.size = FIXTURE_MEMORY};
    for (size_t i = 0; i < array_length(missing); i++) {
        auto_json cJSON *json = world_snapshot_json(FIXTURE_MEMORY);
        cJSON_DeleteItemFromObjectCaseSensitive(json, missing[i]);
        assert_int_equal(
            snapshots_publish(&world->snapshots, "base", &json, world_fill, &image, &world->err),
            -EINVAL);
        assert_non_null(strstr(world->err.text, missing[i]));
        store_await_erased(&world->store);
        assert_int_equal(world_count(world_path(world, "store/snapshots")), 0);
    }
    world_publish_box(world, "base");
}

static void snapshot_when_frames_are_pending_tells_what_was_not_delivered(void **state)
{
    struct world *world = *state;
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_arm(world_page(&image, 1), "armed", "t");
    frames_put(world_page(&image, 2), FRAME_FORK, "late", "t", 1, "{}");
    frames_put(world_page(&image, 3), FRAME_FORK, "late", "t", 7, "{}");
    frames_put(world_page(&image, 4), FRAME_FORK, "other", "t", 1, "{}");
    frames_put(world_page(&image, 5), FRAME_NETWORK, "", "t", 1, "{}");
    frames_put(world_page(&image, 6) + 64, FRAME_FORK, "unaligned", "t", 1, "{}");
    world_publish(world, "base", &image);
    struct snapshot *snapshot = snapshots_find(&world->snapshots, "base");
    auto_free char *text = world_info(world, snapshot);
    auto_json cJSON *info = cJSON_Parse(text);
    auto_free char *names =
        cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(info, "undelivered"));
    assert_string_equal(names, "[\"late\",\"other\",\"network\",\"unaligned\"]");
    assert_string_equal(
        world->complaints,
        "the snapshot base holds a payload in mailbox late that its guest has not taken\n"
        "the snapshot base holds a payload in mailbox other that its guest has not taken\n"
        "the snapshot base holds a payload in mailbox network that its guest has not taken\n"
        "the snapshot base holds a payload in mailbox unaligned that its guest has not taken\n");
    snapshot_unref(snapshot);
}

static void info_when_printed_has_its_members_in_order(void **state)
{
    static const char *const members[] = {"id",
                                          "kind",
                                          "hypervisor",
                                          "hypervisor_version",
                                          "memory_bytes",
                                          "created_at",
                                          "source_instance",
                                          "mailboxes",
                                          "network_mailbox",
                                          "truncated",
                                          "undelivered",
                                          "pause_ms",
                                          "switched",
                                          "changed",
                                          "accepted"};
    struct world *world = *state;
    struct world_image image = {.size = FIXTURE_MEMORY};
    size_t count = 0;
    frames_arm(world_page(&image, 1), "b", "t");
    frames_arm(world_page(&image, 2), "a", "t");
    frames_arm(world_page(&image, 3), "b", "other");
    frames_put(world_page(&image, 4), FRAME_NETWORK, "", "t", 0, "");
    world_publish(world, "base", &image);
    struct snapshot *snapshot = snapshots_find(&world->snapshots, "base");
    auto_free char *text = world_info(world, snapshot);
    auto_json cJSON *info = cJSON_Parse(text);
    const cJSON *item;
    assert_true(text[strlen(text) - 1] == '\n' && text[strlen(text) - 2] == '}');
    cJSON_ArrayForEach (item, info) {
        assert_true(count < array_length(members));
        assert_string_equal(item->string, members[count++]);
    }
    assert_int_equal(count, array_length(members));
    assert_string_equal(text_of(info, "id"), "base");
    auto_free char *names =
        cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(info, "mailboxes"));
    assert_string_equal(names, "[\"b\",\"a\"]");
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(info, "network_mailbox")));
    assert_true(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(info, "truncated")));
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(info, "pause_ms")));
    assert_null(strstr(text, "token"));
    snapshot_unref(snapshot);
}

static void info_when_the_image_is_scanned_anew_says_null_meanwhile(void **state)
{
    struct world *world = *state;
    world_publish_box(world, "base");
    world_close(world);
    assert_int_equal(remove(world_path(world, "store/snapshots/base/mailboxes.json")), 0);
    world_open_store(world);
    world_open_layers(world);
    struct snapshot *snapshot = snapshots_find(&world->snapshots, "base");
    auto_free char *before = world_info_now(snapshot);
    assert_non_null(strstr(before, "\"mailboxes\": null"));
    assert_non_null(strstr(before, "\"truncated\": null"));
    assert_true(gate_wait(&world->scanned, FIXTURE_FAR_MS));
    auto_free char *after = world_info_now(snapshot);
    assert_non_null(strstr(after, "\"box\""));
    snapshot_unref(snapshot);
}

static void snapshots_when_the_daemon_starts_again_are_the_same(void **state)
{
    struct world *world = *state;
    char uuid[33];
    world_publish_box(world, "base");
    struct snapshot *snapshot = snapshots_find(&world->snapshots, "base");
    memcpy(uuid, snapshot->uuid, sizeof uuid);
    auto_free char *before = world_info(world, snapshot);
    ino_t kept = world_kept_list(world, "base");
    snapshot_unref(snapshot);
    world_restart(world);
    snapshot = snapshots_find(&world->snapshots, "base");
    assert_non_null(snapshot);
    assert_string_equal(snapshot->uuid, uuid);
    auto_free char *after = world_info(world, snapshot);
    assert_string_equal(before, after);
    assert_int_equal(world_kept_list(world, "base"), kept);
    snapshot_unref(snapshot);
}

static void snapshot_when_its_description_is_damaged_is_left_out_and_named(void **state)
{
    static const struct {
        const char *text, *why;
    } damages[] = {
        {"", "line 1"},
        {"{\"version\":1", "ends too early"},
        {"{}", "\"version\" is not a number from 1 to 2"},
        {"{\"version\":3}", "\"version\" is 3, of a newer hypefs, and this one knows 2"},
        {"{\"version\":\"1\"}", "\"version\" is not a number from 1 to 2"},
        {"{\"version\":1}", "\"memory_bytes\" is not a size"},
        {"{\"version\":1,\"memory_bytes\":0}", "\"memory_bytes\" is not a size"},
        {"{\"version\":1,\"memory_bytes\":-4096}", "\"memory_bytes\" is not a size"},
        {"{\"version\":1,\"memory_bytes\":1e400}", "\"memory_bytes\" is not a size"},
        {"{\"version\":1,\"memory_bytes\":1e16}", "\"memory_bytes\" is not a size"},
        {"{\"version\":1,\"memory_bytes\":4096}", "\"uuid\" is not 32 characters"},
        {"{\"version\":1,\"memory_bytes\":4096,\"uuid\":\"short\"}",
         "\"uuid\" is not 32 characters"},
        {"{\"version\":1,\"memory_bytes\":4096,\"uuid\":\"0123456789abcdef0123456789abcdef0\"}",
         "\"uuid\" is not 32 characters"},
        {"{\"version\":1,\"memory_bytes\":4096,\"uuid\":\"0123456789abcdef0123456789abcdef\","
         "\"kind\":\"standby\",\"hypervisor\":7,\"created_at\":\"x\"}",
         "\"hypervisor\""},
    };
    struct world *world = *state;
    world_publish_box(world, "base");
    world_publish_box(world, "other");
    for (size_t i = 0; i < array_length(damages); i++) {
        world_close(world);
        world_write_text(world_path(world, "store/snapshots/base/snapshot.json"), damages[i].text);
        world->complaints[0] = 0;
        int before = world_descriptors();
        world_open_store(world);
        world_open_layers(world);
        assert_null(snapshots_find(&world->snapshots, "base"));
        struct snapshot *other = snapshots_find(&world->snapshots, "other");
        assert_non_null(other);
        snapshot_unref(other);
        assert_non_null(strstr(world->complaints, "snapshot base: "));
        assert_non_null(strstr(world->complaints, damages[i].why));
        world_close(world);
        assert_int_equal(world_descriptors(), before);
    }
    world_open_store(world);
    world_open_layers(world);
}

static void snapshot_when_its_files_are_gone_is_left_out_or_eio(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    world_publish_box(world, "base");
    world_publish_box(world, "other");
    world_close(world);
    assert_int_equal(remove(world_path(world, "store/snapshots/base/snapshot.json")), 0);
    assert_int_equal(remove(world_path(world, "store/snapshots/other/memory")), 0);
    world_open_store(world);
    world_open_layers(world);
    assert_null(snapshots_find(&world->snapshots, "base"));
    assert_non_null(strstr(world->complaints, "snapshot base: cannot open snapshot.json"));
    struct snapshot *other = snapshots_find(&world->snapshots, "other");
    assert_non_null(other);
    assert_int_equal(image_index(other->image, &index, &world->err), -EIO);
    auto_free char *info = world_info_now(other);
    assert_non_null(strstr(info, "\"mailboxes\": null"));
    snapshot_unref(other);
}

static void snapshot_when_used_cannot_be_removed(void **state)
{
    struct world *world = *state;
    world_publish_box(world, "base");
    struct snapshot *snapshot = snapshots_find(&world->snapshots, "base");
    assert_int_equal(snapshot_use(snapshot, &world->err), 0);
    assert_int_equal(snapshot_use(snapshot, &world->err), 0);
    assert_int_equal(snapshot_remove(snapshot, &world->err), -EBUSY);
    assert_non_null(strstr(world->err.text, "in use by 2"));
    assert_non_null(strstr(world->err.text, "stop them first"));
    snapshot_leave(snapshot);
    assert_int_equal(snapshot_remove(snapshot, &world->err), -EBUSY);
    assert_int_equal(world_count(world_path(world, "store/snapshots/base")), 4);
    snapshot_leave(snapshot);
    assert_int_equal(snapshot_remove(snapshot, &world->err), 0);
    snapshot_unref(snapshot);
}

static void snapshot_when_removed_is_gone_whole(void **state)
{
    struct world *world = *state;
    size_t count = 7;
    world_publish_box(world, "base");
    world_publish_box(world, "other");
    struct snapshot *snapshot = snapshots_find(&world->snapshots, "base");
    assert_int_equal(snapshot_remove(snapshot, &world->err), 0);
    store_await_erased(&world->store);
    assert_int_equal(world_count(world_path(world, "store/snapshots")), 1);
    assert_null(snapshots_find(&world->snapshots, "base"));
    auto_free struct snapshot_name *names = snapshots_list(&world->snapshots, &count);
    assert_int_equal(count, 1);
    assert_string_equal(names[0].id, "other");
    assert_int_equal(snapshot_remove(snapshot, &world->err), -ENODEV);
    assert_int_equal(snapshot_use(snapshot, &world->err), -ENODEV);
    assert_non_null(strstr(world->err.text, "base"));
    assert_int_equal(snapshot->users, 0);
    snapshot_unref(snapshot);
}

static void snapshot_when_made_again_is_another_one(void **state)
{
    struct world *world = *state;
    world_publish_box(world, "base");
    struct snapshot *first = snapshots_find(&world->snapshots, "base");
    assert_int_equal(snapshot_remove(first, &world->err), 0);
    world_publish_box(world, "base");
    struct snapshot *second = snapshots_find(&world->snapshots, "base");
    assert_non_null(second);
    assert_ptr_not_equal(first, second);
    assert_true(second->serial > first->serial);
    assert_string_not_equal(second->uuid, first->uuid);
    assert_string_equal(world->happenings, "published base\ngone base\npublished base\n");
    snapshot_unref(first);
    snapshot_unref(second);
}

struct race {
    struct world *world;
    struct world_image image;
};

static void *publish(void *argument)
{
    struct race *race = argument;
    auto_json cJSON *json = world_snapshot_json(FIXTURE_MEMORY);
    return (void *)(intptr_t)snapshots_publish(&race->world->snapshots, "base", &json, world_fill,
                                               &race->image, NULL);
}

static void snapshot_when_published_twice_at_once_is_one(void **state)
{
    struct world *world = *state;
    struct race race = {.world = world, .image.size = FIXTURE_MEMORY};
    pthread_t threads[8];
    int done = 0, taken = 0;
    for (size_t i = 0; i < array_length(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, publish, &race), 0);
    for (size_t i = 0; i < array_length(threads); i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        done += result == (void *)0;
        taken += result == (void *)(intptr_t)-EEXIST;
    }
    assert_int_equal(done, 1);
    assert_int_equal(taken, array_length(threads) - 1);
    assert_int_equal(world_count(world_path(world, "store/snapshots")), 1);
}

static void list_when_asked_names_all_with_their_serials(void **state)
{
    struct world *world = *state;
    size_t count = 7;
    auto_free struct snapshot_name *none = snapshots_list(&world->snapshots, &count);
    assert_non_null(none);
    assert_int_equal(count, 0);
    world_publish_box(world, "b");
    world_publish_box(world, "a");
    auto_free struct snapshot_name *names = snapshots_list(&world->snapshots, &count);
    assert_int_equal(count, 2);
    for (size_t i = 0; i < count; i++) {
        struct snapshot *snapshot = snapshots_find(&world->snapshots, names[i].id);
        assert_non_null(snapshot);
        assert_int_equal(snapshot->serial, names[i].serial);
        snapshot_unref(snapshot);
    }
    assert_string_not_equal(names[0].id, names[1].id);
}

static void publishing_when_the_daemon_stops_is_refused(void **state)
{
    struct world *world = *state;
    snapshots_stop(&world->snapshots);
    assert_not_published(world, "base", ESHUTDOWN, "stopping");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_WORLD(snapshot_when_published_is_whole_and_found),
        IN_WORLD(snapshot_when_its_id_is_bad_or_taken_is_not_published),
        IN_WORLD(snapshot_when_it_cannot_be_filled_leaves_nothing),
        IN_WORLD(snapshot_when_its_description_is_not_whole_leaves_nothing),
        IN_WORLD(snapshot_when_frames_are_pending_tells_what_was_not_delivered),
        IN_WORLD(info_when_printed_has_its_members_in_order),
        IN_WORLD(info_when_the_image_is_scanned_anew_says_null_meanwhile),
        IN_WORLD(snapshots_when_the_daemon_starts_again_are_the_same),
        IN_WORLD(snapshot_when_its_description_is_damaged_is_left_out_and_named),
        IN_WORLD(snapshot_when_its_files_are_gone_is_left_out_or_eio),
        IN_WORLD(snapshot_when_used_cannot_be_removed),
        IN_WORLD(snapshot_when_removed_is_gone_whole),
        IN_WORLD(snapshot_when_made_again_is_another_one),
        IN_WORLD(snapshot_when_published_twice_at_once_is_one),
        IN_WORLD(list_when_asked_names_all_with_their_serials),
        IN_WORLD(publishing_when_the_daemon_stops_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
