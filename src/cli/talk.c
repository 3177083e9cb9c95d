/* SPDX-License-Identifier: MIT */
#include "cli/talk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/directory.h"
#include "util/json.h"

enum { TEXT_MAX = 1 << 20, NAMES_MAX = 8 /* that a message has */ };

bool talk_parse_timeout(const char *text, int64_t *ret)
{
    char *end;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value < 1 || value > TALK_TIMEOUT_MAX)
        return false;
    *ret = value;
    return true;
}

/* ---- the instance ---- */

static int open_path(char *path, struct talk *ret, struct error *err)
{
    int fd = path ? open(path, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (!path)
        return error_set(err, ENOMEM, "out of memory");
    if (fd >= 0 && faccessat(fd, "state", F_OK, 0) < 0) {
        close(fd);
        fd = -1;
        errno = ENOENT;
    }
    if (fd < 0) {
        const int code = errno ? errno : ENOENT;
        if (code == ENOENT || code == ENOTDIR)
            error_set(err, code, "%s is not the directory of an instance", path);
        else
            error_errno(err, code, "%s", path);
        free(path);
        return -code;
    }
    *ret = (struct talk){.fd = fd, .path = path};
    return 0;
}

static char *path_in(const char *mount, const char *id)
{
    char *ret = NULL;
    return asprintf(&ret, "%s/instances/%s", mount, id) < 0 ? NULL : ret;
}

/* Is it root's or this user's? Another's could be anything, and would be told what is sent. */
static bool is_trusted(const struct mntent *mount)
{
    const char *option = hasmntopt(mount, "user_id");
    unsigned uid;
    return option && sscanf(option, "user_id=%u", &uid) == 1 && (uid == 0 || uid == geteuid());
}

/* Of all trees that this process sees, and that are root's or this user's. */
static int find(const char *id, struct talk *ret, struct error *err)
{
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    struct mntent *mount;
    unsigned trees = 0;
    int r = 0;
    *ret = (struct talk){.fd = -1};
    while (mounts && r == 0 && (mount = getmntent(mounts))) {
        struct talk found;
        if (strcmp(mount->mnt_type, "fuse.hypefs") != 0 || !is_trusted(mount))
            continue;
        trees++;
        if (open_path(path_in(mount->mnt_dir, id), &found, NULL) < 0)
            continue;
        if (ret->path)
            r = error_set(err, EEXIST, "%s and %s: say which with --mount", ret->path, found.path);
        if (r < 0)
            talk_close(&found);
        else
            *ret = found;
    }
    if (mounts)
        endmntent(mounts);
    if (r < 0)
        talk_close(ret);
    else if (!ret->path)
        r = error_set(err, ENOENT,
                      trees > 0 ? "no mounted tree has an instance %s"
                                : "no tree is mounted that could have an instance %s",
                      id);
    return r;
}

int talk_open(const char *mount, const char *name, struct talk *ret, struct error *err)
{
    if (strchr(name, '/'))
        return open_path(strdup(name), ret, err);
    return mount ? open_path(path_in(mount, name), ret, err) : find(name, ret, err);
}

void talk_close(struct talk *talk)
{
    if (talk->fd >= 0)
        close(talk->fd);
    free(talk->path);
    *talk = (struct talk){.fd = -1};
}

/* ---- its files ---- */

/* The text of the file from its beginning; NULL if it cannot be read. */
static char *read_fd(int fd)
{
    char *text = malloc(TEXT_MAX + 1);
    size_t size = 0;
    ssize_t n = 0;
    while (text && size < TEXT_MAX &&
           (n = pread(fd, text + size, TEXT_MAX - size, (off_t)size)) > 0)
        size += (size_t)n;
    if (!text || n < 0) {
        free(text);
        return NULL;
    }
    text[size] = '\0';
    return text;
}

static char *read_file(const struct talk *talk, const char *name)
{
    auto_close int fd = openat(talk->fd, name, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? NULL : read_fd(fd);
}

static void file_of(const char *mailbox, char ret[128])
{
    snprintf(ret, 128, "mailboxes/%.100s", mailbox);
}

/* A directory_visit. */
static int name_one(void *context, int directory_fd, const char *name, struct error *err)
{
    unsigned *count = context;
    (void)directory_fd;
    if ((*count)++ < NAMES_MAX)
        error_append(err, " %s", name);
    return 0;
}

static int explain_missing(const struct talk *talk, const char *mailbox, struct error *err)
{
    auto_free char *state = read_file(talk, "state");
    unsigned count = 0;
    if (faccessat(talk->fd, "mailboxes", F_OK, 0) < 0)
        return error_set(err, EOPNOTSUPP, "%s has no mailboxes: it is %.*s, and does not run",
                         talk->path, state ? (int)strcspn(state, "\n") : 7,
                         state ? state : "unknown");
    error_set(err, ENOENT, "the guest of %s has no mailbox %s; it has:", talk->path, mailbox);
    int r = directory_walk(talk->fd, "mailboxes", name_one, &count, err);
    if (r < 0)
        return r;
    if (count == 0 || count > NAMES_MAX)
        error_append(err, count == 0 ? " none" : " and others");
    return -ENOENT;
}

/* Mailboxes that were armed since are found by another search. */
static bool is_there(const struct talk *talk, const char *file)
{
    if (faccessat(talk->fd, file, F_OK, 0) == 0)
        return true;
    auto_close int fd = errno == ENOENT ? openat(talk->fd, "rescan", O_WRONLY | O_CLOEXEC) : -1;
    return fd >= 0 && write(fd, "1\n", 2) == 2 && faccessat(talk->fd, file, F_OK, 0) == 0;
}

int talk_check(const struct talk *talk, const char *mailbox, struct error *err)
{
    char file[128];
    file_of(mailbox, file);
    errno = ENOENT;
    if (!strchr(mailbox, '/') && is_there(talk, file))
        return 0;
    return errno == ENOENT || errno == ENOTDIR || strchr(mailbox, '/')
               ? explain_missing(talk, mailbox, err)
               : error_errno(err, errno, "%s/%s", talk->path, file);
}

/* ---- a delivery ---- */

static int write_request(int fd, const char *payload, int64_t timeout_ms)
{
    auto_free char *text = NULL;
    int size =
        asprintf(&text, "{\"payload\":%s,\"wait_for_ack\":true,\"ack_timeout_ms\":%" PRId64 "}",
                 payload, timeout_ms);
    if (size < 0)
        return -ENOMEM;
    ssize_t n = write(fd, text, (size_t)size);
    int r = n < 0 ? -errno : n == size ? 0 : -EIO;
    explicit_bzero(text, (size_t)size);
    return r;
}

/* The file says why its write has failed; what could not be begun is in the instance's `error`. */
static int explain(const struct talk *talk, int fd, int r, struct error *err)
{
    auto_free char *text = read_fd(fd);
    auto_json cJSON *json = NULL;
    if (r == -ESHUTDOWN || r == -ECONNABORTED || r == -ENOTCONN)
        return error_set(err, -r, "%s: the daemon has ended before the answer came", talk->path);
    if (text && json_parse(text, strlen(text), &json, NULL) == 0 && json_get_text(json, "error"))
        return error_set(err, -r, "%s", json_get_text(json, "error"));
    auto_free char *why = r == -EINTR || r == -EAGAIN ? NULL : read_file(talk, "error");
    if (!why || !why[0])
        return error_errno(err, -r, "%s", talk->path);
    why[strcspn(why, "\n")] = '\0';
    return error_set(err, -r, "%s", why);
}

/* A member's value, as it is written. */
static struct json_span member(const char *text, struct json_span object, const char *name)
{
    struct json_member found;
    struct json_span ret = {0};
    for (size_t at = object.start; json_next_member(text, object, &at, &found);)
        if (found.name.end - found.name.start == strlen(name) &&
            memcmp(text + found.name.start, name, strlen(name)) == 0)
            ret = found.value;
    return ret;
}

static char *copy_reply(const char *text)
{
    struct json_check check;
    if (!text || json_check(text, strlen(text), &check) != JSON_COMPLETE)
        return NULL;
    const struct json_span last = member(text, check.object, "last");
    if (last.end == 0 || text[last.start] != '{')
        return NULL;
    const struct json_span reply = member(text, last, "reply");
    if (reply.end == 0 || text[reply.start] != '{')
        return NULL;
    return strndup(text + reply.start, reply.end - reply.start);
}

int talk_deliver(const struct talk *talk, const char *mailbox, const char *payload,
                 int64_t timeout_ms, bool queue, char **ret_reply, struct error *err)
{
    char file[128];
    file_of(mailbox, file);
    int r = talk_check(talk, mailbox, err);
    if (r < 0)
        return r;
    auto_close int fd = openat(talk->fd, file, O_RDWR | O_CLOEXEC | (queue ? 0 : O_NONBLOCK));
    if (fd < 0)
        return error_errno(err, errno, "%s/%s", talk->path, file);
    r = write_request(fd, payload, timeout_ms);
    if (r < 0)
        return explain(talk, fd, r, err);
    auto_free char *text = read_fd(fd);
    *ret_reply = copy_reply(text);
    return 0;
}
