/* SPDX-License-Identifier: MIT */
/* Forks that fail before a VM is there, and that nothing is left of them. Those that succeed need a
 * VM: see the suite vm. */
#include <sys/eventfd.h>

#include "fork/engine.h"
#include "world.h"

#define SECRET "s3cr3t-v4lu3"

/* A fork of "base", and what was there before it. */
struct attempt {
    struct world *world;
    struct snapshot *source;
    struct fork_request request;
    struct fork_engine engine;
    struct fork_outcome outcome;
    struct error err;
    int descriptors, instances;
    const char *told; /* the step that began last */
};

static void begun(void *listener, enum fork_step step, bool waiting)
{
    ((struct attempt *)listener)->told = waiting ? "waiting" : fork_step_names[step];
}

static void prepare(struct world *world, struct attempt *attempt)
{
    struct image_index *index;
    *attempt = (struct attempt){.world = world,
                                .source = snapshots_find(&world->snapshots, "base"),
                                .engine = {.instances = &world->instances,
                                           .ack_address = "127.0.0.1",
                                           .cancel_fd = -1,
                                           .on_step = begun,
                                           .listener = attempt}};
    world->complaints[0] = 0; /* publishing may have told of pending mailboxes */
    assert_non_null(attempt->source);
    /* A scan under way has the image open. */
    if (image_index_wait(attempt->source->image, NULL, &index, NULL) == 0)
        image_index_unref(index);
    snprintf(attempt->request.id, sizeof attempt->request.id, "fork-1");
    attempt->request.options_text = strdup("{}");
    attempt->instances = world_count(world_path(world, "store/instances"));
}

static const struct fork_rules rules = {.ack = FORK_ACK_UDP};

static void stage(struct attempt *attempt, const char *name, const char *text)
{
    struct fork_mailbox *mailbox = &attempt->request.mailboxes[attempt->request.count++];
    struct json_check check;
    assert_int_equal(json_check(text, strlen(text), &check), JSON_COMPLETE);
    snprintf(mailbox->name, sizeof mailbox->name, "%s", name);
    assert_int_equal(fork_parse_mailbox(text, check.object, &rules, mailbox, &attempt->err), 0);
}

static const char *text_at(const cJSON *json, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, name));
    return text ? text : "(none)";
}

/* What the tree shows as `result` of a failure. */
static void check_result(const struct attempt *attempt, const char *phase, const char *mailbox)
{
    const cJSON *result = attempt->outcome.result;
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(result, "error");
    auto_free char *text = json_print(result);
    assert_string_equal(text_at(result, "status"), "failed");
    assert_string_equal(text_at(result, "source"), "snapshots/base");
    assert_string_equal(text_at(error, "code"), error_name(attempt->err.code));
    assert_string_equal(text_at(error, "phase"), phase);
    assert_string_equal(text_at(error, "mailbox"), mailbox ? mailbox : "(none)");
    assert_string_equal(text_at(error, "message"), attempt->err.text);
    assert_null(strstr(text, SECRET));
    const cJSON *timings = cJSON_GetObjectItemCaseSensitive(result, "timings_ms");
    assert_int_equal(cJSON_GetArraySize(timings), 9);
}

/* Runs the fork, which must fail so, and checks that nothing is left of it. */
static void assert_fails(struct attempt *attempt, int code, const char *phase, const char *mailbox,
                         const char *why)
{
    struct world *world = attempt->world;
    struct instance *instance = NULL;
    unsigned users = attempt->source->users;
    char id[sizeof attempt->request.id];
    memcpy(id, attempt->request.id, sizeof id);
    world_await_idle(world);
    attempt->descriptors = world_descriptors();
    struct fork_source source = {.snapshot = attempt->source};
    int r =
        fork_run(&attempt->engine, &source, &attempt->request, &attempt->outcome, &attempt->err);
    if (r != -code || !strstr(attempt->err.text, why))
        fail_msg("%d (wanted %d), %s", r, -code, attempt->err.text);
    assert_int_equal(attempt->err.code, code);
    assert_false(attempt->outcome.published);
    check_result(attempt, phase, mailbox);
    assert_string_equal(attempt->told, phase);
    cJSON_Delete(attempt->outcome.result);
    assert_int_equal(attempt->request.count, 0);
    assert_string_equal(attempt->request.id, id);
    for (size_t i = 0; i < DELIVER_MAILBOXES_MAX; i++)
        assert_null(attempt->request.mailboxes[i].payload);
    world_await_idle(world);
    assert_int_equal(world_descriptors(), attempt->descriptors);
    assert_int_equal(attempt->source->users, users);
    assert_int_equal(world_count(world_path(world, "store/instances")), attempt->instances);
    if (code != EEXIST && store_id_valid(id)) {
        assert_int_equal(instances_reserve(&world->instances, id, NULL, &instance, NULL), 0);
        instance_abandon(instance);
    }
    snapshot_unref(attempt->source);
    assert_string_equal(world->complaints, "");
}

