/* SPDX-License-Identifier: MIT */
/* What a daemon finds of instances when it starts: instance.json, and VMMs that ran on. */
#include "hypervisor/disks.h"
#include "world.h"

static void open_world(struct world *world)
{
    world_open_store(world);
    world_open_layers(world);
}

/* Everything that `info` says of the instance; owned. */
static cJSON *info_of(struct world *world, const char *id)
{
    struct instance *instance = world_found(world, id);
    auto_free char *text = instance_info(instance);
    cJSON *json = cJSON_Parse(text);
    instance_unref(instance);
    assert_non_null(json);
    return json;
}

static void assert_info(const cJSON *info, const char *name, const char *value)
{
    auto_free char *text = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(info, name));
    assert_non_null(text);
    assert_string_equal(text, value);
}

static void instance_when_the_daemon_starts_again_is_the_same(void **state)
{
    static const char config[] = "{ \"vcpus\":2,\n\t\"kernel\":\"/k\", \"cmdline\":\"\\u00e4\"}";
    struct world *world = *state;
    open_world(world);
    assert_int_equal(instances_create(&world->instances, "web-1", &world->err), 0);
    struct instance *instance = world_found(world, "web-1");
    assert_int_equal(instance_set_config(instance, config, sizeof config - 1, &world->err), 0);
    instance_unref(instance);
    auto_json cJSON *before = info_of(world, "web-1");
    world_restart(world);
    auto_json cJSON *after = info_of(world, "web-1");
    assert_true(cJSON_Compare(before, after, true));
    instance = world_found(world, "web-1");
    auto_free char *text = instance_config(instance);
    assert_string_equal(text, config);
    assert_string_equal(instance->machine.kernel, "/k");
    instance_unref(instance);
    assert_string_equal(world->complaints, "");
}

static void instance_when_it_was_at_rest_is_at_rest(void **state)
{
    static const char *const states[] = {"created", "standby", "stopped"};
    struct world *world = *state;
    for (size_t i = 0; i < array_length(states); i++) {
        auto_free char *json = NULL;
        assert_true(asprintf(&json,
                             "\"state\":\"%s\",\"created_at\":\"2024-01-02T03:04:05.678Z\",%s,"
                             "\"vmm\":null",
                             states[i], world_machine) > 0);
        world_leave_instance(world, states[i], json);
    }
    open_world(world);
    for (size_t i = 0; i < array_length(states); i++) {
        auto_json cJSON *info = info_of(world, states[i]);
        struct instance *instance = world_found(world, states[i]);
        assert_string_equal(instance_state_names[instance_state(instance)], states[i]);
        assert_string_equal(instance->machine.type, "pc-q35-7.2");
        assert_true((instance_state(instance) == INSTANCE_STANDBY) ==
                    (strcmp(states[i], "standby") == 0));
        instance_unref(instance);
        assert_info(info, "created_at", "\"2024-01-02T03:04:05.678Z\"");
        assert_info(info, "memory_bytes", "268435456");
        assert_info(info, "pid", "null");
        assert_info(info, "exit", "null");
        assert_info(info, "source", "null");
    }
}

static void exit_when_it_was_noted_is_still_told(void **state)
{
    static const struct {
        const char *id, *exit, *shown;
    } cases[] = {
        {"zero", "{\"code\":0,\"signal\":0,\"at\":\"T\"}", "{\"code\":0,\"at\":\"T\"}"},
        {"three", "{\"code\":3,\"signal\":0,\"at\":\"T\"}", "{\"code\":3,\"at\":\"T\"}"},
        {"killed", "{\"code\":-1,\"signal\":9,\"at\":\"T\"}",
         "{\"signal\":\"SIGKILL\",\"at\":\"T\"}"},
        {"unknown", "{\"code\":-1,\"signal\":0,\"at\":\"T\"}", "{\"code\":null,\"at\":\"T\"}"},
        {"odd", "{\"code\":-1,\"signal\":4711,\"at\":7}", "{\"signal\":\"SIG?\",\"at\":\"\"}"},
        {"empty", "{}", "{\"code\":0,\"at\":\"\"}"},
        {"none", "null", "null"},
    };
    struct world *world = *state;
    for (size_t i = 0; i < array_length(cases); i++) {
        auto_free char *json = NULL;
        assert_true(asprintf(&json, "\"state\":\"stopped\",%s,\"exit\":%s", world_machine,
                             cases[i].exit) > 0);
        world_leave_instance(world, cases[i].id, json);
    }
    open_world(world);
    for (size_t i = 0; i < array_length(cases); i++) {
        auto_json cJSON *info = info_of(world, cases[i].id);
        assert_info(info, "exit", cases[i].shown);
    }
}

