/* SPDX-License-Identifier: MIT */
/* Commits and what they leave. VMs are not needed: QEMU is missing, dies, or hangs. */
#include <sys/prctl.h>

#include "fs/state.h"
#include "tree_fixture.h"

#define MINE "snapshots/base/forks/mine/"

static void draft_when_new_is_empty(void **state)
{
    struct tree *tree = *state;
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/mine"), 0);
    tree_assert_text(tree, MINE "status", "empty\n");
    tree_assert_text(tree, MINE "result", "");
    tree_assert_text(tree, MINE "error", "");
    tree_assert_names(tree, MINE "mailboxes", "");
}

static void commit_when_its_text_is_no_id_fails(void **state)
{
    static const struct {
        const char *path, *text;
        int code;
        const char *why;
    } cases[] = {
        {NEW "commit", "new", EINVAL, "is not an id"},
        {NEW "commit", "Web", EINVAL, "commit: \"Web\" is not an id: 1 to 63"},
        {NEW "commit", "a B", EINVAL, "\"B\" is not an id"},
        {NEW "commit", "commit", EINVAL, "is not an id"},
        {NEW "commit", "a\nb\na\n", EINVAL, "a was written to commit twice"},
        {NEW "commit", "a\x01", EINVAL, "\"a\\u0001"},
        {MINE "commit", "mine mine", EINVAL, "this draft can only be called mine"},
        {NEW "commit", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", EINVAL,
         "is not an id"},
        {NEW "commit", "mine", EEXIST, "forks/mine is there already"},
        {NEW "commit", "taken", EEXIST, "there is an instance taken already"},
        {MINE "commit", "yours", EINVAL, "this draft can only be called mine"},
        {MINE "commit", "MINE", EINVAL, "this draft can only be called mine"},
    };
    struct tree *tree = *state;
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/mine"), 0);
    assert_int_equal(tree_mkdir(tree, "instances/taken"), 0);
    for (size_t i = 0; i < array_length(cases); i++) {
        char error[128];
        int r = tree_put(tree, cases[i].path, cases[i].text);
        if (r != -cases[i].code)
            fail_msg("%s: %d", cases[i].text, r);
        snprintf(error, sizeof error, "%.*serror", (int)(strlen(cases[i].path) - strlen("commit")),
                 cases[i].path);
        tree_assert_has(tree, error, cases[i].why);
    }
    struct handle *handle = tree_open(tree, NEW "commit", O_WRONLY);
    assert_int_equal(tree_pwrite(tree, handle, "web-1\0", 6, 0, false), -EINVAL);
    fs_release(tree->fs, handle);
    tree_assert_names(tree, "instances", "taken ");
}

static void commit_when_its_text_is_an_id_or_nothing_is_run(void **state)
{
    static const struct {
        const char *path, *text, *instance;
    } cases[] = {
        {NEW "commit", "web-1", "\"instance\": \"web-1\""},
        {NEW "commit", " \t\n web-1 \n\n", "\"instance\": \"web-1\""},
        {NEW "commit", "\n", "\"instance\": \"fork-"},
        {NEW "commit", "1\n", "\"instance\": \"fork-"},
        {MINE "commit", "\n", "\"instance\": \"mine\""},
        {MINE "commit", "1", "\"instance\": \"mine\""},
        {MINE "commit", "mine\n", "\"instance\": \"mine\""},
    };
    struct tree *tree = *state;
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/mine"), 0);
    for (size_t i = 0; i < array_length(cases); i++) {
        char result[128];
        snprintf(result, sizeof result, "%.*sresult",
                 (int)(strlen(cases[i].path) - strlen("commit")), cases[i].path);
        assert_int_equal(tree_put(tree, cases[i].path, cases[i].text), -EIO);
        tree_assert_has(tree, result, cases[i].instance);
        tree_assert_has(tree, result, "\"phase\": \"load\"");
    }
    tree_assert_names(tree, "instances", "");
    tree_assert_names(tree, "snapshots/base/forks", "commit new mine ");
}

