/* SPDX-License-Identifier: MIT */
/* Where VMM programs are looked for, and how often they are asked. */
#include "hypervisor/programs.h"
#include "vmm_fixture.h"

enum { KNOWN_MAX = 8 };

static int probes; /* so far */

static int probe(int cancel_fd, struct program *ret, struct error *err)
{
    (void)cancel_fd;
    (void)err;
    snprintf(ret->version, sizeof ret->version, "%d", ++probes);
    return 0;
}

static int probe_in_vain(int cancel_fd, struct program *ret, struct error *err)
{
    (void)cancel_fd;
    snprintf(ret->version, sizeof ret->version, "none");
    probes++;
    return error_set(err, EIO, "it does not say");
}

static void make_program(const struct fixture *fixture, const char *name)
{
    fixture_write(fixture->base_fd, name, 0700, "x", 1);
}

static char *path_of(const struct fixture *fixture, const char *name)
{
    char *path = NULL;
    assert_true(asprintf(&path, "%s/%s", fixture->base, name) > 0);
    return path;
}

/* Looks for it in this PATH (NULL: none set), by a probe that succeeds. */
static int find_in(const struct fixture *fixture, const char *path, const char *binary,
                   struct program *ret, struct error *err)
{
    auto_free char *before = strdup(getenv("PATH"));
    path ? setenv("PATH", path, 1) : unsetenv("PATH");
    int r = programs_find(fixture->programs, binary, probe, -1, ret, err);
    setenv("PATH", before, 1);
    return r;
}

static void name_when_in_path_is_found_in_the_first_folder_that_can_run_it(void **state)
{
    struct fixture *fixture = *state;
    struct program program;
    struct error err = {0};
    auto_free char *path = NULL, *wanted = path_of(fixture, "second/vmm");
    auto_free char *plain = path_of(fixture, "first/vmm");
    fixture_context(fixture, "first", NULL);
    fixture_context(fixture, "second", NULL);
    fixture_context(fixture, "third", NULL);
    make_program(fixture, "first/vmm");
    make_program(fixture, "second/vmm");
    make_program(fixture, "third/vmm");
    assert_int_equal(chmod(plain, 0600), 0);
    assert_true(asprintf(&path, "::/no/such:%s/first:%s/second:%s/third", fixture->base,
                         fixture->base, fixture->base) > 0);
    assert_int_equal(find_in(fixture, path, "vmm", &program, &err), 0);
    assert_string_equal(program.path, wanted);
    /* Nor is a folder one. */
    assert_int_equal(unlinkat(fixture->base_fd, "second/vmm", 0), 0);
    assert_int_equal(mkdirat(fixture->base_fd, "second/vmm", 0700), 0);
    assert_int_equal(find_in(fixture, path, "vmm", &program, &err), 0);
    assert_non_null(strstr(program.path, "/third/vmm"));
}

/* The VMM is started in another folder: a relative one would mean something else there. */
static void name_when_path_is_relative_or_not_set_is_not_looked_for_here(void **state)
{
    static const char *const paths[] = {".", "", ":", "./", NULL};
    struct fixture *fixture = *state;
    auto_close int before = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    make_program(fixture, "only-here");
    assert_int_equal(fchdir(fixture->base_fd), 0);
    for (size_t i = 0; i < array_length(paths); i++) {
        struct program program;
        struct error err = {0};
        assert_int_equal(find_in(fixture, paths[i], "only-here", &program, &err), -EIO);
        assert_string_equal(err.text,
                            "only-here is not in PATH: install it, or give hypefs its path");
    }
    assert_int_equal(fchdir(before), 0);
}

static void path_when_relative_is_made_absolute(void **state)
{
    struct fixture *fixture = *state;
    struct program program;
    struct error err = {0};
    auto_close int before = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    auto_free char *wanted = path_of(fixture, "vmm");
    make_program(fixture, "vmm");
    assert_int_equal(fchdir(fixture->base_fd), 0);
    int r = programs_find(fixture->programs, "./vmm", probe, -1, &program, &err);
    assert_int_equal(fchdir(before), 0);
    assert_int_equal(r, 0);
    assert_string_equal(program.path, wanted);
}

static void program_when_known_is_not_asked_until_its_file_changes(void **state)
{
    struct fixture *fixture = *state;
    struct program first, second;
    auto_free char *path = path_of(fixture, "vmm"), *other = path_of(fixture, "other");
    make_program(fixture, "vmm");
    make_program(fixture, "other");
    assert_int_equal(programs_find(fixture->programs, path, probe, -1, &first, NULL), 0);
    assert_int_equal(programs_find(fixture->programs, path, probe, -1, &second, NULL), 0);
    assert_string_equal(first.version, second.version);
    assert_int_equal(rename(other, path), 0);
    assert_int_equal(programs_find(fixture->programs, path, probe, -1, &second, NULL), 0);
    assert_string_not_equal(first.version, second.version);
}

static void program_when_its_probe_failed_is_asked_again(void **state)
{
    struct fixture *fixture = *state;
    struct program program = {.path = "untouched"};
    struct error err = {0};
    auto_free char *path = path_of(fixture, "vmm");
    int before = probes;
    make_program(fixture, "vmm");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(programs_find(fixture->programs, path, probe_in_vain, -1, &program, &err),
                         -EIO);
        assert_string_equal(err.text, "it does not say");
        assert_string_equal(program.path, "untouched");
    }
    assert_int_equal(probes, before + 2);
    assert_int_equal(programs_find(fixture->programs, path, probe, -1, &program, &err), 0);
}

static void program_when_nothing_is_kept_is_asked_every_time(void **state)
{
    struct fixture *fixture = *state;
    struct program first, second;
    auto_free char *path = path_of(fixture, "vmm");
    make_program(fixture, "vmm");
    assert_int_equal(programs_find(NULL, path, probe, -1, &first, NULL), 0);
    assert_int_equal(programs_find(NULL, path, probe, -1, &second, NULL), 0);
    assert_string_not_equal(first.version, second.version);
}

static void programs_when_too_many_forget_the_oldest(void **state)
{
    struct fixture *fixture = *state;
    char versions[KNOWN_MAX + 1][PROGRAM_VERSION_SIZE];
    for (int round = 0; round < 2; round++)
        for (int i = 0; i <= KNOWN_MAX; i++) {
            struct program program;
            char name[16];
            /* In the second round the newest first, each but the oldest known still. */
            int number = round == 0 ? i : KNOWN_MAX - i;
            snprintf(name, sizeof name, "vmm-%d", number);
            auto_free char *path = path_of(fixture, name);
            if (round == 0)
                make_program(fixture, name);
            assert_int_equal(programs_find(fixture->programs, path, probe, -1, &program, NULL), 0);
            if (round == 0)
                strcpy(versions[number], program.version);
            else
                assert_int_equal(strcmp(versions[number], program.version) == 0, number > 0);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(name_when_in_path_is_found_in_the_first_folder_that_can_run_it),
        WITH(name_when_path_is_relative_or_not_set_is_not_looked_for_here),
        WITH(path_when_relative_is_made_absolute),
        WITH(program_when_known_is_not_asked_until_its_file_changes),
        WITH(program_when_its_probe_failed_is_asked_again),
        WITH(program_when_nothing_is_kept_is_asked_every_time),
        WITH(programs_when_too_many_forget_the_oldest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