/* An instance that was running with that VMM. */
static void leave_running(struct world *world, const char *id, const char *vmm, const char *more)
{
    auto_free char *json = NULL;
    assert_true(asprintf(&json, "\"state\":\"running\",%s,\"vmm\":%s%s", world_machine, vmm, more) >
                0);
    world_leave_instance(world, id, json);
}

static void vmm_when_it_is_the_very_one_is_adopted(void **state)
{
    struct world *world = *state;
    char vmm[256], pid[16];
    size_t child = world_spawn_in_instance(world, "web-1", vmm, sizeof vmm);
    leave_running(world, "web-1", vmm, "");
    open_world(world);
    auto_json cJSON *info = info_of(world, "web-1");
    snprintf(pid, sizeof pid, "%d", (int)world->children[child].pid);
    assert_info(info, "state", "\"running\"");
    assert_info(info, "pid", pid);
    assert_info(info, "exit", "null");
    struct instance *instance = world_found(world, "web-1");
    assert_int_equal(instance_remove(instance, &world->err), -EBUSY);
    instance_unref(instance);
    world_close(world); /* VMs outlive the daemon */
    assert_false(world_child_ended(world, child, 0));
}

/* One by one, what is no identity is none; and there are more than can be. */
static void what_a_vmm_has_open_is_read_whatever_stands_there(void **state)
{
    static const char opened[] = "\"disks\":[\"64512:18446744073709551615\",7,\"x\",\"1:\","
                                 "null,\"2:3\"%s],\"taps\":[4,-1,\"a\",5,6,7,8,9,10,11,12,13,14,"
                                 "15,16,17,18,19]";
    struct world *world = *state;
    char vmm[256], more[8 * MACHINE_DISKS_MAX] = "";
    auto_free char *json = NULL, *members = NULL;
    world_spawn_in_instance(world, "web-1", vmm, sizeof vmm);
    for (int i = 0; i < MACHINE_DISKS_MAX; i++)
        memcpy(more + strlen(more), ",\"1:2\"", sizeof ",\"1:2\"");
    assert_true(asprintf(&members, opened, more) > 0);
    assert_true(asprintf(&json, "\"state\":\"running\",%s,\"vmm\":%.*s,%s}", world_machine,
                         (int)strlen(vmm) - 1, vmm, members) > 0);
    world_leave_instance(world, "web-1", json);
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    const struct vmm *found = instance->vmm;
    assert_non_null(found);
    assert_int_equal(found->disks[0].device, 64512);
    assert_true(found->disks[0].inode == UINT64_MAX);
    for (size_t i = 1; i < 5; i++)
        assert_int_equal(found->disks[i].inode, 0);
    assert_int_equal(found->disks[5].inode, 3);
    assert_int_equal(found->disks[MACHINE_DISKS_MAX - 1].inode, 2);
    assert_int_equal(found->taps[0], 4);
    assert_int_equal(found->taps[1], 0);
    assert_int_equal(found->taps[2], 0);
    assert_int_equal(found->taps[MACHINE_INTERFACES_MAX - 1], 17);
    instance_unref(instance);
}

