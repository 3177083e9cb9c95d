/* SPDX-License-Identifier: MIT */
#include "store/erase.h"
#include "store/notes.h"
#include "world.h"

/* What flock() fails with, or 0, and how often, if not always; see the build file. */
static int flock_errno, flock_failures;

int __real_flock(int fd, int operation);
int __wrap_flock(int fd, int operation);

int __wrap_flock(int fd, int operation)
{
    if (flock_errno == 0)
        return __real_flock(fd, operation);
    errno = flock_errno;
    if (flock_failures > 0 && --flock_failures == 0)
        flock_errno = 0;
    return -1;
}

/* As of a process in uninterruptible sleep: nothing ends it, and nobody waits for that here. */
static bool unkillable;

int __real_pidfd_send_signal(int pidfd, int number, siginfo_t *info, unsigned flags);
int __wrap_pidfd_send_signal(int pidfd, int number, siginfo_t *info, unsigned flags);
int __wrap_pidfd_send_signal(int pidfd, int number, siginfo_t *info, unsigned flags)
{
    return unkillable ? 0 : __real_pidfd_send_signal(pidfd, number, info, flags);
}

int __real_process_poll(const int *fds, size_t count, double deadline_ms);
int __wrap_process_poll(const int *fds, size_t count, double deadline_ms);
int __wrap_process_poll(const int *fds, size_t count, double deadline_ms)
{
    return __real_process_poll(fds, count, unkillable ? 0 : deadline_ms);
}

static void id_when_letters_digits_and_dashes_is_valid(void **state)
{
    static const char *const good[] = {
        "a",     "ab",   "a1",      "web-1", "a-b-c", "a--b",
        "newer", "new1", "commits", "1",     "0a",    "3f2504e0-4f89-41d3-9a0c-0305e82c3301"};
    char longest[STORE_ID_MAX + 2];
    (void)state;
    for (size_t i = 0; i < array_length(good); i++)
        assert_true(store_id_valid(good[i]));
    memset(longest, 'a', sizeof longest);
    longest[STORE_ID_MAX] = 0;
    assert_true(store_id_valid(longest));
}

static void id_when_anything_else_is_invalid(void **state)
{
    static const char *const bad[] = {"",    "new", "commit", "-a",  "a-",       "A",   "aB",
                                      "a_b", "a.b", "a b",    "a/b", "..",       ".",   ".new-1",
                                      "a\n", "ä",   "a:",     "~",   "\x7F\x01", "a\t", "-"};
    char longest[STORE_ID_MAX + 2];
    (void)state;
    for (size_t i = 0; i < array_length(bad); i++)
        assert_false(store_id_valid(bad[i]));
    memset(longest, 'a', sizeof longest);
    longest[STORE_ID_MAX + 1] = 0;
    assert_false(store_id_valid(longest));
}

static void random_hex_when_asked_twice_differs(void **state)
{
    char first[33] = "x", second[33] = "y", none[1] = "z";
    (void)state;
    store_random_hex(first, 16);
    store_random_hex(second, 16);
    store_random_hex(none, 0);
    assert_int_equal(strlen(first), 32);
    assert_int_equal(strspn(first, "0123456789abcdef"), 32);
    assert_string_not_equal(first, second);
    assert_string_equal(none, "");
}

static void time_when_printed_is_rfc3339_in_utc(void **state)
{
    char text[STORE_TIME_SIZE];
    struct tm tm = {0};
    (void)state;
    time_t before = time(NULL);
    store_time_now(text);
    assert_int_equal(strlen(text), strlen("2024-01-02T03:04:05.678Z"));
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    assert_non_null(rest);
    assert_true(rest[0] == '.' && strspn(rest + 1, "0123456789") == 3);
    assert_string_equal(rest + 4, "Z");
    assert_in_range(timegm(&tm), before - 1, time(NULL) + 1);
}

static void store_when_not_there_is_made_for_the_owner_alone(void **state)
{
    struct world *world = *state;
    snprintf(world->path, sizeof world->path, "%s/a/b/store", world->base);
    mode_t mask = umask(0);
    world_open_store(world);
    umask(mask);
    assert_int_equal(world_mode(world_path(world, "a/b/store")), S_IFDIR | 0700);
    assert_int_equal(world_mode(world_path(world, "a/b/store/snapshots")), S_IFDIR | 0700);
    assert_int_equal(world_mode(world_path(world, "a/b/store/instances")), S_IFDIR | 0700);
    assert_int_equal(world_mode(world_path(world, "a/b/store/lock")), S_IFREG | 0600);
}