/* Publishes "base" with this image, and tries to deliver that text to that mailbox. */
static void assert_not_delivered(struct world *world, const struct world_image *image,
                                 const char *name, const char *text, int code, const char *why)
{
    struct attempt attempt;
    struct snapshot *old = snapshots_find(&world->snapshots, "base");
    if (old)
        assert_int_equal(snapshot_remove(old, &world->err), 0);
    snapshot_unref(old);
    world_publish(world, "base", image);
    prepare(world, &attempt);
    stage(&attempt, name, text);
    assert_fails(&attempt, code, "locate", name, why);
}

static void fork_when_what_was_staged_is_no_request_fails_with_its_error(void **state)
{
    struct world *world = *state;
    struct attempt attempt;
    world_publish_box(world, "base");
    prepare(world, &attempt);
    stage(&attempt, "box", "{\"a\":\"" SECRET "\"}");
    error_set(&attempt.request.refused, ENOSPC, "too many");
    strcpy(attempt.request.refused_mailbox, "box");
    assert_fails(&attempt, ENOSPC, "validate", "box", "too many");
}

static void fork_when_its_id_is_bad_or_taken_fails(void **state)
{
    struct world *world = *state;
    struct instance *reserved;
    struct attempt attempt;
    world_publish_box(world, "base");
    assert_int_equal(instances_create(&world->instances, "fork-1", &world->err), 0);
    prepare(world, &attempt);
    assert_fails(&attempt, EEXIST, "validate", NULL, "there is an instance fork-1 already");
    assert_int_equal(instances_reserve(&world->instances, "fork-2", NULL, &reserved, NULL), 0);
    prepare(world, &attempt);
    snprintf(attempt.request.id, sizeof attempt.request.id, "fork-2");
    assert_fails(&attempt, EEXIST, "validate", NULL, "there is an instance fork-2 already");
    instance_abandon(reserved);
    prepare(world, &attempt);
    snprintf(attempt.request.id, sizeof attempt.request.id, "Fork");
    assert_fails(&attempt, EINVAL, "validate", NULL, "\"Fork\" is not an id");
}

static void fork_when_the_snapshot_is_removed_fails(void **state)
{
    struct world *world = *state;
    struct attempt attempt;
    world_publish_box(world, "base");
    prepare(world, &attempt);
    assert_int_equal(snapshot_remove(attempt.source, &world->err), 0);
    assert_fails(&attempt, ENODEV, "validate", NULL, "the snapshot base is removed");
}

static void fork_when_the_snapshot_cannot_be_forked_says_why(void **state)
{
    static const struct {
        const char *member, *value, *why;
        int code;
    } cases[] = {
        {"hypervisor", "\"bhyve\"", "snapshots of bhyve cannot be forked", EOPNOTSUPP},
        {"kind", "\"running\"", "kind \"running\" cannot be forked", EOPNOTSUPP},
        {"machine", "null", "the machine of the snapshot base: ", EIO},
        {"machine", "{\"vcpus\":1}", "the machine of the snapshot base: ", EIO},
    };
    struct world *world = *state;
    for (size_t i = 0; i < array_length(cases); i++) {
        struct world_image image = {.size = FIXTURE_MEMORY};
        struct attempt attempt;
        auto_json cJSON *json = world_snapshot_json(FIXTURE_MEMORY);
        cJSON_ReplaceItemInObjectCaseSensitive(json, cases[i].member, cJSON_Parse(cases[i].value));
        assert_int_equal(
            snapshots_publish(&world->snapshots, "base", &json, world_fill, &image, &world->err),
            0);
        prepare(world, &attempt);
        struct snapshot *source = snapshot_ref(attempt.source);
        assert_fails(&attempt, cases[i].code, "validate", NULL, cases[i].why);
        assert_int_equal(snapshot_remove(source, &world->err), 0);
        snapshot_unref(source);
    }
}

static void mailbox_when_it_is_not_there_is_not_found(void **state)
{
    struct world *world = *state;
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_arm(world_page(&image, 1), "box", "token");
    assert_not_delivered(world, &image, "fox", "{\"a\":\"" SECRET "\"}", ENOENT,
                         "mailbox \"fox\": it is not in the memory image: its software must have "
                         "armed it before the VM was saved");
    assert_not_delivered(world, &image, "bo", "{}", ENOENT, "mailbox \"bo\"");
    assert_not_delivered(world, &image, "Box", "{}", ENOENT, "mailbox \"Box\"");
}