/* What stayed would go to the next fork, under another id. */
static void new_when_its_commit_failed_is_empty(void **state)
{
    struct tree *tree = *state;
    tree_must_put(tree, BOX, "{\"a\":1}");
    tree_must_put(tree, NEW "mailboxes/fox", "{\"a\":1}");
    tree_must_put(tree, NEW "options", "{\"on_ack_failure\":\"keep\"}");
    assert_int_equal(tree_put(tree, NEW "commit", "web-1"), -ENOENT);
    tree_assert_names(tree, NEW "mailboxes", "");
    tree_assert_has(tree, NEW "options", "\"on_ack_failure\": \"destroy\"");
    tree_assert_text(tree, NEW "status", "failed\n");
    tree_assert_has(tree, NEW "error", "mailbox \"fox\": it is not in the memory image");
    tree_assert_has(tree, NEW "error", "forks/new is empty again: stage everything anew");
    tree_assert_has(tree, NEW "result", "\"mailbox\": \"fox\"");
    tree_must_put(tree, BOX, "{\"a\":1}");
    tree_assert_text(tree, NEW "status", "staged\n");
    tree_assert_has(tree, NEW "error", "mailbox \"fox\""); /* until the next commit begins */
    tree_assert_has(tree, NEW "result", "\"code\": \"ENOENT\"");
    assert_int_equal(tree_put(tree, NEW "commit", "-"), -EINVAL); /* no id, and yet a commit */
    tree_assert_names(tree, NEW "mailboxes", "");
}

/* Python's flush and its close write the same bytes: the second must not fork without a payload. */
static void commit_that_failed_when_written_again_to_the_open_file_is_not_tried_again(void **state)
{
    struct tree *tree = *state;
    tree_must_put(tree, NEW "mailboxes/fox", "{}");
    struct handle *handle = tree_open(tree, NEW "commit", O_WRONLY);
    assert_int_equal(tree_write_at(tree, handle, "web-1", 0), -ENOENT);
    assert_int_equal(tree_write_at(tree, handle, "web-1", 0), -ENOENT);
    tree_assert_has(tree, NEW "error", "fox");
    assert_int_equal(tree_write_at(tree, handle, "web-2", 0), -EIO);
    tree_assert_has(tree, NEW "result", "\"phase\": \"load\"");
    fs_release(tree->fs, handle);
}

static void draft_when_its_commit_failed_can_be_mended(void **state)
{
    struct tree *tree = *state;
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/web-1"), 0);
    tree_must_put(tree, OWN "mailboxes/fox", "{\"a\":1}\n");
    assert_int_equal(tree_put(tree, OWN "commit", "web-1"), -ENOENT);
    tree_assert_text(tree, OWN "status", "failed\n");
    tree_assert_text(tree, OWN "error",
                     "mailbox \"fox\": it is not in the memory image: its software must have armed "
                     "it before the VM was saved\n");
    tree_assert_has(tree, OWN "result", "\"mailbox\": \"fox\"");
    tree_assert_text(tree, OWN "mailboxes/fox", "{\"a\":1}\n"); /* as it was staged */
    assert_int_equal(tree_rename(tree, OWN "mailboxes/fox", OWN_BOX, 0), 0);
    tree_assert_text(tree, OWN "status", "staged\n");
    tree_assert_text(tree, OWN "error", "");
    tree_assert_has(tree, OWN "result", "\"code\": \"ENOENT\""); /* until the next commit */
    world_install_qemu(tree->world, world_qemu_that_dies);
    assert_int_equal(tree_put(tree, OWN "commit", "web-1"), -EIO);
    tree_assert_has(tree, OWN "error", "qemu: no such luck");
    tree_assert_text(tree, OWN "status", "failed\n");
    assert_int_equal(tree_mkdir(tree, "instances/web-1"), 0); /* the id is free */
    assert_int_equal(tree_rmdir(tree, "snapshots/base"), 0);  /* and so is the snapshot */
}

static void commit_when_the_mount_wants_tokens_needs_them(void **state)
{
    struct tree *tree = *state;
    tree_stop(tree);
    world_restart(tree->world);
    tree_open_fs(tree, true);
    assert_int_equal(tree_put(tree, BOX, "{}"), -EINVAL);
    tree_assert_has(tree, NEW "error", "mailboxes/box: this mount requires tokens");
    tree_must_put(tree, BOX, "{\"payload\":{},\"token\":\"token\"}");
    tree_assert_committable(tree, NEW);
}

/* ---- while a commit is under way ---- */

/* A write that waits, and the open file that it goes to. On the heap: when a test fails, the write
 * is still answered. */
struct writer {
    struct caller caller;
    struct handle *handle;
    int result;
};

static void write_again(struct tree *tree, struct writer *writer, const char *text)
{
    caller_init(&writer->caller);
    writer->result =
        fs_write(tree->fs, writer->handle, text, strlen(text), 0, false, &writer->caller.waiter);
}

