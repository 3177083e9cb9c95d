/* SPDX-License-Identifier: MIT */
/* The files of an instance: config, state, snapshot, error, info and the logs. */
#include <poll.h>

#include "tree_fixture.h"

#define ONE "instances/one/"

/* An instance "one", just made. */
static int setup(void **state)
{
    int r = tree_setup(state);
    return r < 0 ? r : tree_mkdir(*state, "instances/one");
}

static void config_when_written_takes_effect_at_the_flush(void **state)
{
    static const char text[] = "{\n  \"vcpus\": 2\n}\n";
    struct tree *tree = *state;
    tree_assert_has(tree, ONE "config", "\"memory_mib\": 256");
    struct handle *handle = tree_open(tree, ONE "config", O_WRONLY | O_TRUNC);
    assert_int_equal(tree_write_at(tree, handle, text, 0), 0);
    tree_assert_has(tree, ONE "info", "\"vcpus\": 1");
    assert_int_equal(tree_flush(tree, handle), 0);
    fs_release(tree->fs, handle);
    tree_assert_text(tree, ONE "config", text);
    tree_assert_has(tree, ONE "info", "\"vcpus\": 2");
    assert_int_equal(tree_stat(tree, ONE "config").st_size, strlen(text));
    handle = tree_open(tree, ONE "config", O_RDWR); /* edited in place */
    assert_int_equal(tree_write_at(tree, handle, "3", 13), 0);
    assert_int_equal(tree_flush(tree, handle), 0);
    fs_release(tree->fs, handle);
    tree_assert_has(tree, ONE "info", "\"vcpus\": 3");
    tree_restart(tree);
    tree_assert_has(tree, ONE "config", "\"vcpus\": 3");
}

static void config_when_refused_says_why_and_stops_a_boot(void **state)
{
    struct tree *tree = *state;
    tree_must_put(tree, ONE "config", "{\"kernel\":\"/bin/true\"}\n");
    assert_int_equal(tree_put(tree, ONE "config", "{\"vcpus\":0}"), -EINVAL);
    tree_assert_has(tree, ONE "error", "config: \"vcpus\" must be a whole number");
    tree_assert_text(tree, ONE "config", "");
    assert_int_equal(tree_put(tree, ONE "state", "running\n"), -EINVAL);
    tree_assert_has(tree, ONE "error", "config: \"vcpus\"");
    assert_int_equal(tree_put(tree, ONE "config", "{\"kernel\":"), -EINVAL);
    tree_assert_has(tree, ONE "error", "config: the JSON object is not complete");
    tree_assert_text(tree, ONE "config", "");
    assert_int_equal(tree_put(tree, ONE "config", "{\"kernel\":\n"), -EINVAL);
    tree_assert_has(tree, ONE "error", "config: unfinished");
    tree_assert_text(tree, ONE "config", "{\"kernel\":\n");
    assert_int_equal(tree_put(tree, ONE "state", "running\n"), -EINVAL);
    assert_int_equal(tree_put(tree, ONE "config", "{\"network\":{\"mode\":\"tap\"}}"), -EINVAL);
    tree_assert_has(tree, ONE "error",
                    "config: \"network\": with \"mode\": \"tap\", \"tap\" must be");
    tree_must_put(tree, ONE "config", "{\"kernel\":\"/bin/true\",\"vcpus\":4}\n");
    tree_assert_text(tree, ONE "error", "");
    assert_int_equal(tree_put(tree, ONE "state", "running\n"), -EIO); /* there is no QEMU */
    tree_assert_has(tree, ONE "error", tree->world->qemu);
    tree_assert_text(tree, ONE "state", "created\n");
}

static struct gate *check_may_end; /* NULL: at once */

int __real_config_check_files(const struct store *store, const char *text, size_t size,
                              struct error *err);
int __wrap_config_check_files(const struct store *store, const char *text, size_t size,
                              struct error *err);
int __wrap_config_check_files(const struct store *store, const char *text, size_t size,
                              struct error *err)
{
    if (check_may_end)
        gate_wait(check_may_end, FIXTURE_FAR_MS);
    return __real_config_check_files(store, text, size, err);
}

