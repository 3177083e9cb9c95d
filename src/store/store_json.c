/* SPDX-License-Identifier: MIT */
/* store_json: the JSON files of a store's entries, each written as a whole. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "store/store.h"
#include "util/cleanup.h"
#include "util/directory.h"
#include "util/fault.h"
#include "util/json.h"
#include "util/text_file.h"

static const char temporary_suffix[] = ".tmp";

static int write_json(int directory_fd, const char *name, const cJSON *json, bool lasts,
                      struct error *err)
{
    char temporary[48];
    auto_free char *text = json_print(json);
    if (!text)
        return error_set(err, ENOMEM, "out of memory");
    snprintf(temporary, sizeof temporary, "%.30s%s", name, temporary_suffix);
    auto_close int fd = openat(directory_fd, temporary,
                               O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_errno(err, errno, "cannot make %s in the store", temporary);
    int r = text_file_write(fd, text, strlen(text));
    fault_point(FAULT_JSON_FSYNC);
    if (r == 0 && lasts && fsync(fd) < 0)
        r = -errno;
    fault_point(FAULT_JSON_RENAME);
    if (r == 0 && renameat(directory_fd, temporary, directory_fd, name) < 0)
        r = -errno;
    if (r < 0) {
        unlinkat(directory_fd, temporary, 0);
        return error_errno(err, -r, "cannot write %s in the store", name);
    }
    fault_point(FAULT_JSON_RENAMED);
    return 0;
}

int store_stage_json(int directory_fd, const char *name, const cJSON *json, struct error *err)
{
    return write_json(directory_fd, name, json, true, err);
}

int store_cache_json(int directory_fd, const char *name, const cJSON *json, struct error *err)
{
    return write_json(directory_fd, name, json, false, err);
}

int store_write_json(int directory_fd, const char *name, const cJSON *json, struct error *err)
{
    int r = store_stage_json(directory_fd, name, json, err);
    return r == 0 ? store_sync_json(directory_fd, name, err) : r;
}

int store_sync_json(int directory_fd, const char *name, struct error *err)
{
    int r =
        fsync(directory_fd) < 0 ? error_errno(err, errno, "cannot write %s in the store", name) : 0;
    fault_point(FAULT_JSON_SYNCED);
    return r;
}

int store_read_json(int directory_fd, const char *name, cJSON **ret, struct error *err)
{
    auto_free char *text = NULL;
    size_t size = 0;
    auto_close int fd = openat(directory_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return error_errno(err, errno, "cannot open %s", name);
    int r = text_file_read(fd, STORE_FILE_MAX, &text, &size);
    if (r == -EINVAL || r == -EFBIG)
        return error_set(err, EINVAL, "%s is not a file of at most %d bytes", name, STORE_FILE_MAX);
    if (r < 0)
        return error_errno(err, -r, "cannot read %s", name);
    r = json_parse(text, size, ret, err);
    return r < 0 ? error_prefix(err, r, "%s", name) : 0;
}

/* A directory_visit. */
static int remove_temporary(void *context, int directory_fd, const char *name, struct error *err)
{
    size_t size = strlen(name), end = sizeof temporary_suffix - 1;
    (void)context;
    if (size < end || strcmp(name + size - end, temporary_suffix) != 0)
        return 0;
    fault_point(FAULT_ERASE);
    return directory_remove(directory_fd, name, err);
}

void store_tidy_entry(int directory_fd)
{
    /* What stays takes a little room until the file is written again. */
    (void)!directory_walk(directory_fd, ".", remove_temporary, NULL, NULL);
}
