/* SPDX-License-Identifier: MIT */
/* files: writing, reading and waiting. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "harness/internal.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/process.h"

enum { CHUNK = 65536, LOOK_AGAIN_MS = 20 };

struct harness_steps harness_write_steps(const char *path, int flags, const void *bytes,
                                         size_t size)
{
    struct harness_steps steps = {0};
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd < 0) {
        steps.open = errno;
        return steps;
    }
    ssize_t n = write(fd, bytes, size);
    if (n != (ssize_t)size)
        steps.write = n < 0 ? errno : EIO;
    if (close(fd) < 0)
        steps.close = errno;
    return steps;
}

int harness_write(const char *path, const char *text)
{
    struct harness_steps steps =
        harness_write_steps(path, O_WRONLY | O_CREAT | O_TRUNC, text, strlen(text));
    if (steps.open || steps.write)
        return steps.open ? steps.open : steps.write;
    return steps.close;
}

/* -errno, or the size; *ret is owned, with a NUL. */
static ssize_t read_all(int fd, char **ret)
{
    size_t size = 0;
    auto_free char *text = malloc(1);
    for (;;) {
        char *longer = realloc(text, size + CHUNK + 1);
        if (!longer)
            return -ENOMEM;
        text = longer;
        ssize_t n = pread(fd, text + size, CHUNK, (off_t)size);
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        size += (size_t)n;
    }
    text[size] = 0;
    *ret = steal_pointer(text);
    return (ssize_t)size;
}

/* What the file "error" in the same directory says, where there is one. Returns owned. */
static char *error_beside(const char *path)
{
    const char *slash = strrchr(path, '/');
    auto_free char *beside = NULL, *text = NULL;
    if (asprintf(&beside, "%.*serror", slash ? (int)(slash - path) + 1 : 0, path) < 0)
        return NULL;
    auto_close int fd = open(beside, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read_all(fd, &text) >= 0 ? steal_pointer(text) : strdup("");
}

void harness_put(const char *path, const char *text)
{
    int code = harness_write(path, text);
    if (code != 0)
        give_up("writing %s: %s; error: \"%s\"", path, strerrordesc_np(code), error_beside(path));
}

static char *keep_text(struct harness *h, char *owned, size_t size)
{
    char *text = harness_alloc(h, size + 1);
    memcpy(text, owned, size);
    free(owned);
    return text;
}

char *harness_get(struct harness *h, const char *path)
{
    char *text = NULL;
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read_all(fd, &text) : -errno;
    if (size < 0)
        give_up("reading %s: %s", path, strerrordesc_np((int)-size));
    return keep_text(h, text, (size_t)size);
}

int harness_read_errno(const char *path)
{
    auto_free char *text = NULL;
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read_all(fd, &text) : -errno;
    return size < 0 ? (int)-size : 0;
}

char *harness_await(struct harness *h, const char *path, const char *wanted)
{
    double deadline_ms = process_now_ms() + HARNESS_DEADLINE_MS;
    auto_close int fd = -1;
    for (;;) {
        auto_free char *text = NULL;
        if (fd < 0)
            fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t size = fd >= 0 ? read_all(fd, &text) : -errno;
        if (size >= 0 && strstr(text, wanted))
            return keep_text(h, steal_pointer(text), (size_t)size);
        if (process_now_ms() > deadline_ms)
            give_up("%s never has \"%s\"; it has \"%s\"; error: \"%s\"", path, wanted,
                    size < 0 ? strerrordesc_np((int)-size) : text, error_beside(path));
        struct pollfd look = {.fd = fd, .events = POLLPRI};
        poll(&look, fd >= 0, LOOK_AGAIN_MS);
    }
}

void harness_await_that(bool (*condition)(void *argument), void *argument, const char *what)
{
    double deadline_ms = process_now_ms() + HARNESS_DEADLINE_MS;
    while (!condition(argument)) {
        if (process_now_ms() > deadline_ms)
            give_up("never: %s", what);
        poll(NULL, 0, LOOK_AGAIN_MS);
    }
}

static bool is_erased(void *argument)
{
    static const char *const kinds[] = {"instances", "snapshots"};
    struct harness *h = argument;
    bool found = false;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        auto_closedir DIR *dir = opendir(harness_store_path(h, "%s", kinds[i]));
        for (struct dirent *entry; dir && (entry = readdir(dir));)
            found = found || strncmp(entry->d_name, ".gone-", strlen(".gone-")) == 0;
    }
    return !found;
}

void harness_await_erased(struct harness *h)
{
    harness_await_that(is_erased, h, "what was removed to be erased");
}

char *harness_json(struct harness *h, const char *text, const char *path)
{
    auto_json cJSON *json = NULL;
    struct error err;
    if (json_parse(text, strlen(text), &json, &err) < 0)
        give_up("not JSON: %s: %s", err.text, text);
    const cJSON *item = json;
    for (const char *part = path; item && *part;) {
        size_t length = strcspn(part, ".");
        const char *name = harness_format(h, "%.*s", (int)length, part);
        item = cJSON_IsArray(item) ? cJSON_GetArrayItem(item, atoi(name))
                                   : cJSON_GetObjectItemCaseSensitive(item, name);
        part += length + (part[length] == '.');
    }
    if (!item || cJSON_IsString(item))
        return harness_format(h, "%s", item ? item->valuestring : "(none)");
    auto_free char *printed = cJSON_PrintUnformatted(item);
    return harness_format(h, "%s", printed);
}