static void store_when_opened_and_closed_leaks_no_descriptor(void **state)
{
    struct world *world = *state;
    struct store none = {.lock_fd = -1, .kind_fd = {-1, -1}};
    int before = world_descriptors();
    world_open_store(world);
    for (int kind = 0; kind < STORE_KINDS; kind++)
        assert_int_equal(fcntl(world->store.kind_fd[kind], F_GETFD), FD_CLOEXEC);
    assert_int_equal(fcntl(world->store.lock_fd, F_GETFD), FD_CLOEXEC);
    world_close(world);
    assert_int_equal(world_descriptors(), before);
    store_close(&none);
}

static void store_when_in_use_tells_by_whom_and_what_to_do(void **state)
{
    struct world *world = *state;
    struct store second = {.lock_fd = 77};
    char pid[32];
    world_open_store(world);
    int before = world_descriptors();
    assert_int_equal(store_open(world->path, false, NULL, &second, &world->err), -EBUSY);
    snprintf(pid, sizeof pid, "pid %d", (int)getpid());
    assert_non_null(strstr(world->err.text, pid));
    assert_non_null(strstr(world->err.text, world->path));
    assert_non_null(strstr(world->err.text, "--store"));
    assert_int_equal(second.lock_fd, 77);
    assert_int_equal(world_descriptors(), before);
    world_close(world);
    world_open_store(world);
}

/* The daemon that has it may be ending, or another be just starting that has not said so yet. */
static void store_when_in_use_for_a_moment_is_waited_for(void **state)
{
    struct world *world = *state;
    world_open_store(world);
    world_close(world);
    flock_errno = EWOULDBLOCK;
    flock_failures = 3;
    world_write_text(world_path(world, "store/lock"), "");
    world_open_store(world);
    assert_int_equal(flock_failures, 0);
}

static void store_when_a_file_is_in_its_place_is_refused(void **state)
{
    struct world *world = *state;
    world_write_text(world->path, "");
    assert_int_equal(store_open(world->path, false, NULL, &world->store, &world->err), -ENOTDIR);
    assert_non_null(strstr(world->err.text, world->path));
    assert_int_equal(remove(world->path), 0);
    assert_int_equal(mkdir(world->path, 0700), 0);
    world_write_text(world_path(world, "store/instances"), "");
    assert_int_equal(store_open(world->path, false, NULL, &world->store, &world->err), -ENOTDIR);
    assert_non_null(strstr(world->err.text, "instances/"));
}

static void leave(const struct world *world, const char *name)
{
    assert_int_equal(mkdir(world_path(world, "store/%s", name), 0700), 0);
    world_write_text(world_path(world, "store/%s/memory", name), "m");
    world_write_text(world_path(world, "store/%s/state", name), "s");
}

static void leftovers_when_the_store_opens_are_removed(void **state)
{
    static const char *const gone[] = {"snapshots/.new-0123456789abcdef", "snapshots/.gone-1",
                                       "instances/.new-2", "instances/.gone-3"};
    static const char *const kept[] = {"snapshots/base", "instances/web-1", "instances/.other",
                                       "snapshots/new-1"};
    struct world *world = *state;
    world_open_store(world);
    world_close(world);
    for (size_t i = 0; i < array_length(gone); i++)
        leave(world, gone[i]);
    for (size_t i = 0; i < array_length(kept); i++)
        leave(world, kept[i]);
    world_open_store(world);
    for (size_t i = 0; i < array_length(gone); i++)
        assert_false(world_has(world_path(world, "store/%s", gone[i])));
    for (size_t i = 0; i < array_length(kept); i++)
        assert_int_equal(world_count(world_path(world, "store/%s", kept[i])), 2);
}

/* As on a file system without locks. */
static void store_when_it_cannot_be_locked_says_why(void **state)
{
    struct world *world = *state;
    struct store store;
    flock_errno = ENOLCK;
    int r = store_open(world->path, false, NULL, &store, &world->err);
    flock_errno = 0;
    assert_int_equal(r, -ENOLCK);
    assert_non_null(strstr(world->err.text, "cannot lock the store"));
    assert_non_null(strstr(world->err.text, strerrordesc_np(ENOLCK)));
    assert_null(strstr(world->err.text, "another hypefs"));
}

static void leftovers_when_the_store_is_in_use_are_left_alone(void **state)
{
    struct world *world = *state;
    struct store second;
    world_open_store(world);
    leave(world, "instances/.new-1");
    assert_int_equal(store_open(world->path, false, NULL, &second, NULL), -EBUSY);
    assert_true(world_has(world_path(world, "store/instances/.new-1")));
}