static void vmm_when_it_is_not_the_very_one_is_not_adopted(void **state)
{
    struct world *world = *state;
    char same[256];
    static const struct {
        const char *id, *member, *value;
    } changes[] = {{"other-start", "start_time", "\"1\""},
                   {"no-start", "start_time", "null"},
                   {"empty-start", "start_time", "\"\""},
                   {"other-boot", "boot_id", "\"00000000-0000\""},
                   {"no-boot", "boot_id", "7"},
                   {"other-pid", "pid", "1"},
                   {"no-pid", "pid", "\"x\""},
                   {"zero-pid", "pid", "0"},
                   {"negative-pid", "pid", "-1"},
                   {"large-pid", "pid", "1e300"}};
    for (size_t i = 0; i < array_length(changes); i++) {
        world_spawn_in_instance(world, changes[i].id, same, sizeof same);
        auto_json cJSON *other = cJSON_Parse(same);
        cJSON_ReplaceItemInObjectCaseSensitive(other, changes[i].member,
                                               cJSON_Parse(changes[i].value));
        auto_free char *text = cJSON_PrintUnformatted(other);
        leave_running(world, changes[i].id, text, "");
    }
    leave_running(world, "no-vmm", "null", "");
    leave_running(world, "odd-vmm", "[1]", "");
    open_world(world);
    assert_string_equal(world->complaints, "");
    size_t count;
    auto_free struct snapshot_name *names = instances_list(&world->instances, NULL, &count);
    assert_int_equal(count, array_length(changes) + 2);
    for (size_t i = 0; i < count; i++) {
        auto_json cJSON *info = info_of(world, names[i].id);
        assert_info(info, "state", "\"stopped\"");
        assert_info(info, "pid", "null");
        const cJSON *exit = cJSON_GetObjectItemCaseSensitive(info, "exit");
        assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(exit, "code")));
        struct instance *instance = world_found(world, names[i].id);
        assert_int_equal(instance_remove(instance, &world->err), 0);
        instance_unref(instance);
    }
}

/* A record that was copied or forged names a process with all that tells it from others. */
static void vmm_when_no_daemon_started_it_there_is_left_alone(void **state)
{
    static const char *const ids[] = {"foreign", "foreign-inside", "of-another"};
    struct world *world = *state;
    char vmm[256];
    for (size_t i = 0; i < array_length(ids); i++)
        world_make_instance(world, ids[i]);
    world_make_instance(world, "other");
    const size_t children[] = {
        world_spawn(world, NULL),
        world_spawn(world, world_path(world, "store/instances/foreign-inside/run")),
        world_spawn_vmm(world, world_path(world, "store/instances/other/run"))};
    for (size_t i = 0; i < array_length(ids); i++) {
        world_describe_child(world, children[i], vmm, sizeof vmm);
        leave_running(world, ids[i], vmm, "");
    }
    leave_running(world, "other", vmm, "");
    open_world(world);
    assert_string_equal(world->complaints, "");
    for (size_t i = 0; i < array_length(ids); i++) {
        struct instance *instance = world_found(world, ids[i]);
        assert_int_equal(instance_state(instance), INSTANCE_STOPPED);
        assert_int_equal(instance_remove(instance, &world->err), 0);
        instance_unref(instance);
    }
    for (size_t i = 0; i < array_length(children); i++)
        assert_false(world_child_ended(world, children[i], 0));
    struct instance *other = world_found(world, "other");
    assert_int_equal(instance_state(other), INSTANCE_RUNNING);
    instance_unref(other);
}

