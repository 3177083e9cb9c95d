/* SPDX-License-Identifier: MIT */
#include "import_fixture.h"

#include "place.h"

int setup(void **state)
{
    struct bench *bench = calloc(1, sizeof *bench);
    if (!bench)
        return -1;
    *state = bench;
    return place_make(bench->directory, sizeof bench->directory, "hypefs-import");
}

int teardown(void **state)
{
    struct bench *bench = *state;
    import_finish(&bench->import);
    place_remove(bench->directory);
    free(bench);
    return 0;
}

char *path_of(const struct bench *bench, const char *name, char ret[PATH_SIZE])
{
    snprintf(ret, PATH_SIZE, "%s/%s", bench->directory, name);
    return ret;
}

void put(const struct bench *bench, const char *name, const void *bytes, size_t size)
{
    char path[PATH_SIZE];
    auto_close int fd =
        open(path_of(bench, name, path), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), (ssize_t)size);
}

void put_config(const struct bench *bench, const char *text)
{
    char whole[4096];
    size_t used = 0;
    for (; *text; text++)
        used +=
            (size_t)snprintf(whole + used, sizeof whole - used, "%.*s",
                             *text == '@' ? PATH_SIZE : 1, *text == '@' ? bench->directory : text);
    put(bench, "config", whole, used);
}

void put_memory(const struct bench *bench, off_t size)
{
    char path[PATH_SIZE];
    put(bench, "memory", "", 0);
    assert_int_equal(truncate(path_of(bench, "memory", path), size), 0);
}

int check(struct bench *bench, const char *hypervisor, bool with_config)
{
    char memory[PATH_SIZE], state[PATH_SIZE], config[PATH_SIZE];
    struct import_files files = {.config = {.fd = -1}, .check_version = snapshot_check_version};
    import_finish(&bench->import);
    bench->err = (struct error){0};
    assert_int_equal(import_file_open(path_of(bench, "memory", memory), &files.memory, &bench->err),
                     0);
    assert_int_equal(import_file_open(path_of(bench, "state", state), &files.state, &bench->err),
                     0);
    if (with_config)
        assert_int_equal(
            import_file_open(path_of(bench, "config", config), &files.config, &bench->err), 0);
    int r = import_check(hypervisor, &files, &bench->import, &bench->err);
    import_file_close(&files.memory);
    import_file_close(&files.state);
    import_file_close(&files.config);
    return r;
}

void assert_checked(struct bench *bench, const char *hypervisor, bool with_config)
{
    if (check(bench, hypervisor, with_config) < 0)
        fail_msg("%s: %s", hypervisor, bench->err.text);
}

void assert_refused(struct bench *bench, const char *hypervisor, bool with_config, int code,
                    const char *why)
{
    int r = check(bench, hypervisor, with_config);
    if (r != -code || !strstr(bench->err.text, why))
        fail_msg("%s: %d, not %d for \"%s\": %s", hypervisor, -r, code, why, bench->err.text);
}

void assert_described(const struct bench *bench, const char *wanted)
{
    auto_json cJSON *json = machine_to_json(&bench->import.machine);
    auto_free char *text = cJSON_PrintUnformatted(json);
    if (!strstr(text, wanted))
        fail_msg("\"%s\" is not in \"%s\"", wanted, text);
}