static struct writer *begin(struct tree *tree, const char *path, const char *text)
{
    struct writer *writer = calloc(1, sizeof *writer);
    assert_non_null(writer);
    writer->handle = tree_open(tree, path, O_WRONLY);
    write_again(tree, writer, text);
    return writer;
}

static int await(struct writer *writer)
{
    return caller_wait(&writer->caller, writer->result);
}

static int end(struct tree *tree, struct writer *writer)
{
    int r = await(writer);
    fs_release(tree->fs, writer->handle);
    free(writer);
    return r;
}

/* QEMU tells its version only when it is let go, and dies then. */
static void install_qemu_that_waits(struct world *world)
{
    auto_free char *script = NULL;
    assert_int_equal(mkfifo(world_path(world, "go"), 0600), 0);
    assert_true(asprintf(&script,
                         "#!/bin/sh\n"
                         "case \"$*\" in --version) read word < '%s';; esac\n"
                         "case \"$*\" in *--version) echo 'QEMU emulator version 7.2.22'; exit;; "
                         "esac\n"
                         "echo 'qemu: let go' >&2\n"
                         "exit 1\n",
                         world_path(world, "go")) > 0);
    world_install_qemu(world, script);
}

/* Returns when QEMU was asked for its version: what comes before is done. */
static int await_qemu(const struct world *world)
{
    int fd = open(world_path(world, "go"), O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void let_go(int fd)
{
    assert_int_equal(write(fd, "go\n", 3), 3);
    close(fd);
}

static void draft_when_it_commits_cannot_be_changed(void **state)
{
    struct tree *tree = *state;
    struct handle *handle;
    struct stat st;
    tree_must_put(tree, BOX, "{\"a\":1}");
    struct handle *open_before = tree_open(tree, BOX, O_RDWR);
    install_qemu_that_waits(tree->world);
    struct writer *writer = begin(tree, NEW "commit", "web-1");
    int go = await_qemu(tree->world);
    assert_int_equal(writer->result, FS_LATER);
    tree_assert_text(tree, NEW "status", "committing\n");
    tree_assert_text(tree, NEW "result", "");
    tree_assert_text(tree, NEW "error", "");
    tree_assert_text(tree, BOX, "{\"a\":1}");
    assert_int_equal(tree_open_flags(tree, BOX, O_WRONLY, &handle), -EBUSY);
    assert_int_equal(tree_open_flags(tree, BOX, O_RDONLY | O_TRUNC, &handle), -EBUSY);
    assert_int_equal(tree_open_flags(tree, NEW "options", O_RDWR, &handle), -EBUSY);
    assert_int_equal(tree_open_flags(tree, NEW "mailboxes/fox", O_WRONLY | O_CREAT, &handle),
                     -EBUSY);
    assert_int_equal(tree_open_flags(tree, NEW "network", O_WRONLY | O_CREAT, &handle), -EBUSY);
    assert_int_equal(tree_write_at(tree, open_before, "{\"a\":2}", 0), -EBUSY);
    assert_int_equal(tree_flush(tree, open_before), 0);
    assert_int_equal(fs_truncate(tree->fs, tree_walk(tree, BOX), NULL, 0), -EBUSY);
    assert_int_equal(tree_unlink(tree, BOX), -EBUSY);
    assert_int_equal(tree_rename(tree, BOX, NEW "mailboxes/fox", 0), -EBUSY);
    assert_int_equal(tree_rmdir(tree, "snapshots/base"), -EBUSY);
    assert_int_equal(tree_mkdir(tree, "instances/web-1"), -EEXIST); /* reserved */
    assert_int_equal(tree_try_walk(tree, "instances/web-1", &st), -ENOENT);
    let_go(go);
    assert_int_equal(end(tree, writer), -EIO);
    tree_assert_has(tree, NEW "error", "qemu: let go");
    fs_release(tree->fs, open_before);
    tree_assert_names(tree, NEW "mailboxes", "");
}

static void commit_when_written_twice_at_once_is_one(void **state)
{
    struct tree *tree = *state;
    install_qemu_that_waits(tree->world);
    struct writer *first = begin(tree, NEW "commit", "web-1");
    int go = await_qemu(tree->world);
    struct writer *same = begin(tree, NEW "commit", "web-1\n");
    struct writer *plain = begin(tree, NEW "commit", "1");
    struct writer *other = begin(tree, NEW "commit", "web-2");
    assert_int_equal(same->result, FS_LATER);
    assert_int_equal(plain->result, FS_LATER);
    assert_int_equal(end(tree, other), -EBUSY);
    let_go(go);
    assert_int_equal(end(tree, first), -EIO);
    assert_int_equal(end(tree, same), -EIO);
    assert_int_equal(end(tree, plain), -EIO);
}

static void commit_of_a_draft_when_written_twice_at_once_is_one(void **state)
{
    struct tree *tree = *state;
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/mine"), 0);
    install_qemu_that_waits(tree->world);
    struct writer *first = begin(tree, MINE "commit", "1");
    int go = await_qemu(tree->world);
    struct writer *same = begin(tree, MINE "commit", "mine");
    struct writer *other = begin(tree, MINE "commit", "yours");
    assert_int_equal(end(tree, other), -EINVAL);
    assert_int_equal(tree_rmdir(tree, "snapshots/base/forks/mine"), -EBUSY);
    tree_assert_text(tree, NEW "status", "empty\n"); /* others are not disturbed */
    tree_must_put(tree, BOX, "{}");
    let_go(go);
    assert_int_equal(end(tree, first), -EIO);
    assert_int_equal(end(tree, same), -EIO);
    assert_int_equal(tree_rmdir(tree, "snapshots/base/forks/mine"), 0);
}

/* The fork's record will stand under its id: nobody may take that name meanwhile. */
static void draft_when_a_commit_has_its_id_cannot_be_made(void **state)
{
    struct tree *tree = *state;
    install_qemu_that_waits(tree->world);
    struct writer *writer = begin(tree, NEW "commit", "web-1");
    int go = await_qemu(tree->world);
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/web-1"), -EEXIST);
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/web-2"), 0);
    let_go(go);
    assert_int_equal(end(tree, writer), -EIO);
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/web-1"), 0);
}

static void commits_when_the_daemon_stops_are_answered(void **state)
{
    struct tree *tree = *state;
    world_install_qemu(tree->world, "#!/bin/sh\n"
                                    "case \"$*\" in *--version) echo 'QEMU emulator version "
                                    "7.2.22'; exit;; esac\n"
                                    "exec tail -f /dev/null\n");
    struct writer *first = begin(tree, NEW "commit", "web-1");
    struct writer *second = begin(tree, NEW "commit", "web-1");
    fs_stop(tree->fs);
    assert_int_equal(end(tree, first), -ESHUTDOWN);
    assert_int_equal(end(tree, second), -ESHUTDOWN);
    struct writer *late = begin(tree, NEW "commit", "web-1");
    assert_int_equal(end(tree, late), -ESHUTDOWN);
    tree_assert_has(tree, NEW "error", "the daemon is stopping\n");
    assert_int_equal(world_count(world_path(tree->world, "store/instances")), 0);
}

static void commits_when_there_are_too_many_are_refused(void **state)
{
    struct tree *tree = *state;
    tree->fs->jobs.commits = JOB_COMMITS_MAX;
    tree_must_put(tree, BOX, "{}");
    assert_int_equal(tree_put(tree, NEW "commit", "web-1"), -EAGAIN);
    tree_assert_has(tree, NEW "error", "1024 commits and deliveries are under way: try again later");
    tree_assert_names(tree, NEW "mailboxes", "");
    tree->fs->jobs.commits = 0;
    tree_assert_committable(tree, NEW);
    assert_int_equal(tree->fs->jobs.commits, 0);
}

/* ---- signals ---- */

enum { NO_SUCH_THREAD = 0x3FFFFFFF };

static void writer_when_interrupted_gets_the_outcome_by_writing_again(void **state)
{
    struct tree *tree = *state;
    install_qemu_that_waits(tree->world);
    struct writer *writer = begin(tree, NEW "commit", "web-1\n");
    int go = await_qemu(tree->world);
    writer->caller.waiter.tid = NO_SUCH_THREAD; /* it waits no more, whatever the signal was */
    fs_interrupt(tree->fs, tree);               /* nobody's */
    fs_interrupt(tree->fs, &writer->caller);
    assert_int_equal(await(writer), -EINTR);
    tree_assert_text(tree, NEW "status", "committing\n"); /* the commit goes on */
    write_again(tree, writer, "web-2\n");
    assert_int_equal(await(writer), -EBUSY);
    write_again(tree, writer, "web-1\n");
    assert_int_equal(writer->result, FS_LATER);
    writer->caller.waiter.tid = NO_SUCH_THREAD;
    fs_interrupt(tree->fs, &writer->caller);
    assert_int_equal(await(writer), -EINTR);
    let_go(go);
    struct handle *status = tree_open(tree, NEW "status", O_RDONLY);
    free(tree_read_open(tree, status));
    while (fs_poll(tree->fs, status, tree) == 0)
        assert_true(gate_wait(&tree->woke, FIXTURE_FAR_MS));
    fs_release(tree->fs, status);
    tree_assert_text(tree, NEW "status", "failed\n");
    remove(tree->world->qemu); /* a second commit would say another thing */
    write_again(tree, writer, "web-1\n");
    assert_int_equal(writer->result, -EIO); /* at once, and once */
    await(writer);
    tree_assert_has(tree, NEW "error", "qemu: let go");
    write_again(tree, writer, "web-1\n");
    assert_int_equal(end(tree, writer), -EIO);
    tree_assert_has(tree, NEW "error", "qemu: let go"); /* that text is not tried again there */
}

/* However the interrupts fall between the looks at them: none is lost. */
static void writer_when_interrupted_often_is_answered_each_time(void **state)
{
    struct tree *tree = *state;
    install_qemu_that_waits(tree->world);
    struct writer *writer = begin(tree, NEW "commit", "web-1");
    int go = await_qemu(tree->world);
    for (int i = 0; i < 300; i++) {
        writer->caller.waiter.tid = NO_SUCH_THREAD;
        fs_interrupt(tree->fs, &writer->caller);
        assert_int_equal(await(writer), -EINTR);
        write_again(tree, writer, "web-1");
        assert_int_equal(writer->result, FS_LATER);
    }
    let_go(go);
    assert_int_equal(end(tree, writer), -EIO);
}

/* A child that has handlers for these signals, and is stopped: what it gets stays pending. */
static pid_t spawn_stopped(struct world *world)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(ready[1], STDERR_FILENO + 1);
        close_range(STDERR_FILENO + 2, ~0U, 0);
        signal(SIGCHLD, _exit);
        signal(SIGUSR1, _exit);
        if (write(STDERR_FILENO + 1, "r", 1) != 1)
            _exit(1);
        raise(SIGSTOP);
        _exit(0);
    }
    world->children[world->child_count].pid = pid;
    world->children[world->child_count++].pidfd = pidfd_open(pid, 0);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WSTOPPED), 0);
    return pid;
}

