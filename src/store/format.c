/* SPDX-License-Identifier: MIT */
#include "store/format.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "store/store.h"
#include "util/json.h"

static const char file_name[] = "format", member[] = "format";

static bool is_number(const cJSON *item)
{
    return cJSON_IsNumber(item) && item->valueint >= 1 && item->valueint == item->valuedouble;
}

int format_check(int store_fd, const char *path, struct error *err)
{
    auto_json cJSON *json = NULL;
    int r = store_read_json(store_fd, file_name, &json, err);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return error_prefix(err, r, "the format of the store %s is not known", path);
    const cJSON *format = json_get(json, member);
    if (!is_number(format))
        return error_set(err, EINVAL,
                         "the format of the store %s is not known: %s/%s must be {\"%s\": %d}, or "
                         "that of the newer hypefs that has used it",
                         path, path, file_name, member, STORE_FORMAT);
    if (format->valuedouble == STORE_FORMAT)
        return 0;
    return error_set(err, EOPNOTSUPP,
                     "the store %s has the format %d, of a newer hypefs, and this one knows the "
                     "format %d: use the newer one for it, or give this one another --store",
                     path, (int)format->valuedouble, STORE_FORMAT);
}

int format_claim(int store_fd, const char *path, struct error *err)
{
    int r = format_check(store_fd, path, err);
    if (r < 0 || faccessat(store_fd, file_name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return r;
    auto_json cJSON *json = cJSON_CreateObject();
    json_add_number(json, member, STORE_FORMAT);
    r = store_write_json(store_fd, file_name, json, err);
    return r < 0 ? error_prefix(err, r, "the store %s", path) : 0;
}

int format_check_version(const cJSON *json, const char *name, int known, struct error *err)
{
    const cJSON *version = json_get(json, "version");
    if (!is_number(version))
        return error_set(err, EINVAL, "%s: \"version\" is not a number from 1 to %d", name, known);
    if (version->valuedouble <= known)
        return 0;
    return error_set(err, EOPNOTSUPP,
                     "%s: \"version\" is %d, of a newer hypefs, and this one knows %d: use the "
                     "newer one for it",
                     name, (int)version->valuedouble, known);
}

int format_machine_version(const cJSON *machine)
{
    const cJSON *disk;
    if (json_get(machine, "boot"))
        return FORMAT_SECOND_VERSION;
    cJSON_ArrayForEach (disk, json_get(machine, "disks")) {
        const char *path = json_get_text(disk, "path"), *saved = json_get_text(disk, "saved_path");
        if (json_get_text(disk, "lower"))
            return FORMAT_SECOND_VERSION;
        if (saved && (!path || strcmp(saved, path) != 0))
            return FORMAT_SECOND_VERSION;
    }
    return FORMAT_FIRST_VERSION;
}
