/* SPDX-License-Identifier: MIT */
/* Stores on file systems that cannot do what others can: what is done otherwise, what is refused.
 */
#include <sys/mman.h>
#include <sys/socket.h>

#include "world.h"

/* The call that fails, and with what; see the build file. */
static const char *failing = "";
static int failing_errno;

#define WRAP(type, name, parameters, arguments)                                                    \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        if (strcmp(failing, #name) != 0)                                                           \
            return __real_##name arguments;                                                        \
        errno = failing_errno;                                                                     \
        return (type)-1;                                                                           \
    }

WRAP(int, linkat, (int from, const char *name, int to, const char *new_name, int flags),
     (from, name, to, new_name, flags))
WRAP(int, bind, (int fd, const struct sockaddr *address, socklen_t size), (fd, address, size))
WRAP(int, fsync, (int fd), (fd))
WRAP(int, mkdirat, (int fd, const char *name, mode_t mode), (fd, name, mode))
WRAP(int, renameat2, (int from, const char *name, int to, const char *new_name, unsigned flags),
     (from, name, to, new_name, flags))
WRAP(void *, mmap64, (void *at, size_t size, int protection, int flags, int fd, off_t offset),
     (at, size, protection, flags, fd, offset))
WRAP(void *, mmap, (void *at, size_t size, int protection, int flags, int fd, off_t offset),
     (at, size, protection, flags, fd, offset))

static int teardown(void **state)
{
    failing = "";
    return world_teardown(state);
}

static const struct {
    const char *call;
    int error, code;
    const char *text;
} refusals[] = {
    {"linkat", EPERM, EOPNOTSUPP, "has no hard links"},
    {"linkat", EOPNOTSUPP, EOPNOTSUPP, "has no hard links"},
    {"bind", EPERM, EOPNOTSUPP, "has no unix sockets"},
    {"mmap64", ENODEV, EOPNOTSUPP, "has no shared mappings"},
    {"fsync", EINVAL, EOPNOTSUPP, "has no fsync of directories"},
    {"linkat", EROFS, EROFS, "read-only"},
};

static void store_on_a_file_system_that_lacks_something_is_refused(void **state)
{
    struct world *world = *state;
    struct store store;
    for (size_t i = 0; i < array_length(refusals); i++) {
        failing = refusals[i].call;
        failing_errno = refusals[i].error;
        int r = store_open(world->path, false, NULL, &store, &world->err);
        failing = "";
        if (r != -refusals[i].code || !strstr(world->err.text, refusals[i].text))
            fail_msg("%s: %d, %s", refusals[i].call, r, world->err.text);
        assert_non_null(strstr(world->err.text, world->path));
        /* Nothing is left, and the lock is free. */
        assert_int_equal(world_count(world_path(world, "store/instances")), 0);
    }
    assert_int_equal(store_open(world->path, false, NULL, &store, &world->err), 0);
    store_close(&store);
}

static const struct {
    const char *call;
    int error;
    const char *text;
} lacks[] = {
    {"linkat", EDQUOT, "quota"},
    {"bind", ENOSPC, "inodes"},
};

static void keep_warning(void *context, const char *text)
{
    struct error *warning = context;
    snprintf(warning->text, sizeof warning->text, "%s", text);
    warning->code++;
}

static void store_without_room_is_opened_with_a_warning(void **state)
{
    struct world *world = *state;
    struct error warning;
    struct store store;
    const struct store_leftovers leftovers = {.warn_user = keep_warning, .context = &warning};
    assert_int_equal(store_open(world->path, false, NULL, &store, &world->err), 0);
    store_close(&store);
    for (size_t i = 0; i < array_length(lacks); i++) {
        warning = (struct error){0};
        failing = lacks[i].call;
        failing_errno = lacks[i].error;
        int r = store_open(world->path, false, &leftovers, &store, &world->err);
        failing = "";
        if (r != 0 || warning.code != 1 || !strstr(warning.text, lacks[i].text) ||
            !strstr(warning.text, world->path))
            fail_msg("%s: %d, %d warnings, %s", lacks[i].call, r, warning.code, warning.text);
        store_close(&store);
        assert_int_equal(world_count(world_path(world, "store/instances")), 0);
    }
}