static void vmm_when_it_ended_before_the_start_leaves_a_stopped_instance(void **state)
{
    struct world *world = *state;
    char vmm[256];
    size_t child = world_spawn_in_instance(world, "web-1", vmm, sizeof vmm);
    pidfd_send_signal(world->children[child].pidfd, SIGKILL, NULL, 0);
    waitid(P_PIDFD, (id_t)world->children[child].pidfd, &(siginfo_t){0}, WEXITED);
    leave_running(world, "web-1", vmm, "");
    open_world(world);
    auto_json cJSON *info = info_of(world, "web-1");
    assert_info(info, "state", "\"stopped\"");
    world_restart(world); /* when that was noticed is not told anew */
    auto_json cJSON *later = info_of(world, "web-1");
    assert_true(cJSON_Compare(info, later, true));
}

/* Waits for `changed` until the instance is in that state. */
static void await_state(struct world *world, struct instance *instance, enum instance_state state)
{
    while (instance_state(instance) != state)
        assert_true(gate_wait(&world->changed, FIXTURE_FAR_MS));
}

static void vmm_when_it_ends_after_the_start_is_noticed(void **state)
{
    struct world *world = *state;
    char vmm[256];
    size_t child = world_spawn_in_instance(world, "web-1", vmm, sizeof vmm);
    leave_running(world, "web-1", vmm, "");
    open_world(world);
    struct instance *instance = world_found(world, "web-1");
    pidfd_send_signal(world->children[child].pidfd, SIGKILL, NULL, 0);
    await_state(world, instance, INSTANCE_STOPPED);
    instance_unref(instance);
    auto_json cJSON *info = info_of(world, "web-1");
    const cJSON *exit = cJSON_GetObjectItemCaseSensitive(info, "exit");
    assert_info(exit, "signal", "\"SIGKILL\"");
    world_restart(world);
    auto_json cJSON *later = info_of(world, "web-1");
    assert_true(cJSON_Compare(info, later, true));
}

static void boot_when_the_vm_ended_while_no_daemon_ran_knows_its_kernel(void **state)
{
    struct world *world = *state;
    leave_running(world, "web-1", "null",
                  ",\"config\":\"{\\\"kernel\\\":\\\"/no/such/kernel\\\",\\\"vcpus\\\":2}\"");
    world_install_qemu(world, world_qemu_that_dies);
    open_world(world);
    struct instance *instance = world_found(world, "web-1");
    assert_int_equal(instance_state(instance), INSTANCE_STOPPED);
    assert_int_equal(instance_change(instance, INSTANCE_RUNNING, 0, &world->err), -EIO);
    assert_non_null(strstr(world->err.text, "no such luck"));
    instance_unref(instance);
}

static void fork_when_its_vmm_runs_uses_its_snapshot(void **state)
{
    struct world *world = *state;
    char vmm[256], source[128];
    open_world(world);
    world_publish_box(world, "base");
    struct snapshot *base = snapshots_find(&world->snapshots, "base");
    snprintf(source, sizeof source,
             ",\"loaded\":true,\"source\":{\"snapshot\":\"base\",\"uuid\":\"%s\"}", base->uuid);
    snapshot_unref(base);
    world_close(world);
    world_spawn_in_instance(world, "fork-1", vmm, sizeof vmm);
    leave_running(world, "fork-1", vmm, source);
    leave_running(world, "fork-2", "null", source);
    world_spawn_in_instance(world, "fork-3", vmm, sizeof vmm);
    leave_running(world, "fork-3", vmm,
                  ",\"source\":{\"snapshot\":\"base\",\"uuid\":\"00000000000000000000000000000000"
                  "\"}");
    for (int i = 1; i <= 3; i++)
        world_write_text(world_path(world, "store/instances/fork-%d/fork.json", i),
                         "{\"version\":1,\"options\":\"{}\",\"result\":{}}");
    auto_free char *memory = strdup(world_path(world, "store/snapshots/base/memory"));
    assert_int_equal(link(memory, world_path(world, "store/instances/fork-1/base")), 0);
    open_world(world);
    assert_string_equal(world->complaints, "");
    base = snapshots_find(&world->snapshots, "base");
    assert_int_equal(base->users, 1);
    assert_int_equal(snapshot_remove(base, &world->err), -EBUSY);
    auto_json cJSON *info = info_of(world, "fork-1");
    assert_info(info, "source", "{\"snapshot\":\"base\"}");
    size_t count;
    auto_free struct snapshot_name *forks = instances_list(&world->instances, base->uuid, &count);
    assert_non_null(forks);
    assert_int_equal(count, 2);
    struct instance *fork = world_found(world, "fork-1");
    assert_non_null(fork->fork);
    assert_int_equal(instance_change(fork, INSTANCE_STOPPED, 0, &world->err), 0);
    instance_unref(fork);
    assert_int_equal(base->users, 0);
    assert_int_equal(snapshot_remove(base, &world->err), 0);
    snapshot_unref(base);
}

