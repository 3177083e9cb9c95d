/* SPDX-License-Identifier: MIT */
#include "faults_fixture.h"

static int world_compare_names(const void *one, const void *other)
{
    return strcmp(*(char *const *)one, *(char *const *)other);
}

/* The names in a directory, in order, each with a space. What a VMM makes while it runs is left
 * out. */
static void world_list_names(const char *path, char ret[static DUMP_SIZE / 4])
{
    char *names[64];
    size_t count = 0, used = 0;
    auto_closedir DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            !strstr(entry->d_name, ".sock") && !strstr(entry->d_name, ".log") &&
            count < array_length(names))
            assert_non_null(names[count++] = strdup(entry->d_name));
    qsort(names, count, sizeof names[0], world_compare_names);
    ret[0] = 0;
    for (size_t i = 0; i < count; i++) {
        used += (size_t)snprintf(ret + used, DUMP_SIZE / 4 - used, "%s ", names[i]);
        free(names[i]);
    }
}

/* "state intent config" of an instance's record; "" of a snapshot, whose record has to be whole. */
static void world_read_record(const struct world *world, const char *kind, const char *id,
                              char ret[static 256])
{
    bool instance = strcmp(kind, "instances") == 0;
    auto_json cJSON *json = NULL;
    auto_close int fd =
        open(world_path(world, "store/%s/%s", kind, id), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    int r = store_read_json(fd, instance ? "instance.json" : "snapshot.json", &json, NULL);
    if (r < 0)
        fail_msg("after %s %u: the record of %s: %d", faults.failed, faults.fail_at, id, r);
    const char *state = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "state"));
    const char *intent = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "intent"));
    const char *config = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "config"));
    assert_true(!instance || cJSON_GetObjectItemCaseSensitive(json, "vmm"));
    assert_true(cJSON_GetObjectItemCaseSensitive(json, "machine"));
    snprintf(ret, 256, "%s %s %s", state ? state : "", intent ? intent : "", config ? config : "");
}

void world_dump(const struct world *world, char ret[static DUMP_SIZE])
{
    static const char *const kinds[] = {"snapshots", "instances"};
    char ids[DUMP_SIZE / 4], files[DUMP_SIZE / 4], record[256];
    size_t used = 0;
    ret[0] = 0;
    for (size_t i = 0; i < array_length(kinds); i++) {
        world_list_names(world_path(world, "store/%s", kinds[i]), ids);
        for (char *rest = ids, *id; (id = strsep(&rest, " ")) && id[0];) {
            record[0] = 0;
            if (id[0] != '.')
                world_read_record(world, kinds[i], id, record);
            world_list_names(world_path(world, "store/%s/%s", kinds[i], id), files);
            used += (size_t)snprintf(ret + used, DUMP_SIZE - used, "%s/%s [%s] %s\n", kinds[i], id,
                                     record, files);
        }
    }
}