static struct store_entry make_entry(struct world *world, const char *file)
{
    struct store_entry entry = {.fd = -1};
    assert_int_equal(store_entry_create(&world->store, STORE_INSTANCES, &entry, &world->err), 0);
    auto_json cJSON *json = cJSON_CreateObject();
    assert_int_equal(store_write_json(entry.fd, file, json, &world->err), 0);
    return entry;
}

/* As on NFS. */
static void entry_where_renames_replace_is_published_and_replaces_nothing(void **state)
{
    static const int errors[] = {EINVAL, ENOSYS, EOPNOTSUPP};
    struct world *world = *state;
    world_open_store(world);
    for (size_t i = 0; i < array_length(errors); i++) {
        char id[] = "a0";
        id[1] = (char)('0' + i);
        struct store_entry first = make_entry(world, "first"), second = make_entry(world, "second");
        failing = "renameat2";
        failing_errno = errors[i];
        assert_int_equal(store_entry_publish(&first, id, true, &world->err), 0);
        assert_int_equal(store_entry_publish(&second, id, true, &world->err), -EEXIST);
        failing = "";
        store_entry_discard(&second);
        char path[64];
        snprintf(path, sizeof path, "store/instances/%s/first", id);
        assert_true(world_has(world_path(world, "%s", path)));
    }
    assert_int_equal(world_count(world_path(world, "store/instances")), (int)array_length(errors));
}

/* Who may change the store's directories; for root alone. */
static const struct {
    const char *script; /* in the directory of the store */
    const char *text;
} insecure[] = {
    {"chmod g+w store", "others may write to"},
    {"chmod o+w store/snapshots", "snapshots"},
    {"chmod 777 store/instances/x", "instances/x"},
    {"chown 12345 store/instances", "belongs to another user"},
    {"chown 12345 store/snapshots/s", "snapshots/s"},
    {"mv store real && ln -s real store", "is a symbolic link"},
    {"mv store/snapshots . && ln -s ../snapshots store/snapshots", "is a symbolic link"},
    {"mv store/instances/x . && ln -s ../../x store/instances/x", "instances/x"},
};

static void run(const char *directory, const char *script)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    auto_close int fd = open(directory, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    auto_free char *output = NULL;
    struct error err = {0};
    if (process_output(fd, argv, 4096, 10000, -1, &output, &err) < 0)
        fail_msg("%s: %s", script, err.text);
}

static void store_that_others_can_change_is_refused_to_root(void **state)
{
    struct world *world = *state;
    struct store store;
    if (geteuid() != 0)
        skip();
    const char *directory = world_path(world, ".");
    for (size_t i = 0; i < array_length(insecure); i++) {
        run(directory, "mkdir -p store/snapshots/s store/instances/x && chmod -R 700 store");
        run(directory, insecure[i].script);
        if (store_open(world->path, false, NULL, &store, &world->err) != -EPERM ||
            !strstr(world->err.text, insecure[i].text))
            fail_msg("%s: %s", insecure[i].script, world->err.text);
        assert_non_null(strstr(world->err.text, "--insecure-store"));
        assert_int_equal(store_attach(world->path, false, &store, NULL), -EPERM);
        assert_int_equal(store_open(world->path, true, NULL, &store, &world->err), 0);
        store_close(&store);
        run(directory, "rm -rf store real x snapshots");
    }
}

#define probe_test(name) cmocka_unit_test_setup_teardown(name, world_setup_empty, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        probe_test(store_on_a_file_system_that_lacks_something_is_refused),
        probe_test(store_without_room_is_opened_with_a_warning),
        probe_test(entry_where_renames_replace_is_published_and_replaces_nothing),
        probe_test(store_that_others_can_change_is_refused_to_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
