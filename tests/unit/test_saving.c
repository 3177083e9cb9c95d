/* SPDX-License-Identifier: MIT */
/* What a start of the daemon makes of a VM that runs on, and of what was being done with it. */
#include "hypervisor/disks.h"
#include "instance/internal.h"
#include "world.h"

static const char *const images[] = {"state", "mailboxes.json", "memory", "base"};

/* A VMM that nobody can talk to, these files of it, and what was being done with it (or NULL): an
 * intent, or the mark of an earlier version. */
static void leave(struct world *world, const char *state, bool loaded, const char *intent,
                  const char *mark)
{
    auto_free char *json = NULL, *member = NULL;
    assert_true(asprintf(&member, ",\"intent\":\"%s\"", intent) > 0);
    assert_true(asprintf(&json, "\"state\":\"%s\",%s,\"loaded\":%s%s", state, world_machine,
                         loaded ? "true" : "false", intent ? member : "") > 0);
    world_leave_with_vmm(world, "web-1", json);
    for (size_t i = 0; i < array_length(images); i++)
        world_write_text(world_path(world, "store/instances/web-1/run/%s", images[i]), "x");
    if (mark)
        world_write_text(world_path(world, "store/instances/web-1/%s", mark), "");
}

static bool has(const struct world *world, const char *name)
{
    return world_has(world_path(world, "store/instances/web-1/run/%s", name));
}

static bool has_mark(const struct world *world, const char *name)
{
    return world_has(world_path(world, "store/instances/web-1/%s", name));
}

static void assert_state(struct world *world, enum instance_state state)
{
    struct instance *instance = world_found(world, "web-1");
    assert_int_equal(instance_state(instance), state);
    instance_unref(instance);
}

/* It was about to be paused, or to go on: neither was done whole. */
static void vm_that_is_paused_on_record_stays_so(void **state)
{
    struct world *world = *state;
    leave(world, "paused", true, NULL, "hold");
    world_open_whole(world);
    assert_state(world, INSTANCE_PAUSED);
    assert_false(has_mark(world, "hold"));
}

static bool record_has(const struct world *world, const char *words)
{
    auto_free char *record = world_read(world_path(world, "store/instances/web-1/instance.json"));
    return strstr(record, words);
}

/* Each start tries again, as does a write. */
static void assert_told_of(struct world *world, const char *intent)
{
    auto_free char *words = NULL;
    assert_true(asprintf(&words, "\"intent\": \"%s\"", intent) > 0);
    for (int starts = 0; starts < 2; starts++) {
        world_open_store(world);
        world_open_layers(world);
        assert_state(world, INSTANCE_RUNNING);
        assert_non_null(
            strstr(world->complaints, "web-1 is paused, because work on it was cut short: "));
        assert_true(record_has(world, words));
        struct instance *instance = world_found(world, "web-1");
        assert_int_equal(instance_change(instance, INSTANCE_RUNNING, 0, &world->err), -EIO);
        instance_unref(instance);
        assert_true(record_has(world, words));
        assert_false(has_mark(world, "hold"));
        assert_false(has_mark(world, "restoring"));
        assert_true(has(world, "memory"));
        world_close(world);
        world->complaints[0] = 0;
    }
    world_remove_instance(world, "web-1");
}

static void vm_that_cannot_be_told_to_go_on_is_told_of(void **state)
{
    static const char *const intents[] = {"pause", "resume", "standby", "copy", "restore"};
    struct world *world = *state;
    for (size_t i = 0; i < array_length(intents); i++) {
        leave(world, "running", true, intents[i], NULL);
        assert_told_of(world, intents[i]);
    }
}

static void mark_of_an_earlier_version_becomes_an_intent(void **state)
{
    struct world *world = *state;
    leave(world, "running", true, NULL, "hold");
    assert_told_of(world, "copy");
    leave(world, "running", true, NULL, "restoring");
    assert_told_of(world, "restore");
}

/* Running is written to what runs. One that may have halted is told to go on, which this one cannot
 * be, unless something is under way that ends with that. */