/* As an import that runs while a daemon starts. */
static void entry_when_it_is_being_written_is_no_leftover(void **state)
{
    struct world *world = *state;
    struct store importer;
    struct store_entry entry = {.fd = -1};
    assert_int_equal(store_attach(world->path, false, &importer, &world->err), 0);
    assert_int_equal(importer.lock_fd, -1);
    assert_int_equal(store_entry_create(&importer, STORE_SNAPSHOTS, &entry, &world->err), 0);
    world_open_store(world);
    assert_true(world_has(world_path(world, "store/snapshots/%s", entry.name)));
    assert_int_equal(store_entry_publish(&entry, "base", true, &world->err), 0);
    assert_true(world_has(world_path(world, "store/snapshots/base")));
    /* Who wrote it was killed. */
    assert_int_equal(store_entry_create(&importer, STORE_SNAPSHOTS, &entry, &world->err), 0);
    assert_int_equal(close(entry.fd), 0);
    world_close(world);
    world_open_store(world);
    assert_int_equal(world_count(world_path(world, "store/snapshots")), 1);
    store_close(&importer);
}

struct cleaning {
    struct world *world;
    atomic_bool stop;
};

static void *start_daemons(void *argument)
{
    struct cleaning *cleaning = argument;
    struct store store;
    while (!atomic_load(&cleaning->stop))
        if (store_open(cleaning->world->path, false, NULL, &store, NULL) == 0)
            store_close(&store);
    return NULL;
}