static void writer_when_a_background_job_ends_waits_on(void **state)
{
    struct tree *tree = *state;
    pid_t pid = spawn_stopped(tree->world);
    install_qemu_that_waits(tree->world);
    struct writer *writer = begin(tree, NEW "commit", "web-1");
    int go = await_qemu(tree->world);
    writer->caller.waiter.tid = pid;
    kill(pid, SIGCHLD);
    fs_interrupt(tree->fs, &writer->caller);
    assert_false(gate_wait(&writer->caller.answered, 250));
    kill(pid, SIGUSR1); /* looked at again without another word from the kernel */
    assert_int_equal(end(tree, writer), -EINTR);
    let_go(go);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BASE(draft_when_new_is_empty),
        WITH_BASE(new_when_its_commit_failed_is_empty),
        WITH_BASE(commit_that_failed_when_written_again_to_the_open_file_is_not_tried_again),
        WITH_BASE(commit_when_its_text_is_no_id_fails),
        WITH_BASE(commit_when_its_text_is_an_id_or_nothing_is_run),
        WITH_BASE(draft_when_its_commit_failed_can_be_mended),
        WITH_BASE(commit_when_the_mount_wants_tokens_needs_them),
        WITH_BASE(draft_when_it_commits_cannot_be_changed),
        WITH_BASE(commit_when_written_twice_at_once_is_one),
        WITH_BASE(commit_of_a_draft_when_written_twice_at_once_is_one),
        WITH_BASE(draft_when_a_commit_has_its_id_cannot_be_made),
        WITH_BASE(commits_when_the_daemon_stops_are_answered),
        WITH_BASE(commits_when_there_are_too_many_are_refused),
        WITH_BASE(writer_when_interrupted_gets_the_outcome_by_writing_again),
        WITH_BASE(writer_when_interrupted_often_is_answered_each_time),
        WITH_BASE(writer_when_a_background_job_ends_waits_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