static void assert_runs_on(struct world *world, const char *id, bool may_have_halted)
{
    struct instance *instance = world_found(world, id);
    assert_int_equal(instance_change(instance, INSTANCE_RUNNING, 0, &world->err),
                     may_have_halted ? -EIO : 0);
    assert_int_equal(instance_begin(instance, BEGIN_OR_FAIL, &world->err), 0);
    assert_int_equal(instance_change(instance, INSTANCE_RUNNING, 0, &world->err), 0);
    instance_end(instance);
    instance_unref(instance);
}

/* Whatever the record says: it ends, and a boot goes on with what it wrote to. */
static void assert_keeps_overlay(struct world *world, const char *id, bool is_written)
{
    struct instance *instance = world_found(world, id);
    assert_int_equal(instance_change(instance, INSTANCE_STOPPED, 0, &world->err), 0);
    assert_int_equal(disk_top(&instance->machine.disks[0]), is_written ? 1 : 0);
    instance_unref(instance);
}

static void vm_that_cannot_be_asked_for_its_disks_is_told_of(void **state)
{
    static const char machine[] =
        "\"state\":\"%s\",\"machine\":{\"memory_bytes\":268435456,\"vcpus\":2,\"machine\":\"q35\","
        "\"accel\":\"tcg\",\"network\":{\"mode\":\"none\",\"restrict\":false},\"disks\":[{"
        "\"path\":\"/none\",\"format\":\"raw\",\"readonly\":%s}],\"type\":\"pc-q35-7.2\","
        "\"cpu\":\"max\",\"host_cpu\":null,\"version\":\"7.2.22\"}";
    static const char *const states[] = {"running", "paused"}, *const readonly[] = {"false",
                                                                                    "true"};
    struct world *world = *state;
    for (size_t i = 0; i < 2; i++)
        for (size_t j = 0; j < 2; j++) {
            auto_free char *json = NULL, *told = NULL, *id = NULL;
            assert_true(asprintf(&id, "%s-%s", states[i], readonly[j]) > 0);
            assert_true(asprintf(&json, machine, states[i], readonly[j]) > 0);
            world_leave_with_vmm(world, id, json);
            world_leave_overlay(world, id);
            world_open_store(world);
            world_open_layers(world);
            assert_true(asprintf(&told, "%s may write to other disks than its record says: asking",
                                 id) > 0);
            assert_int_equal(strstr(world->complaints, told) != NULL, j == 0);
            if (i == 0)
                assert_runs_on(world, id, j == 0);
            assert_keeps_overlay(world, id, j == 0);
            world_close(world);
            world->complaints[0] = 0;
        }
}

/* Of one that was booted its memory is what it runs on; of one that was loaded, a save's. */
static void save_that_was_cut_short_leaves_nothing(void **state)
{
    struct world *world = *state;
    leave(world, "running", false, NULL, NULL);
    world_open_whole(world);
    assert_state(world, INSTANCE_RUNNING);
    assert_true(has(world, "memory") && !has(world, "state") && !has(world, "mailboxes.json"));
}

static void save_of_one_that_was_loaded_leaves_its_base_alone(void **state)
{
    struct world *world = *state;
    leave(world, "paused", true, NULL, NULL);
    world_open_whole(world);
    assert_state(world, INSTANCE_PAUSED);
    assert_true(has(world, "base"));
    for (size_t i = 0; i < 3; i++)
        assert_false(has(world, images[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY(vm_that_is_paused_on_record_stays_so),
        IN_EMPTY(vm_that_cannot_be_told_to_go_on_is_told_of),
        IN_EMPTY(mark_of_an_earlier_version_becomes_an_intent),
        IN_EMPTY(vm_that_cannot_be_asked_for_its_disks_is_told_of),
        IN_EMPTY(save_that_was_cut_short_leaves_nothing),
        IN_EMPTY(save_of_one_that_was_loaded_leaves_its_base_alone),
    };
    return cmocka_run_group_tests_name("saving", tests, NULL, NULL);
}