static void entries_when_daemons_start_again_and_again_stay(void **state)
{
    enum { ENTRIES = 200 };
    struct world *world = *state;
    struct cleaning cleaning = {.world = world};
    struct store importer;
    pthread_t thread;
    assert_int_equal(store_attach(world->path, false, &importer, &world->err), 0);
    assert_int_equal(pthread_create(&thread, NULL, start_daemons, &cleaning), 0);
    for (int i = 0; i < ENTRIES; i++) {
        struct store_entry entry = {.fd = -1};
        char id[16];
        snprintf(id, sizeof id, "s%d", i);
        int r = store_entry_create(&importer, STORE_SNAPSHOTS, &entry, &world->err);
        if (r == -EAGAIN)
            continue; /* bad luck three times */
        assert_int_equal(r, 0);
        assert_int_equal(mkdirat(entry.fd, "file", 0700), 0);
        assert_int_equal(store_entry_publish(&entry, id, true, &world->err), 0);
        assert_true(world_has(world_path(world, "store/snapshots/%s/file", id)));
    }
    atomic_store(&cleaning.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    store_close(&importer);
}

static void processes_when_their_entry_is_a_leftover_are_ended(void **state)
{
    struct world *world = *state;
    world_open_store(world);
    world_close(world);
    leave(world, "instances/.new-1");
    leave(world, "instances/web-1");
    size_t inside = world_spawn_vmm(world, world_path(world, "store/instances/.new-1"));
    size_t beside = world_spawn_vmm(world, world_path(world, "store/instances/web-1"));
    world_open_store(world);
    assert_true(world_child_ended(world, inside, FIXTURE_FAR_MS));
    assert_false(world_child_ended(world, beside, 0));
}

static void leftover_whose_process_cannot_be_ended_is_told_of_until_it_can(void **state)
{
    struct world *world = *state;
    auto_free char *text = NULL;
    size_t size;
    world_open_store(world);
    world_close(world);
    leave(world, "instances/.new-1");
    size_t inside = world_spawn_vmm(world, world_path(world, "store/instances/.new-1"));
    unkillable = true;
    world_open_store(world);
    unkillable = false;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    store_notes_print(world->store.notes, out);
    assert_int_equal(fclose(out), 0);
    auto_free char *words = NULL;
    assert_true(asprintf(&words,
                         " remove instances/.new-1: EIO: the process %d, left by an earlier "
                         "daemon, was killed and does not end",
                         (int)world->children[inside].pid) > 0);
    assert_non_null(strstr(text, words));
    assert_true(world_has(world_path(world, "store/instances/.new-1")));
    world_close(world);
    world_open_store(world);
    assert_true(world_child_ended(world, inside, FIXTURE_FAR_MS));
    assert_false(world_has(world_path(world, "store/instances/.new-1")));
}

static struct store_entry make_entry(struct world *world, enum store_kind kind)
{
    struct store_entry entry = {.fd = -1};
    int r = store_entry_create(&world->store, kind, &entry, &world->err);
    assert_int_equal(r, 0);
    assert_true(entry.fd >= 0 && fcntl(entry.fd, F_GETFD) == FD_CLOEXEC);
    return entry;
}

static int note(void *context, const char *id, struct error *err)
{
    char *seen = context;
    (void)err;
    strcat(strcat(seen, id), " ");
    return 0;
}

static const char *listed(struct world *world, enum store_kind kind)
{
    static char seen[1024];
    seen[0] = 0;
    assert_int_equal(store_list(&world->store, kind, note, seen, &world->err), 0);
    return seen;
}

static void entry_when_published_appears_whole(void **state)
{
    struct world *world = *state;
    world_open_store(world);
    struct store_entry entry = make_entry(world, STORE_SNAPSHOTS);
    auto_json cJSON *json = cJSON_CreateObject();
    assert_int_equal(store_write_json(entry.fd, "a.json", json, &world->err), 0);
    assert_string_equal(listed(world, STORE_SNAPSHOTS), "");
    assert_int_equal(store_entry_publish(&entry, "base", true, &world->err), 0);
    assert_int_equal(entry.fd, -1);
    store_entry_discard(&entry);
    assert_string_equal(listed(world, STORE_SNAPSHOTS), "base ");
    assert_string_equal(listed(world, STORE_INSTANCES), "");
    assert_true(world_has(world_path(world, "store/snapshots/base/a.json")));
    assert_int_equal(world_count(world_path(world, "store/snapshots")), 1);
}

static void entry_when_the_id_is_taken_stays_hidden(void **state)
{
    struct world *world = *state;
    world_open_store(world);
    struct store_entry first = make_entry(world, STORE_INSTANCES);
    struct store_entry second = make_entry(world, STORE_INSTANCES);
    assert_int_equal(store_entry_publish(&first, "web-1", true, &world->err), 0);
    assert_int_equal(store_entry_publish(&second, "web-1", true, &world->err), -EEXIST);
    auto_free char *path = realpath(world_path(world, "store/instances/web-1"), NULL);
    assert_non_null(strstr(world->err.text, path));
    assert_true(second.fd >= 0);
    assert_int_equal(store_entry_publish(&second, "web-2", true, &world->err), 0);
    assert_int_equal(world_count(world_path(world, "store/instances")), 2);
}

static void entry_when_discarded_leaves_nothing(void **state)
{
    struct world *world = *state;
    world_open_store(world);
    int before = world_descriptors();
    struct store_entry entry = make_entry(world, STORE_INSTANCES);
    auto_json cJSON *json = cJSON_CreateObject();
    assert_int_equal(store_write_json(entry.fd, "a.json", json, &world->err), 0);
    store_entry_discard(&entry);
    store_entry_discard(&entry);
    assert_int_equal(world_count(world_path(world, "store/instances")), 0);
    assert_int_equal(world_descriptors(), before);
}

static void entry_when_unpublished_is_gone_at_once_and_erased_later(void **state)
{
    struct world *world = *state;
    char hidden[32] = "untouched";
    struct stat base, other;
    world_open_store(world);
    leave(world, "snapshots/base");
    assert_int_equal(stat(world_path(world, "store/snapshots/base"), &base), 0);
    assert_int_equal(stat(world_path(world, "store/snapshots"), &other), 0);
    assert_int_equal(store_unpublish(&world->store, STORE_SNAPSHOTS, "base", file_id_of(&other),
                                     hidden, &world->err),
                     -EBUSY);
    assert_string_equal(listed(world, STORE_SNAPSHOTS), "base ");
    assert_int_equal(store_unpublish(&world->store, STORE_SNAPSHOTS, "other", file_id_of(&base),
                                     hidden, &world->err),
                     -ENOENT);
    assert_string_equal(hidden, "untouched");
    assert_non_null(strstr(world->err.text, "snapshots/other"));
    assert_int_equal(store_unpublish(&world->store, STORE_SNAPSHOTS, "base", file_id_of(&base),
                                     hidden, &world->err),
                     0);
    assert_string_equal(listed(world, STORE_SNAPSHOTS), "");
    assert_int_equal(store_open_entry(&world->store, STORE_SNAPSHOTS, "base", &world->err),
                     -ENOENT);
    assert_true(world_has(world_path(world, "store/snapshots/%s/memory", hidden)));
    assert_int_equal(store_erase(&world->store, STORE_SNAPSHOTS, hidden, &world->err), 0);
    store_await_erased(&world->store);
    assert_int_equal(world_count(world_path(world, "store/snapshots")), 0);
}

static void entry_when_it_is_a_link_is_not_followed(void **state)
{
    struct world *world = *state;
    world_open_store(world);
    assert_int_equal(symlink("/tmp", world_path(world, "store/snapshots/base")), 0);
    assert_int_equal(store_open_entry(&world->store, STORE_SNAPSHOTS, "base", &world->err),
                     -ENOTDIR);
    leave(world, "instances/web-1");
    assert_int_equal(symlink("web-1", world_path(world, "store/instances/.gone-1")), 0);
    assert_int_equal(erase_directory(world->store.kind_fd[STORE_INSTANCES], ".gone-1", &world->err),
                     -ENOTDIR);
    assert_int_equal(world_count(world_path(world, "store/instances/web-1")), 2);
}

/* Deeper than a process has descriptors, and with a file at each level; the link leads elsewhere.
 */
static void make_deep(const char *path)
{
    enum { LEVELS = 3000 };
    int at = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    for (int i = 0; i < LEVELS; i++) {
        assert_int_equal(mkdirat(at, "deep-0", 0700), 0);
        assert_int_equal(mkdirat(at, "beside", 0700), 0);
        int next = openat(at, "deep-0", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
        assert_true(next >= 0);
        close(at);
        at = next;
    }
    assert_int_equal(symlinkat("../..", at, "link"), 0);
    close(at);
}

static void entry_when_a_vmm_has_planted_deep_directories_is_removed(void **state)
{
    struct world *world = *state;
    world_open_store(world);
    leave(world, "instances/.gone-1");
    leave(world, "instances/web-1");
    make_deep(world_path(world, "store/instances/.gone-1"));
    assert_int_equal(store_erase(&world->store, STORE_INSTANCES, ".gone-1", &world->err), 0);
    store_await_erased(&world->store);
    assert_string_equal(listed(world, STORE_INSTANCES), "web-1 ");
    assert_int_equal(world_count(world_path(world, "store/instances/web-1")), 2);
}

static int refuse(void *context, const char *id, struct error *err)
{
    ++*(int *)context;
    return error_set(err, EDOM, "not %s", id);
}

static void list_when_called_names_all_but_the_hidden_and_stops_at_a_failure(void **state)
{
    struct world *world = *state;
    int calls = 0;
    world_open_store(world);
    leave(world, "snapshots/base");
    leave(world, "snapshots/.new-1");
    leave(world, "snapshots/.gone-1");
    leave(world, "snapshots/.other");
    leave(world, "snapshots/lost+found");
    assert_string_equal(listed(world, STORE_SNAPSHOTS), "base ");
    leave(world, "instances/Upper");
    assert_string_equal(listed(world, STORE_INSTANCES), "Upper ");
    leave(world, "snapshots/other");
    assert_int_equal(store_list(&world->store, STORE_SNAPSHOTS, refuse, &calls, &world->err),
                     -EDOM);
    assert_int_equal(calls, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(id_when_letters_digits_and_dashes_is_valid),
        cmocka_unit_test(id_when_anything_else_is_invalid),
        cmocka_unit_test(random_hex_when_asked_twice_differs),
        cmocka_unit_test(time_when_printed_is_rfc3339_in_utc),
        IN_EMPTY(store_when_not_there_is_made_for_the_owner_alone),
        IN_EMPTY(store_when_opened_and_closed_leaks_no_descriptor),
        IN_EMPTY(store_when_in_use_tells_by_whom_and_what_to_do),
        IN_EMPTY(store_when_in_use_for_a_moment_is_waited_for),
        IN_EMPTY(store_when_a_file_is_in_its_place_is_refused),
        IN_EMPTY(leftovers_when_the_store_opens_are_removed),
        IN_EMPTY(store_when_it_cannot_be_locked_says_why),
        IN_EMPTY(leftovers_when_the_store_is_in_use_are_left_alone),
        IN_EMPTY(entry_when_it_is_being_written_is_no_leftover),
        IN_EMPTY(entries_when_daemons_start_again_and_again_stay),
        IN_EMPTY(processes_when_their_entry_is_a_leftover_are_ended),
        IN_EMPTY(leftover_whose_process_cannot_be_ended_is_told_of_until_it_can),
        IN_EMPTY(entry_when_published_appears_whole),
        IN_EMPTY(entry_when_the_id_is_taken_stays_hidden),
        IN_EMPTY(entry_when_discarded_leaves_nothing),
        IN_EMPTY(entry_when_unpublished_is_gone_at_once_and_erased_later),
        IN_EMPTY(entry_when_it_is_a_link_is_not_followed),
        IN_EMPTY(entry_when_a_vmm_has_planted_deep_directories_is_removed),
        IN_EMPTY(list_when_called_names_all_but_the_hidden_and_stops_at_a_failure),
    };
    setenv("HYPEFS_TEST_TIMING", "lock:300", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
