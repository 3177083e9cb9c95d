/* SPDX-License-Identifier: MIT */
#include "group.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "fixture.h"

int group_setup_with(void **state, const char *loads)
{
    int r = harness_setup(state);
    if (r == 0) {
        fake_mount_with(*state, "--max-loads", loads);
        fake_publish(*state, "mailboxes=m,a", "");
    }
    return r;
}

char *group_draft(struct harness *h, const char *fork, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s/%s", fork, file);
}

void group_stage_within(struct harness *h, const char *fork, int ack_ms)
{
    harness_put(group_draft(h, fork, "mailboxes/m"),
                harness_format(h,
                               "{\"payload\":{\"hello\":\"guest\"},\"wait_for_ack\":true,"
                               "\"ack_timeout_ms\":%d}",
                               ack_ms));
}

void group_stage(struct harness *h, const char *fork)
{
    group_stage_within(h, fork, 0);
}

int group_write_ids(struct harness *h, const char *path, const char *ids)
{
    return harness_write(harness_path(h, "%s", path), harness_format(h, "%s\n", ids));
}

const char *group_get(struct harness *h, const char *fork, const char *file, const char *member)
{
    return harness_json(h, harness_get(h, group_draft(h, fork, file)), member);
}

void group_assert_forks(struct harness *h, const char *ids)
{
    assert_string_equal(assert_shell("bash", "echo $(ls instances)", 0).out,
                        harness_format(h, "%s\n", ids));
    const char *script = "cd snapshots/base/forks && echo $(ls | grep -vx -e new -e commit)";
    assert_string_equal(assert_shell("bash", script, 0).out, harness_format(h, "%s\n", ids));
}

void group_assert_new_is_empty(struct harness *h)
{
    assert_string_equal(assert_shell("bash", "ls snapshots/base/forks/new/mailboxes", 0).out, "");
}

void group_make_gate(struct harness *h)
{
    const char *gate = harness_format(h, "%s/gate", h->programs);
    assert_works(mkfifo(gate, 0600));
    assert_works(chmod(gate, 0644));
    fake_tell(h, harness_format(h,
                                "FAKE_VMM_GUEST\nread FAKE_VMM_GUEST < '%s'\n"
                                "[ $FAKE_VMM_GUEST = none ] && exit 1",
                                gate));
}

struct harness_child group_start_write(struct harness *h, const char *path, const char *ids)
{
    return harness_start_shell(h, "bash", harness_format(h, "exec echo %s > %s", ids, path));
}

struct group_lines *group_open_events(struct harness *h)
{
    struct group_lines *lines = harness_alloc(h, sizeof *lines);
    lines->fd = open(harness_path(h, "events"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_works(lines->fd);
    return lines;
}

static bool have_line(void *argument)
{
    struct group_lines *lines = argument;
    ssize_t size = read(lines->fd, lines->text + lines->size, sizeof lines->text - 1 - lines->size);
    lines->size += size > 0 ? (size_t)size : 0;
    return strstr(lines->text, lines->wanted);
}

void group_await_line(struct group_lines *lines, const char *text)
{
    lines->wanted = text;
    harness_await_that(have_line, lines, text);
}

void group_await_step(struct harness *h, struct group_lines *lines, const char *id,
                      const char *step)
{
    group_await_line(
        lines,
        harness_format(h, "\"instance\":\"%s\",\"source\":\"snapshots/base\",\"phase\":\"%s\"", id,
                       step));
}

void group_start_one(struct harness *h, struct group_lines *lines, const char *id,
                     const char *guest)
{
    group_await_step(h, lines, id, "load");
    harness_put(harness_format(h, "%s/gate", h->programs), harness_format(h, "%s\n", guest));
}

void group_make_draft(struct harness *h, const char *id)
{
    assert_works(mkdir(group_draft(h, id, ""), 0755));
    group_stage(h, id);
}