static void leave_with_config(const struct world *world, const char *id, const char *members)
{
    auto_free char *json = NULL;
    assert_true(asprintf(&json, "%s,\"config\":\"{}\",%s", members, world_machine) > 0);
    world_leave_instance(world, id, json);
}

static void fork_when_its_record_is_damaged_is_there_without_it(void **state)
{
    struct world *world = *state;
    leave_with_config(world, "fork-1",
                      "\"state\":\"stopped\",\"source\":{\"snapshot\":\"base\",\"uuid\":\"x\"}");
    world_write_text(world_path(world, "store/instances/fork-1/fork.json"), "{\"error\":\"\xE2\"}");
    open_world(world);
    assert_non_null(strstr(world->complaints, "the record of the fork fork-1"));
    struct instance *fork = world_found(world, "fork-1");
    assert_null(fork->fork);
    instance_unref(fork);
}

static void instance_when_its_record_is_damaged_is_left_out_and_named(void **state)
{
    static const struct {
        const char *id, *text, *why;
    } damages[] = {
        {"empty", "", "ends too early"},
        {"array", "[]", "line 1"},
        {"cut", "{\"version\":1,\"id\":\"cut\",\"state\":\"cre", "ends too early"},
        {"no-version", "{}", "\"version\" is not a number from 1 to 2"},
        {"version-3", "{\"version\":3}",
         "\"version\" is 3, of a newer hypefs, and this one knows 2"},
        {"no-state", "{\"version\":1}", "\"state\" is not a state"},
        {"odd-state", "{\"version\":1,\"state\":\"happy\"}", "\"state\" is not a state"},
        {"long-state", "{\"version\":1,\"state\":\"stoppedstoppedstopped\"}",
         "\"state\" is not a state"},
        {"odd-intent", "{\"version\":2,\"state\":\"running\",\"intent\":\"fly\"}",
         "\"intent\" is not an intent"},
        {"no-machine", "{\"version\":1,\"state\":\"stopped\",\"hypervisor\":\"qemu\"}",
         "JSON object"},
        {"no-hypervisor", "{\"version\":1,\"state\":\"stopped\"}",
         "this version does not run the hypervisor \"\""},
        {"later-hypervisor",
         "{\"version\":1,\"state\":\"stopped\",\"hypervisor\":\"bhyve\",\"machine\":{}}",
         "this version does not run the hypervisor \"bhyve\""},
        {"later-config",
         "{\"version\":1,\"state\":\"stopped\",\"config\":\"{\\\"hypervisor\\\":"
         "\\\"bhyve\\\"}\"}",
         "\"hypervisor\" must be one of"},
        {"odd-machine",
         "{\"version\":1,\"state\":\"stopped\",\"hypervisor\":\"qemu\",\"machine\":{\"vcpus\":-1}}",
         "vcpus"},
        {"odd-disks", /* of which overlays may be there, that must not be taken for another's */
         "{\"version\":1,\"state\":\"stopped\",\"config\":\"{}\",\"machine\":{\"vcpus\":-1}}",
         "vcpus"},
        {"odd-config", "{\"version\":1,\"state\":\"stopped\",\"config\":\"{\"}", "too early"},
        {"odd-source",
         "{\"version\":1,\"state\":\"stopped\",\"config\":\"{}\","
         "\"source\":{\"snapshot\":\"../../etc\",\"uuid\":\"x\"}}",
         "is no id"},
    };
    struct world *world = *state;
    leave_with_config(world, "good", "\"state\":\"created\"");
    for (size_t i = 0; i < array_length(damages); i++) {
        assert_int_equal(mkdir(world_path(world, "store/instances/%s", damages[i].id), 0700), 0);
        world_write_text(world_path(world, "store/instances/%s/instance.json", damages[i].id),
                         damages[i].text);
    }
    assert_int_equal(mkdir(world_path(world, "store/instances/nothing"), 0700), 0);
    world_write_text(world_path(world, "store/instances/file"), "");
    open_world(world);
    instance_unref(world_found(world, "good"));
    for (size_t i = 0; i < array_length(damages); i++) {
        char line[128];
        assert_null(instances_find(&world->instances, damages[i].id));
        snprintf(line, sizeof line, "instance %s: ", damages[i].id);
        const char *at = strstr(world->complaints, line);
        if (!at || !strstr(at, damages[i].why))
            fail_msg("%s: %s", damages[i].id, at);
        assert_int_equal(instances_create(&world->instances, damages[i].id, &world->err), -EEXIST);
    }
    assert_non_null(strstr(world->complaints, "instance nothing: "));
    assert_non_null(strstr(world->complaints, "instance file: "));
    int before = world_descriptors();
    world_restart(world);
    assert_int_equal(world_descriptors(), before);
}