/* What the text names turns out to be good before the file is closed. */
static void config_when_its_write_was_interrupted_is_not_taken(void **state)
{
    static const char text[] = "{\"vcpus\":2}";
    enum { NO_THREAD = INT_MAX };
    struct tree *tree = *state;
    struct caller caller;
    struct gate gate;
    gate_init(&gate);
    check_may_end = &gate;
    struct handle *handle = tree_open(tree, ONE "config", O_WRONLY | O_TRUNC);
    caller_init(&caller);
    caller.waiter.tid = NO_THREAD; /* it waits no more */
    int r = fs_write(tree->fs, handle, text, strlen(text), 0, false, &caller.waiter);
    fs_interrupt(tree->fs, &caller);
    r = caller_wait(&caller, r);
    gate_post(&gate);
    fs_stop(tree->fs); /* waits for the check */
    check_may_end = NULL;
    gate_finish(&gate);
    assert_int_equal(r, -EINTR);
    assert_int_equal(tree_flush(tree, handle), -EINTR);
    fs_release(tree->fs, handle);
    tree_assert_has(tree, ONE "error", "config: the write was interrupted");
    tree_assert_has(tree, ONE "info", "\"vcpus\": 1");
}

static void leave(struct tree *tree, const char *id, const char *state, const char *vmm)
{
    auto_free char *json = NULL;
    assert_true(asprintf(&json, "\"state\":\"%s\",\"config\":\"{}\",%s,\"vmm\":%s", state,
                         world_machine, vmm) > 0);
    world_leave_instance(tree->world, id, json);
}

static size_t leave_running(struct tree *tree, const char *id)
{
    char vmm[256];
    size_t child = world_spawn_in_instance(tree->world, id, vmm, sizeof vmm);
    leave(tree, id, "running", vmm);
    return child;
}

static void config_when_the_instance_is_not_at_rest_is_busy(void **state)
{
    static const char *const ids[] = {"up", "saved"};
    struct tree *tree = *state;
    struct handle *handle, *before = tree_open(tree, ONE "config", O_RDWR);
    fs_release(tree->fs, before);
    leave_running(tree, "up");
    leave(tree, "saved", "standby", "null");
    tree_restart(tree);
    for (size_t i = 0; i < array_length(ids); i++) {
        char config[64], error[64];
        snprintf(config, sizeof config, "instances/%s/config", ids[i]);
        snprintf(error, sizeof error, "instances/%s/error", ids[i]);
        assert_int_equal(tree_open_flags(tree, config, O_WRONLY, &handle), -EBUSY);
        assert_int_equal(tree_open_flags(tree, config, O_RDWR | O_TRUNC, &handle), -EBUSY);
        tree_assert_has(tree, error, "write stopped to state first");
        tree_assert_text(tree, config, "{}");
        assert_int_equal(tree_rmdir(tree, "instances/up"), -EBUSY);
    }
    tree_assert_has(tree, "instances/up/error", "write stopped to its state first");
    tree_must_put(tree, "instances/up/state", "stopped");
    tree_assert_text(tree, "instances/up/error", "");
    tree_must_put(tree, "instances/up/config", "{\"vcpus\":2}");
}

static void state_when_written_changes_or_says_why_not(void **state)
{
    static const struct {
        const char *text;
        int code;
        const char *why;
    } cases[] = {
        {"\n", EINVAL, "state takes one of the words running, paused, standby, stopped"},
        {"created", EINVAL, "state takes one of the words"},
        {"Running", EINVAL, "state takes one of the words"},
        {"running stopped", EINVAL, "state takes one of the words"},
        {"runningrunningrunningrunningrunningrunningrunningrunningrunningrunning", EINVAL,
         "state takes one of the words"},
        {"running", EINVAL, "nothing to boot"},
        {"paused", EINVAL, "created cannot become paused"},
        {" standby\n", EINVAL, "created cannot become standby"},
    };
    struct tree *tree = *state;
    tree_assert_text(tree, ONE "state", "created\n");
    for (size_t i = 0; i < array_length(cases); i++) {
        int r = tree_put(tree, ONE "state", cases[i].text);
        if (r != -cases[i].code)
            fail_msg("%s: %d", cases[i].text, r);
        tree_assert_has(tree, ONE "error", cases[i].why);
        tree_assert_text(tree, ONE "state", "created\n");
    }
    assert_int_equal(tree_put(tree, ONE "state", "\tstopped \n\n"), 0);
    tree_assert_text(tree, ONE "state", "stopped\n");
    tree_assert_text(tree, ONE "error", "");
    assert_int_equal(tree_put(tree, ONE "state", "stopped"), 0);
}

