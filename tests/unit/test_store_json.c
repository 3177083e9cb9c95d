/* SPDX-License-Identifier: MIT */
/* Files of JSON in the store: written as a whole, read with suspicion. */
#include <sys/resource.h>

#include "world.h"

static int open_directory(struct world *world, const char *name)
{
    assert_int_equal(mkdir(world_path(world, "%s", name), 0700), 0);
    int fd = open(world_path(world, "%s", name), O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static cJSON *object_of(const char *text)
{
    cJSON *json = NULL;
    assert_int_equal(json_parse(text, strlen(text), &json, NULL), 0);
    return json;
}

static void json_when_written_is_read_back(void **state)
{
    struct world *world = *state;
    auto_close int fd = open_directory(world, "d");
    auto_json cJSON *first = object_of("{\"a\":[1,2,{\"b\":\"\\u00e4\"}]}");
    auto_json cJSON *second = object_of("{}"), *read = NULL;
    assert_int_equal(store_write_json(fd, "x.json", first, &world->err), 0);
    assert_int_equal(world_mode(world_path(world, "d/x.json")) & 0077, 0);
    assert_int_equal(store_read_json(fd, "x.json", &read, &world->err), 0);
    assert_true(cJSON_Compare(first, read, true));
    assert_int_equal(store_write_json(fd, "x.json", second, &world->err), 0);
    auto_free char *text = world_read(world_path(world, "d/x.json"));
    assert_non_null(text);
    assert_true(text[strlen(text) - 1] == '\n');
    assert_int_equal(world_count(world_path(world, "d")), 1);
}

/* What was done to the disk, one letter each: a file or a directory was synced, a file renamed. */
static char disk[16];

static void note_disk(char what)
{
    size_t used = strlen(disk);
    if (used < sizeof disk - 1)
        disk[used] = what;
}

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __real_renameat(int old_fd, const char *old_name, int new_fd, const char *new_name);
int __wrap_renameat(int old_fd, const char *old_name, int new_fd, const char *new_name);

int __wrap_fsync(int fd)
{
    struct stat st;
    note_disk(fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) ? 'd' : 'f');
    return __real_fsync(fd);
}

int __wrap_renameat(int old_fd, const char *old_name, int new_fd, const char *new_name)
{
    note_disk('r');
    return __real_renameat(old_fd, old_name, new_fd, new_name);
}

static void json_when_written_outlives_a_power_cut(void **state)
{
    struct world *world = *state;
    auto_close int fd = open_directory(world, "d");
    auto_json cJSON *json = object_of("{}");
    memset(disk, 0, sizeof disk);
    assert_int_equal(store_write_json(fd, "x.json", json, &world->err), 0);
    assert_string_equal(disk, "frd");
    memset(disk, 0, sizeof disk);
    assert_int_equal(store_stage_json(fd, "x.json", json, &world->err), 0);
    assert_string_equal(disk, "fr");
}

static void json_when_it_cannot_be_written_leaves_the_old(void **state)
{
    struct world *world = *state;
    auto_close int fd = open_directory(world, "d");
    auto_json cJSON *old = object_of("{\"old\":1}"), *new = object_of("{\"new\":[1,2,3,4,5]}");
    struct rlimit before, small = {8, RLIM_INFINITY};
    assert_int_equal(store_write_json(fd, "x.json", old, &world->err), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int r = store_write_json(fd, "x.json", new, &world->err);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    assert_int_equal(r, -EFBIG);
    assert_non_null(strstr(world->err.text, "x.json"));
    assert_int_equal(world_count(world_path(world, "d")), 1);
    auto_json cJSON *read = NULL;
    assert_int_equal(store_read_json(fd, "x.json", &read, &world->err), 0);
    assert_true(cJSON_Compare(old, read, true));
}

static void json_when_a_directory_is_in_its_place_leaves_no_temporary(void **state)
{
    struct world *world = *state;
    auto_close int fd = open_directory(world, "d");
    auto_json cJSON *json = object_of("{}");
    assert_int_equal(mkdir(world_path(world, "d/x.json"), 0700), 0);
    assert_int_equal(store_write_json(fd, "x.json", json, &world->err), -EISDIR);
    assert_int_equal(world_count(world_path(world, "d")), 1);
}

static void json_when_its_temporary_is_a_link_is_not_written_through_it(void **state)
{
    struct world *world = *state;
    auto_close int fd = open_directory(world, "d");
    auto_json cJSON *json = object_of("{}");
    world_write_text(world_path(world, "victim"), "mine");
    assert_int_equal(symlink("../victim", world_path(world, "d/x.json.tmp")), 0);
    assert_int_equal(store_write_json(fd, "x.json", json, &world->err), -ELOOP);
    auto_free char *text = world_read(world_path(world, "victim"));
    assert_string_equal(text, "mine");
}

static void json_when_the_file_is_not_ours_is_refused(void **state)
{
    static const struct {
        const char *text;
        int code;
    } cases[] = {{"", EINVAL},     {"[]", EINVAL},           {"{\"a\":1", EINVAL},
                 {"null", EINVAL}, {"{\"a\":\xFF}", EINVAL}, {"{} {}", EINVAL}};
    struct world *world = *state;
    auto_close int fd = open_directory(world, "d");
    cJSON *untouched = (cJSON *)world, *read = untouched;
    for (size_t i = 0; i < array_length(cases); i++) {
        world_write_text(world_path(world, "d/x.json"), cases[i].text);
        assert_int_equal(store_read_json(fd, "x.json", &read, &world->err), -cases[i].code);
        assert_non_null(strstr(world->err.text, "x.json"));
        assert_ptr_equal(read, untouched);
    }
    assert_int_equal(store_read_json(fd, "none.json", &read, &world->err), -ENOENT);
    assert_int_equal(symlink("x.json", world_path(world, "d/link.json")), 0);
    assert_int_equal(store_read_json(fd, "link.json", &read, &world->err), -ELOOP);
    assert_int_equal(mkdir(world_path(world, "d/dir.json"), 0700), 0);
    assert_int_equal(store_read_json(fd, "dir.json", &read, &world->err), -EINVAL);
    assert_int_equal(truncate(world_path(world, "d/x.json"), STORE_FILE_MAX + 1), 0);
    assert_int_equal(store_read_json(fd, "x.json", &read, &world->err), -EINVAL);
    assert_non_null(strstr(world->err.text, "8388608"));
}

static void json_when_the_file_is_a_fifo_does_not_block(void **state)
{
    struct world *world = *state;
    auto_close int fd = open_directory(world, "d");
    cJSON *read = NULL;
    assert_int_equal(mkfifo(world_path(world, "d/x.json"), 0600), 0);
    alarm(FIXTURE_FAR_MS / 1000);
    assert_int_equal(store_read_json(fd, "x.json", &read, &world->err), -EINVAL);
    alarm(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY(json_when_written_is_read_back),
        IN_EMPTY(json_when_written_outlives_a_power_cut),
        IN_EMPTY(json_when_it_cannot_be_written_leaves_the_old),
        IN_EMPTY(json_when_a_directory_is_in_its_place_leaves_no_temporary),
        IN_EMPTY(json_when_its_temporary_is_a_link_is_not_written_through_it),
        IN_EMPTY(json_when_the_file_is_not_ours_is_refused),
        IN_EMPTY(json_when_the_file_is_a_fifo_does_not_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