/* The record is a save behind: the store had no room for it. */
static void overlay_of_a_vm_that_ended_before_the_start_stays(void **state)
{
    static const char disks[] =
        "\"disks\":[{\"path\":\"/none\",\"format\":\"raw\",\"readonly\":false}]";
    struct world *world = *state;
    auto_free char *json = NULL;
    const char *rest = strstr(world_machine, "\"disks\":[]");
    assert_true(asprintf(&json, "\"state\":\"running\",%.*s%s%s,\"vmm\":null",
                         (int)(rest - world_machine), world_machine, disks,
                         rest + strlen("\"disks\":[]")) > 0);
    world_leave_instance(world, "web-1", json);
    world_leave_overlay(world, "web-1");
    for (int i = 0; i < 2; i++) {
        world_open_whole(world);
        struct instance *instance = world_found(world, "web-1");
        assert_int_equal(instance_state(instance), INSTANCE_STOPPED);
        assert_int_equal(disk_top(&instance->machine.disks[0]), 1);
        instance_unref(instance);
        assert_true(world_has(world_path(world, "store/instances/web-1/run/disk0.1.qcow2")));
        world_close(world);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY(instance_when_the_daemon_starts_again_is_the_same),
        IN_EMPTY(instance_when_it_was_at_rest_is_at_rest),
        IN_EMPTY(exit_when_it_was_noted_is_still_told),
        IN_EMPTY(vmm_when_it_is_the_very_one_is_adopted),
        IN_EMPTY(what_a_vmm_has_open_is_read_whatever_stands_there),
        IN_EMPTY(vmm_when_it_is_not_the_very_one_is_not_adopted),
        IN_EMPTY(vmm_when_no_daemon_started_it_there_is_left_alone),
        IN_EMPTY(vmm_when_it_ended_before_the_start_leaves_a_stopped_instance),
        IN_EMPTY(vmm_when_it_ends_after_the_start_is_noticed),
        IN_EMPTY(boot_when_the_vm_ended_while_no_daemon_ran_knows_its_kernel),
        IN_EMPTY(fork_when_its_vmm_runs_uses_its_snapshot),
        IN_EMPTY(instance_when_its_record_is_damaged_is_left_out_and_named),
        IN_EMPTY(overlay_of_a_vm_that_ended_before_the_start_stays),
        IN_EMPTY(fork_when_its_record_is_damaged_is_there_without_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