static void snapshot_when_written_publishes_or_says_why_not(void **state)
{
    struct tree *tree = *state;
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_arm(world_page(&image, 1), "box", "token");
    leave(tree, "saved", "standby", "null");
    world_write(world_path(tree->world, "store/instances/saved/run/memory"), 0600, image.bytes,
                image.size);
    world_write_text(world_path(tree->world, "store/instances/saved/run/state"), "device");
    tree_restart(tree);
    assert_int_equal(tree_put(tree, ONE "snapshot", "base"), -EINVAL);
    tree_assert_has(tree, ONE "error", "created has no memory to snapshot");
    assert_int_equal(tree_put(tree, "instances/saved/snapshot", "Base"), -EINVAL);
    tree_assert_has(tree, "instances/saved/error", "snapshot takes an id");
    assert_int_equal(tree_put(tree, "instances/saved/snapshot", "\n"), -EINVAL);
    assert_int_equal(tree_put(tree, "instances/saved/snapshot", "base\n"), 0);
    tree_assert_text(tree, "instances/saved/error", "");
    tree_assert_names(tree, "snapshots", "base ");
    tree_assert_names(tree, "snapshots/base/mailboxes", "box ");
    assert_int_equal(tree_put(tree, "instances/saved/snapshot", "base"), -EEXIST);
    tree_assert_has(tree, "instances/saved/error", "there is a snapshot base already");
    tree_assert_text(tree, "instances/saved/snapshot", ""); /* reading it gives nothing */
}