static void mailbox_when_the_token_is_wrong_is_rejected(void **state)
{
    struct world *world = *state;
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_arm(world_page(&image, 1), "box", "token");
    assert_not_delivered(world, &image, "box", "{\"payload\":{},\"token\":\"" SECRET "\"}",
                         EKEYREJECTED,
                         "not with the token given: use the token in the source's mailboxes/");
    assert_not_delivered(world, &image, "box", "{\"payload\":{},\"token\":\"toke\"}", EKEYREJECTED,
                         "not with the token given");
    assert_not_delivered(world, &image, "box", "{\"payload\":{},\"token\":\"tokens\"}",
                         EKEYREJECTED, "not with the token given");
}

static void mailbox_when_it_is_not_one_is_not_unique(void **state)
{
    struct world *world = *state;
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_arm(world_page(&image, 1), "box", "token");
    frames_arm(world_page(&image, 2), "box", "other");
    assert_not_delivered(world, &image, "box", "{}", ENOTUNIQ, "several tokens");
    memset(&image, 0, sizeof image);
    image.size = FIXTURE_MEMORY;
    frames_arm(world_page(&image, 1) + 8, "box", "token");
    frames_arm(world_page(&image, 2) + 8, "box", "token");
    assert_not_delivered(world, &image, "box", "{}", ENOTUNIQ, "none begins at a page");
}

static void mailbox_when_it_is_pending_or_in_use_is_busy(void **state)
{
    struct world *world = *state;
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_put(world_page(&image, 1), FRAME_FORK, "box", "token", 1, "{}");
    assert_not_delivered(world, &image, "box", "{}", EBUSY, "it is pending");
    frames_arm(world_page(&image, 2), "box", "token"); /* its twin does not help */
    assert_not_delivered(world, &image, "box", "{}", EBUSY, "it is pending");
    memset(&image, 0, sizeof image);
    image.size = FIXTURE_MEMORY;
    frames_arm(world_page(&image, 1) + 8, "box", "token");
    world_page(&image, 1)[FRAME_SIZE - 1] = 1;
    assert_not_delivered(world, &image, "box", "{}", EBUSY, "holds other data");
}

static void mailbox_when_the_payload_would_leave_its_page_is_too_big(void **state)
{
    struct world *world = *state;
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_arm(world_page(&image, 1) + FRAME_SIZE - 264 - 20, "box", "token");
    assert_not_delivered(world, &image, "box", "{\"a\":\"0123456789abcd\"}", EFBIG,
                         "the payload has 22 bytes, there is room for 20");
    assert_not_delivered(world, &image, "box", "{\"payload\":{\"a\":1},\"wait_for_ack\":true}",
                         EFBIG, "there is room for 20"); /* with the port, that is */
}

static void mailboxes_when_one_of_several_cannot_be_delivered_fail_all(void **state)
{
    struct world *world = *state;
    struct world_image image = {.size = FIXTURE_MEMORY};
    struct attempt attempt;
    frames_arm(world_page(&image, 1), "box", "token");
    frames_put(world_page(&image, 2), FRAME_FORK, "fox", "token", 1, "{}");
    world_publish(world, "base", &image);
    prepare(world, &attempt);
    stage(&attempt, "box", "{\"payload\":{\"a\":\"" SECRET "\"},\"wait_for_ack\":true}");
    stage(&attempt, "fox", "{}");
    assert_fails(&attempt, EBUSY, "locate", "fox", "mailbox \"fox\": it is pending");
}

static char *snapshot_file(const struct world *world, const char *name)
{
    char *path = NULL;
    assert_true(asprintf(&path, "%s/snapshots/base/%s", world->path, name) > 0);
    return path;
}

/* The image was touched behind the daemon's back, its size and times are as they were. */
static void overwrite(const char *path, off_t at, const char *bytes)
{
    struct stat st;
    auto_close int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    assert_int_equal(pwrite(fd, bytes, strlen(bytes), at), (ssize_t)strlen(bytes));
    const struct timespec times[] = {st.st_atim, st.st_mtim};
    assert_int_equal(futimens(fd, times), 0);
}

static void image_when_its_marker_is_not_there_any_more_is_eio(void **state)
{
    struct world *world = *state;
    struct attempt attempt;
    auto_free char *memory = snapshot_file(world, "memory");
    world_publish_box(world, "base");
    prepare(world, &attempt);
    stage(&attempt, "box", "{}");
    overwrite(memory, FRAME_SIZE + 24, "fox");
    assert_fails(&attempt, EIO, "locate", "box", "its marker is not there any more");
}