static void append(const char *path, const char *text)
{
    auto_close int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void log_when_appended_to_is_seen_by_who_has_it_open(void **state)
{
    struct tree *tree = *state;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", world_path(tree->world, "store/instances/one/console.log"));
    struct handle *handle = tree_open(tree, ONE "console", O_RDONLY);
    auto_free char *first = tree_read_open(tree, handle);
    assert_string_equal(first, "");
    append(path, "booting\n");
    auto_free char *second = tree_read_open(tree, handle);
    assert_string_equal(second, "booting\n");
    append(path, "login: ");
    auto_free char *rest = NULL;
    size_t size;
    assert_int_equal(fs_read(tree->fs, handle, 100, 8, NULL, &rest, &size), 0);
    assert_int_equal(size, 7);
    assert_memory_equal(rest, "login: ", 7);
    struct stat st = tree_stat(tree, ONE "console");
    assert_int_equal(st.st_size, 15);
    assert_int_equal(st.st_blocks, 1);
    assert_int_equal(fs_poll(tree->fs, handle, NULL), POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM);
    fs_release(tree->fs, handle);
    tree_assert_text(tree, ONE "vmm.log", "");
}

static void log_when_it_is_no_file_does_not_stop_the_mount(void **state)
{
    struct tree *tree = *state;
    const char *path = world_path(tree->world, "store/instances/one/console.log");
    char *bytes;
    size_t size;
    struct handle *handle;
    assert_int_equal(remove(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(FIXTURE_FAR_MS / 1000);
    handle = tree_open(tree, ONE "console", O_RDONLY);
    assert_int_equal(fs_read(tree->fs, handle, 10, 0, NULL, &bytes, &size), -ESPIPE);
    fs_release(tree->fs, handle);
    alarm(0);
    assert_int_equal(remove(path), 0);
    assert_int_equal(symlink("/bin/true", path), 0);
    assert_int_equal(tree_open_flags(tree, ONE "console", O_RDONLY, &handle), -ELOOP);
}

enum { CHANGED = POLLIN | POLLRDNORM | POLLPRI };

static void poll_when_the_vmm_ends_wakes_state_and_info(void **state)
{
    struct tree *tree = *state;
    size_t child = leave_running(tree, "up");
    tree_restart(tree);
    struct handle *word = tree_open(tree, "instances/up/state", O_RDONLY);
    struct handle *info = tree_open(tree, "instances/up/info", O_RDONLY);
    assert_int_equal(fs_poll(tree->fs, word, NULL), CHANGED | POLLOUT | POLLWRNORM);
    free(tree_read_open(tree, word));
    free(tree_read_open(tree, info));
    assert_int_equal(fs_poll(tree->fs, word, tree), POLLOUT | POLLWRNORM);
    assert_int_equal(fs_poll(tree->fs, info, tree), 0);
    pidfd_send_signal(tree->world->children[child].pidfd, SIGKILL, NULL, 0);
    assert_true(gate_wait(&tree->woke, FIXTURE_FAR_MS));
    assert_true(gate_wait(&tree->woke, FIXTURE_FAR_MS));
    assert_int_equal(fs_poll(tree->fs, info, NULL), CHANGED);
    auto_free char *text = tree_read_open(tree, word);
    assert_string_equal(text, "stopped\n");
    fs_release(tree->fs, word);
    fs_release(tree->fs, info);
    tree_assert_has(tree, "instances/up/info", "\"signal\": \"SIGKILL\"");
}

/* Two writers of "running", on the heap: they are answered even when the test has failed. */
static void transition_when_another_is_under_way_joins_waits_or_ends_it(void **state)
{
    struct tree *tree = *state;
    struct caller *callers = calloc(2, sizeof *callers);
    struct handle *handles[2];
    int results[2];
    char byte;
    world_install_qemu_that_hangs(tree->world);
    tree_must_put(tree, ONE "config", "{\"kernel\":\"/bin/true\"}");
    auto_close int started = open(world_path(tree->world, "started"), O_RDWR | O_CLOEXEC);
    for (int i = 0; i < 2; i++) {
        caller_init(&callers[i]);
        handles[i] = tree_open(tree, ONE "state", O_WRONLY);
        results[i] = fs_write(tree->fs, handles[i], "running", 7, 0, false, &callers[i].waiter);
        assert_int_equal(results[i], FS_LATER);
        assert_true(i > 0 || read(started, &byte, 1) == 1);
    }
    tree_assert_text(tree, ONE "state", "created\n"); /* the old word until it is there */
    assert_int_equal(tree_put(tree, ONE "state", "paused"), -EBUSY);
    tree_assert_has(tree, ONE "error", "another transition is under way");
    assert_int_equal(tree_put(tree, ONE "snapshot", "base"), -EBUSY);
    assert_int_equal(tree_rmdir(tree, "instances/one"), -EBUSY);
    assert_int_equal(tree_put(tree, ONE "config", "{}"), -EBUSY);
    assert_int_equal(tree_put(tree, ONE "state", "stopped"), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(caller_wait(&callers[i], results[i]), -ECANCELED);
        fs_release(tree->fs, handles[i]);
    }
    free(callers);
    tree_assert_text(tree, ONE "state", "stopped\n");
    assert_int_equal(tree_rmdir(tree, "instances/one"), 0);
}

/* A change is told of by a thread that began before `since` when `held` is posted. */
static struct gate held;
static pid_t since;
static void (*pass_on)(struct world *world, const char *id);

static void *note_thread(void *ret)
{
    *(pid_t *)ret = gettid();
    return NULL;
}

/* The kernel gives the numbers in their order, and begins anew after the last. */
static bool is_before(pid_t thread, pid_t other)
{
    enum { FAR = 1 << 14 };
    return thread < other ? other - thread < FAR : thread - other > FAR;
}

static void hold_up(struct world *world, const char *id)
{
    pass_on(world, id);
    if (is_before(gettid(), since))
        gate_wait(&held, FIXTURE_FAR_MS);
}

/* The boot that was ended comes to its end after the stop that ended it. */
static void error_when_an_earlier_write_is_answered_later_is_that_of_the_last(void **state)
{
    struct tree *tree = *state;
    struct caller *caller = calloc(1, sizeof *caller);
    char byte;
    world_install_qemu_that_hangs(tree->world);
    tree_must_put(tree, ONE "config", "{\"kernel\":\"/bin/true\"}");
    auto_close int started = open(world_path(tree->world, "started"), O_RDWR | O_CLOEXEC);
    gate_init(&held);
    pass_on = tree->world->on_changed;
    tree->world->on_changed = hold_up;
    struct handle *handle = tree_open(tree, ONE "state", O_WRONLY);
    caller_init(caller);
    int r = fs_write(tree->fs, handle, "running", 7, 0, false, &caller->waiter);
    assert_int_equal(read(started, &byte, 1), 1);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, note_thread, &since), 0);
    pthread_join(thread, NULL);
    assert_int_equal(tree_put(tree, ONE "state", "stopped"), 0);
    gate_post(&held);
    assert_int_equal(caller_wait(caller, r), -ECANCELED);
    tree_assert_text(tree, ONE "error", "");
    assert_int_equal(tree_put(tree, ONE "state", "paused"), -EINVAL); /* one after that counts */
    tree_assert_has(tree, ONE "error", "stopped cannot become paused");
    fs_release(tree->fs, handle);
    free(caller);
    tree->world->on_changed = pass_on;
    gate_finish(&held);
}

static void fork_when_its_record_cannot_be_read_is_not_linked(void **state)
{
    static const char *const records[] = {"{\"options\":", "{}"};
    struct tree *tree = *state;
    struct stat st;
    world_publish_box(tree->world, "base");
    tree_leave_fork(tree, "");
    for (size_t i = 0; i < array_length(records); i++) {
        world_write_text(world_path(tree->world, "store/instances/web-1/fork.json"), records[i]);
        tree_restart(tree);
        tree_assert_names(tree, "instances/web-1",
                          "info config state snapshot accept error console vmm.log forks ");
        assert_int_equal(tree_try_walk(tree, "instances/web-1/fork", &st), -ENOENT);
        tree_assert_names(tree, "snapshots/base/forks", "commit new ");
    }
    world_write_text(world_path(tree->world, "store/instances/web-1/fork.json"),
                     "{\"version\":1,\"result\":{\"status\":\"committed\"}}");
    tree_restart(tree);
    assert_true(tree_try_walk(tree, "instances/web-1/fork", &st) > 0);
    assert_true(S_ISLNK(st.st_mode));
}

static void transitions_when_the_daemon_stops_are_answered(void **state)
{
    struct tree *tree = *state;
    struct caller *caller = calloc(1, sizeof *caller);
    char byte;
    world_install_qemu_that_hangs(tree->world);
    tree_must_put(tree, ONE "config", "{\"kernel\":\"/bin/true\"}");
    auto_close int started = open(world_path(tree->world, "started"), O_RDWR | O_CLOEXEC);
    struct handle *handle = tree_open(tree, ONE "state", O_WRONLY);
    caller_init(caller);
    int r = fs_write(tree->fs, handle, "running", 7, 0, false, &caller->waiter);
    assert_int_equal(read(started, &byte, 1), 1);
    fs_stop(tree->fs);
    assert_int_equal(caller_wait(caller, r), -ESHUTDOWN);
    fs_release(tree->fs, handle);
    free(caller);
    tree_assert_text(tree, ONE "error", "the daemon is stopping\n");
    assert_int_equal(tree_put(tree, ONE "state", "stopped"), -ESHUTDOWN);
}

#define WITH_ONE(test) cmocka_unit_test_setup_teardown(test, setup, tree_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_ONE(config_when_written_takes_effect_at_the_flush),
        WITH_ONE(config_when_refused_says_why_and_stops_a_boot),
        WITH_ONE(config_when_its_write_was_interrupted_is_not_taken),
        WITH_ONE(config_when_the_instance_is_not_at_rest_is_busy),
        WITH_ONE(state_when_written_changes_or_says_why_not),
        WITH_ONE(snapshot_when_written_publishes_or_says_why_not),
        WITH_ONE(log_when_appended_to_is_seen_by_who_has_it_open),
        WITH_ONE(log_when_it_is_no_file_does_not_stop_the_mount),
        WITH_ONE(poll_when_the_vmm_ends_wakes_state_and_info),
        WITH_ONE(transition_when_another_is_under_way_joins_waits_or_ends_it),
        WITH_ONE(error_when_an_earlier_write_is_answered_later_is_that_of_the_last),
        WITH_ONE(fork_when_its_record_cannot_be_read_is_not_linked),
        WITH_ONE(transitions_when_the_daemon_stops_are_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