static void image_when_missing_or_of_another_size_is_eio(void **state)
{
    struct world *world = *state;
    struct attempt attempt;
    auto_free char *memory = snapshot_file(world, "memory");
    world_publish_box(world, "base");
    prepare(world, &attempt);
    assert_int_equal(truncate(memory, FIXTURE_MEMORY - 1), 0);
    assert_fails(&attempt, EIO, "locate", NULL, "has 32767 bytes, not the 32768");
    prepare(world, &attempt);
    assert_int_equal(truncate(memory, FIXTURE_MEMORY + FRAME_SIZE), 0);
    stage(&attempt, "box", "{}");
    assert_fails(&attempt, EIO, "locate", NULL, "has 36864 bytes, not the 32768");
    prepare(world, &attempt);
    assert_int_equal(remove(memory), 0);
    assert_fails(&attempt, EIO, "locate", NULL, "cannot be opened: No such file");
    prepare(world, &attempt);
    assert_int_equal(mkfifo(memory, 0600), 0);
    alarm(FIXTURE_FAR_MS / 1000);
    assert_fails(&attempt, EIO, "locate", NULL, "memory image");
    alarm(0);
    prepare(world, &attempt);
    assert_int_equal(remove(memory), 0);
    assert_int_equal(symlink("/dev/zero", memory), 0);
    assert_fails(&attempt, EIO, "locate", NULL, "memory image");
}

static void state_when_missing_or_no_file_is_eio(void **state)
{
    struct world *world = *state;
    struct attempt attempt;
    auto_free char *device = snapshot_file(world, "state");
    world_publish_box(world, "base");
    prepare(world, &attempt);
    assert_int_equal(remove(device), 0);
    assert_fails(&attempt, EIO, "locate", NULL, "the snapshot base: the device state is gone");
    prepare(world, &attempt);
    assert_int_equal(mkfifo(device, 0600), 0);
    alarm(FIXTURE_FAR_MS / 1000);
    assert_fails(&attempt, EIO, "locate", NULL, "the device state is not a regular file");
    alarm(0);
}

static void ack_address_when_not_this_hosts_fails(void **state)
{
    struct world *world = *state;
    struct attempt attempt;
    world_publish_box(world, "base");
    prepare(world, &attempt);
    attempt.engine.ack_address = "203.0.113.1";
    stage(&attempt, "box", "{\"payload\":{},\"wait_for_ack\":true}");
    assert_fails(&attempt, EINVAL, "locate", NULL, "203.0.113.1");
    prepare(world, &attempt);
    attempt.request.options.ack_address = strdup("203.0.113.2");
    stage(&attempt, "box", "{\"payload\":{},\"wait_for_ack\":true}");
    assert_fails(&attempt, EINVAL, "locate", NULL, "203.0.113.2");
}

/* How many commits keep the filler waiting when a step begins. */
static void note_commits(void *listener, enum fork_step step, bool waiting)
{
    struct attempt *attempt = listener;
    struct warm_pool *pool = attempt->engine.warm;
    bool locating = step == FORK_VALIDATE || step == FORK_LOCATE;
    begun(listener, step, waiting);
    pthread_mutex_lock(&pool->lock);
    assert_int_equal(pool->commits, locating ? 0 : 1);
    pthread_mutex_unlock(&pool->lock);
}

/* Locating may take long: of an instance its memory is copied. */
static void filler_waits_for_a_commit_from_its_load_on(void **state)
{
    struct world *world = *state;
    struct attempt attempt;
    struct warm_pool pool;
    const struct warm_setup setup = {.instances = &world->instances, .meminfo = "/proc/meminfo"};
    assert_int_equal(warm_open(&setup, &pool, &world->err), 0);
    world_publish_box(world, "base");
    prepare(world, &attempt);
    attempt.engine.warm = &pool;
    attempt.engine.on_step = note_commits;
    stage(&attempt, "box", "{}");
    assert_fails(&attempt, EIO, "load", NULL, "");
    assert_int_equal(pool.commits, 0);
    warm_close(&pool);
}

static void vmm_when_missing_is_eio(void **state)
{
    struct world *world = *state;
    struct attempt attempt;
    world_publish_box(world, "base");
    prepare(world, &attempt);
    stage(&attempt, "box", "{\"payload\":{\"a\":\"" SECRET "\"},\"wait_for_ack\":true}");
    assert_fails(&attempt, EIO, "load", NULL, world->qemu);
}

static void vmm_when_it_dies_is_eio_with_its_last_words(void **state)
{
    struct world *world = *state;
    struct attempt attempt;
    world_publish_box(world, "base");
    world_install_qemu(world, world_qemu_that_dies);
    prepare(world, &attempt);
    stage(&attempt, "box", "{\"payload\":{\"a\":\"" SECRET "\"},\"wait_for_ack\":true}");
    assert_fails(&attempt, EIO, "load", NULL, "qemu: no such luck");
}

static void vmm_when_of_another_version_is_not_started(void **state)
{
    struct world *world = *state;
    struct attempt attempt;
    auto_free char *script = NULL;
    assert_true(asprintf(&script,
                         "#!/bin/sh\n"
                         "case \"$*\" in *--version) echo 'QEMU emulator version 8.0.1'; exit;; "
                         "esac\n"
                         "echo > '%s'\n",
                         world_path(world, "started")) > 0);
    world_publish_box(world, "base");
    world_install_qemu(world, script);
    prepare(world, &attempt);
    assert_fails(&attempt, EOPNOTSUPP, "load", NULL, "saved by qemu 7.2.22, and the program here");
    assert_false(world_has(world_path(world, "started")));
}

static void image_when_it_was_written_to_by_a_fork_that_failed_is_unchanged(void **state)
{
    struct world *world = *state;
    struct attempt attempt;
    auto_free char *memory = snapshot_file(world, "memory");
    struct stat before, after;
    world_publish_box(world, "base");
    world_install_qemu(world, world_qemu_that_dies);
    assert_int_equal(stat(memory, &before), 0);
    auto_free char *bytes = world_read(memory);
    prepare(world, &attempt);
    stage(&attempt, "box", "{}");
    assert_fails(&attempt, EIO, "load", NULL, "");
    auto_free char *later = world_read(memory);
    assert_memory_equal(bytes, later, FIXTURE_MEMORY);
    assert_int_equal(stat(memory, &after), 0);
    assert_memory_equal(&before.st_mtim, &after.st_mtim, sizeof before.st_mtim);
    assert_int_equal(before.st_ctim.tv_nsec, after.st_ctim.tv_nsec);
}

static void fork_when_the_daemon_stops_ends_at_once(void **state)
{
    struct world *world = *state;
    struct attempt attempt;
    auto_close int cancel = eventfd(1, EFD_CLOEXEC);
    world_publish_box(world, "base");
    world_install_qemu(world, "#!/bin/sh\n"
                              "case \"$*\" in *--version) echo 'QEMU emulator version 7.2.22'; "
                              "exit;; esac\n"
                              "exec tail -f /dev/null\n");
    prepare(world, &attempt);
    attempt.engine.cancel_fd = cancel;
    stage(&attempt, "box", "{\"payload\":{},\"wait_for_ack\":true}");
    assert_fails(&attempt, ESHUTDOWN, "load", NULL, "the daemon is stopping");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_WORLD(fork_when_what_was_staged_is_no_request_fails_with_its_error),
        IN_WORLD(fork_when_its_id_is_bad_or_taken_fails),
        IN_WORLD(fork_when_the_snapshot_is_removed_fails),
        IN_WORLD(fork_when_the_snapshot_cannot_be_forked_says_why),
        IN_WORLD(mailbox_when_it_is_not_there_is_not_found),
        IN_WORLD(mailbox_when_the_token_is_wrong_is_rejected),
        IN_WORLD(mailbox_when_it_is_not_one_is_not_unique),
        IN_WORLD(mailbox_when_it_is_pending_or_in_use_is_busy),
        IN_WORLD(mailbox_when_the_payload_would_leave_its_page_is_too_big),
        IN_WORLD(mailboxes_when_one_of_several_cannot_be_delivered_fail_all),
        IN_WORLD(image_when_its_marker_is_not_there_any_more_is_eio),
        IN_WORLD(image_when_missing_or_of_another_size_is_eio),
        IN_WORLD(state_when_missing_or_no_file_is_eio),
        IN_WORLD(ack_address_when_not_this_hosts_fails),
        IN_WORLD(filler_waits_for_a_commit_from_its_load_on),
        IN_WORLD(vmm_when_missing_is_eio),
        IN_WORLD(vmm_when_it_dies_is_eio_with_its_last_words),
        IN_WORLD(vmm_when_of_another_version_is_not_started),
        IN_WORLD(image_when_it_was_written_to_by_a_fork_that_failed_is_unchanged),
        IN_WORLD(fork_when_the_daemon_stops_ends_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
