/* SPDX-License-Identifier: MIT */
/* What is where: names, modes, sizes, inodes, and what directories allow. */
#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { NAME_BLOCK = 512, INODES_MAX = 256 };

static const struct place {
    const char *path;
    mode_t mode;
} places[] = {
    {"", S_IFDIR | 0755},
    {"README", S_IFREG | 0444},
    {"error", S_IFREG | 0444},
    {"events", S_IFREG | 0400},
    {"snapshots", S_IFDIR | 0755},
    {"snapshots/base", S_IFDIR | 0755},
    {"snapshots/base/info", S_IFREG | 0444},
    {"snapshots/base/mailboxes", S_IFDIR | 0755},
    {"snapshots/base/mailboxes/m", S_IFREG | 0400},
    {"snapshots/base/warm", S_IFREG | 0644},
    {"snapshots/base/accept", S_IFREG | 0600},
    {"snapshots/base/forks", S_IFDIR | 0755},
    {"snapshots/base/forks/commit", S_IFREG | 0200},
    {"snapshots/base/forks/new", S_IFDIR | 0755},
    {"snapshots/base/forks/new/mailboxes", S_IFDIR | 0755},
    {"snapshots/base/forks/new/mailboxes/m", S_IFREG | 0600},
    {"snapshots/base/forks/new/options", S_IFREG | 0644},
    {"snapshots/base/forks/new/commit", S_IFREG | 0200},
    {"snapshots/base/forks/new/status", S_IFREG | 0444},
    {"snapshots/base/forks/new/result", S_IFREG | 0400},
    {"snapshots/base/forks/new/error", S_IFREG | 0444},
    {"instances", S_IFDIR | 0755},
    {"instances/x", S_IFDIR | 0755},
    {"instances/x/info", S_IFREG | 0444},
    {"instances/x/config", S_IFREG | 0600},
    {"instances/x/state", S_IFREG | 0644},
    {"instances/x/snapshot", S_IFREG | 0200},
    {"instances/x/accept", S_IFREG | 0600},
    {"instances/x/error", S_IFREG | 0444},
    {"instances/x/console", S_IFREG | 0600},
    {"instances/x/vmm.log", S_IFREG | 0400},
    {"instances/x/forks", S_IFDIR | 0755},
    {"instances/x/forks/commit", S_IFREG | 0200},
    {"instances/x/forks/new", S_IFDIR | 0755},
    {"instances/x/forks/new/mailboxes", S_IFDIR | 0755},
    {"instances/x/forks/new/options", S_IFREG | 0644},
    {"instances/x/forks/new/commit", S_IFREG | 0200},
    {"instances/x/forks/new/status", S_IFREG | 0444},
    {"instances/x/forks/new/result", S_IFREG | 0400},
    {"instances/x/forks/new/error", S_IFREG | 0444},
};

static void furnish(struct harness *h)
{
    assert_works(mkdir(harness_path(h, "instances/x"), 0700));
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/m"), "{\"n\":1}\n");
}

static void check_place(struct harness *h, const struct place *place)
{
    struct stat st;
    const char *path = harness_path(h, "%s", place->path);
    assert_works(stat(path, &st));
    if (st.st_mode != place->mode)
        fail_msg("%s has the mode %o", path, st.st_mode);
    assert_int_equal(st.st_nlink, 1);
    assert_int_equal(st.st_uid, geteuid());
    assert_int_equal(st.st_gid, getegid());
    assert_int_equal(st.st_blocks, (st.st_size + NAME_BLOCK - 1) / NAME_BLOCK);
    assert_true(st.st_mtim.tv_sec > 0);
    if (!S_ISREG(place->mode) || access(path, R_OK) < 0 || strcmp(place->path, "events") == 0)
        return;
    const char *text = harness_get(h, path);
    if ((size_t)st.st_size != strlen(text))
        fail_msg("%s has %jd bytes, and says \"%s\"", path, (intmax_t)st.st_size, text);
}

static void tree_when_looked_at_has_the_names_modes_and_sizes(void **state)
{
    struct harness *h = *state;
    furnish(h);
    for (size_t i = 0; i < array_length(places); i++)
        check_place(h, &places[i]);
    struct harness_result found = assert_shell("bash", "find . | sort", 0);
    size_t lines = 0;
    for (const char *at = found.out; *at; at++)
        lines += *at == '\n';
    assert_int_equal(lines, array_length(places) + 2); /* mailboxes a and b */
}

static void readme_when_read_is_short_and_ends_with_a_newline(void **state)
{
    struct harness *h = *state;
    char *text = harness_get(h, harness_path(h, "README"));
    size_t lines = 0, size = strlen(text);
    for (size_t i = 0; i < size; i++)
        lines += text[i] == '\n';
    assert_in_range(lines, 20, 40);
    assert_true(text[size - 1] == '\n' && text[size - 2] != '\n');
    assert_contains(text, "rmdir");
}

struct inodes {
    size_t count;
    ino_t seen[INODES_MAX];
};

/* Each name of the directory: the listing's inode is stat's, and nothing else has it. */
static void collect(struct harness *h, const char *directory, struct inodes *inodes)
{
    auto_closedir DIR *dir = opendir(directory);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        struct stat st;
        const char *path = harness_format(h, "%s/%s", directory, entry->d_name);
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        assert_works(lstat(path, &st));
        assert_int_equal(st.st_ino, entry->d_ino);
        for (size_t i = 0; i < inodes->count; i++)
            if (inodes->seen[i] == st.st_ino)
                fail_msg("%s has the inode of another", path);
        assert_true(inodes->count < INODES_MAX);
        inodes->seen[inodes->count++] = st.st_ino;
        if (S_ISDIR(st.st_mode))
            collect(h, path, inodes);
    }
}

static void inodes_when_the_tree_is_walked_twice_are_unique_and_stable(void **state)
{
    struct harness *h = *state;
    struct inodes first = {0}, second = {0};
    furnish(h);
    collect(h, h->mount, &first);
    collect(h, h->mount, &second);
    assert_int_equal(first.count, array_length(places) + 1); /* not the root; a and b */
    assert_int_equal(first.count, second.count);
    assert_memory_equal(first.seen, second.seen, first.count * sizeof first.seen[0]);
}

static void inode_when_an_id_is_made_anew_is_not_used_again(void **state)
{
    struct harness *h = *state;
    struct stat before, after;
    const char *draft = harness_path(h, "snapshots/base/forks/d");
    assert_works(mkdir(draft, 0755));
    assert_works(stat(draft, &before));
    assert_works(rmdir(draft));
    assert_works(mkdir(draft, 0755));
    assert_works(stat(draft, &after));
    assert_int_not_equal(before.st_ino, after.st_ino);
}

static void mkdir_where_objects_are_made_refuses_bad_and_taken_ids(void **state)
{
    struct harness *h = *state;
    char ids[2][80];
    static const char *const bad[] = {"A", "aB", "-a", "a-", "a_b", "a.b", ".a", "a b", "ä"};
    static const char *const parents[] = {"instances", "snapshots/base/forks"};
    assert_fails(mkdir(harness_path(h, "instances/commit"), 0755), EINVAL);
    assert_fails(mkdir(harness_path(h, "snapshots/base/forks/commit"), 0755), EEXIST);
    memset(ids, 'a', sizeof ids);
    ids[0][63] = ids[1][64] = 0;
    for (size_t i = 0; i < array_length(parents); i++) {
        for (size_t k = 0; k < array_length(bad); k++)
            assert_fails(mkdir(harness_path(h, "%s/%s", parents[i], bad[k]), 0755), EINVAL);
        assert_works(mkdir(harness_path(h, "%s/%s", parents[i], ids[0]), 0755));
        assert_fails(mkdir(harness_path(h, "%s/%s", parents[i], ids[0]), 0755), EEXIST);
        assert_fails(mkdir(harness_path(h, "%s/%s", parents[i], ids[1]), 0755), EINVAL);
        assert_works(rmdir(harness_path(h, "%s/%s", parents[i], ids[0])));
        assert_works(mkdir(harness_path(h, "%s/a", parents[i]), 0755));
        assert_works(mkdir(harness_path(h, "%s/a0-9", parents[i]), 0755));
        assert_works(
            mkdir(harness_path(h, "%s/0189b5e0-0000-7000-8000-0123456789ab", parents[i]), 0755));
    }
    assert_fails(mkdir(harness_path(h, "instances/new"), 0755), EINVAL);
    assert_fails(mkdir(harness_path(h, "snapshots/base/forks/new"), 0755), EEXIST);
}

static void statfs_tells_of_the_stores_file_system(void **state)
{
    struct harness *h = *state;
    struct statvfs mount, store;
    assert_works(statvfs(h->mount, &mount));
    assert_works(statvfs(h->store, &store));
    assert_true(store.f_blocks > 0);
    assert_int_equal(mount.f_blocks, store.f_blocks);
    assert_int_equal(mount.f_frsize, store.f_frsize);
    assert_int_equal(mount.f_files, store.f_files);
}

/* Among those who use the mount. */
static void locks_of_files_exclude_each_other(void **state)
{
    struct harness *h = *state;
    const char *info = harness_path(h, "snapshots/base/info");
    auto_close int first = open(info, O_RDONLY | O_CLOEXEC);
    auto_close int second = open(info, O_RDONLY | O_CLOEXEC);
    assert_works(flock(first, LOCK_EX | LOCK_NB));
    assert_fails(flock(second, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    assert_works(flock(first, LOCK_UN));
    assert_works(flock(second, LOCK_SH | LOCK_NB));
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    assert_works(fcntl(first, F_OFD_SETLK, &lock));
    assert_works(fcntl(second, F_OFD_SETLK, &lock)); /* both read */
    assert_shell("python3",
                 "import fcntl\n"
                 "f = open('snapshots/base/forks/new/options', 'r+')\n"
                 "g = open('snapshots/base/forks/new/options', 'r+')\n"
                 "fcntl.flock(f, fcntl.LOCK_EX)\n"
                 "try: fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
                 "except BlockingIOError: raise SystemExit(0)\n"
                 "raise SystemExit(1)\n",
                 0);
}

static void names_that_are_very_long_are_not_there(void **state)
{
    struct harness *h = *state;
    char name[1000];
    struct stat st;
    memset(name, 'a', sizeof name);
    name[sizeof name - 1] = 0;
    for (size_t i = 0; i < array_length(places); i++)
        if (S_ISDIR(places[i].mode) && strncmp(places[i].path, "instances/", 10) != 0)
            assert_true(stat(harness_path(h, "%s/%s", places[i].path, name), &st) < 0 &&
                        (errno == ENOENT || errno == ENAMETOOLONG));
}

/* The kernel lets longer names through than a directory can list. */
static void scratch_file_with_a_very_long_name_is_not_made(void **state)
{
    struct harness *h = *state;
    char name[301];
    memset(name, 'a', 300);
    name[299] = '~';
    name[300] = 0;
    const char *path = harness_path(h, "snapshots/base/forks/new/mailboxes/%s", name);
    assert_fails(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600), EINVAL);
    path = harness_path(h, "snapshots/base/forks/new/mailboxes/%s", name + 45);
    harness_put(path, "anything\n");
    assert_shell("bash",
                 "ls snapshots/base/forks/new/mailboxes | wc -cl | xargs | grep -qx '1 256'", 0);
    assert_works(unlink(path));
}

/* Every name of a walk is looked up: with as many as an image can have, too. */
static void walk_of_an_image_full_of_mailboxes_finishes(void **state)
{
    enum { COUNT = 4096 };
    struct harness *h = *state;
    struct harness_frame *frames = harness_alloc(h, COUNT * sizeof *frames);
    for (unsigned i = 0; i < COUNT; i++)
        frames[i] = (struct harness_frame){.offset = UINT64_C(4096) * i,
                                           .name = harness_format(h, "a-mailbox-of-many.%04u", i),
                                           .token = "t"};
    harness_craft(h, &(struct harness_snapshot){.id = "full", .frames = frames, .count = COUNT});
    harness_mount(h, NULL);
    assert_shell("bash",
                 "ls -l snapshots/full/mailboxes | grep -c mailbox-of-many | grep -qx 4096 && "
                 "grep -q '\"offset\": 16773120' snapshots/full/mailboxes/*.4095",
                 0);
}

static void instances_may_be_more_than_the_usual_number_of_descriptors(void **state)
{
    enum { FEW = 64, MORE = 100 };
    struct harness *h = *state;
    struct rlimit limit, usual;
    assert_works(getrlimit(RLIMIT_NOFILE, &usual));
    limit = usual;
    limit.rlim_cur = FEW;
    assert_works(setrlimit(RLIMIT_NOFILE, &limit));
    harness_mount(h, NULL);
    assert_works(setrlimit(RLIMIT_NOFILE, &usual));
    for (int i = 0; i < MORE; i++)
        assert_works(mkdir(harness_path(h, "instances/i%d", i), 0755));
    for (int i = 0; i < MORE; i++)
        assert_works(rmdir(harness_path(h, "instances/i%d", i)));
}

static void directories_where_nothing_is_made_refuse_everything(void **state)
{
    struct harness *h = *state;
    static const char *const fixed[] = {"",
                                        "snapshots",
                                        "snapshots/base",
                                        "snapshots/base/mailboxes",
                                        "snapshots/base/forks/new",
                                        "snapshots/base/forks/new/mailboxes",
                                        "instances/x"};
    furnish(h);
    for (size_t i = 0; i < array_length(fixed); i++) {
        const char *path = harness_path(h, "%s/it", fixed[i]);
        assert_fails(mkdir(path, 0755), EPERM);
        assert_fails(symlink("x", path), EPERM);
        assert_fails(link(harness_path(h, "README"), path), EPERM);
        assert_fails(mkfifo(path, 0600), EPERM);
        if (i != 5) /* a draft's mailboxes/ take files */
            assert_errno(harness_write(path, "{}"), EPERM);
    }
    assert_errno(harness_write(harness_path(h, "instances/it"), "{}"), EPERM);
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/it"), "{}"), EPERM);
}

static void files_that_are_fixed_cannot_be_removed_or_renamed(void **state)
{
    struct harness *h = *state;
    furnish(h);
    for (size_t i = 0; i < array_length(places); i++) {
        const char *path = harness_path(h, "%s", places[i].path);
        const char *other = harness_format(h, "%s-2", path);
        bool staged = strcmp(places[i].path, "snapshots/base/forks/new/mailboxes/m") == 0;
        if (i == 0 || staged)
            continue;
        assert_fails(rename(path, other), EPERM);
        if (S_ISREG(places[i].mode))
            assert_fails(unlink(path), EPERM);
    }
    assert_fails(rename(harness_path(h, "snapshots/base/forks/new/mailboxes/m"),
                        harness_path(h, "snapshots/base/forks/new/m")),
                 EPERM);
    assert_fails(rename(harness_path(h, "snapshots/base/forks/new/options"),
                        harness_path(h, "snapshots/base/forks/new/mailboxes/options")),
                 EPERM);
}

static void rmdir_of_directories_that_are_no_objects_is_refused(void **state)
{
    struct harness *h = *state;
    static const char *const fixed[] = {"snapshots",
                                        "instances",
                                        "snapshots/base/mailboxes",
                                        "snapshots/base/forks",
                                        "snapshots/base/forks/new",
                                        "snapshots/base/forks/new/mailboxes"};
    for (size_t i = 0; i < array_length(fixed); i++)
        assert_fails(rmdir(harness_path(h, "%s", fixed[i])), EPERM);
    assert_fails(rmdir(harness_path(h, "instances/none")), ENOENT);
    assert_fails(rmdir(harness_path(h, "snapshots/base/forks/none")), ENOENT);
    assert_fails(rmdir(harness_path(h, "snapshots/none")), ENOENT);
    assert_fails(rmdir(harness_path(h, "README")), ENOTDIR);
}

static void rmdir_of_objects_takes_them_whole(void **state)
{
    struct harness *h = *state;
    furnish(h);
    assert_works(mkdir(harness_path(h, "snapshots/base/forks/d"), 0755));
    harness_put(harness_path(h, "snapshots/base/forks/d/mailboxes/m"), "{}");
    assert_works(rmdir(harness_path(h, "snapshots/base/forks/d")));
    assert_fails(access(harness_path(h, "snapshots/base/forks/d"), F_OK), ENOENT);
    assert_works(rmdir(harness_path(h, "instances/x")));
    assert_fails(access(harness_store_path(h, "instances/x"), F_OK), ENOENT);
    assert_works(rmdir(harness_path(h, "snapshots/base")));
    assert_fails(access(harness_store_path(h, "snapshots/base"), F_OK), ENOENT);
    harness_await_erased(h);
    assert_string_equal(assert_shell("bash",
                                     "ls -A $S/snapshots $S/instances snapshots instances |"
                                     " grep -v : | tr -d '\\n'",
                                     0)
                            .out,
                        "");
}

static void rm_of_a_draft_unlinks_what_is_staged_and_fails(void **state)
{
    struct harness *h = *state;
    assert_works(mkdir(harness_path(h, "snapshots/base/forks/d"), 0755));
    harness_put(harness_path(h, "snapshots/base/forks/d/mailboxes/m"), "{}");
    struct harness_result result = assert_shell("bash", "rm -r snapshots/base/forks/d", 1);
    assert_contains(result.err, "Operation not permitted");
    assert_fails(access(harness_path(h, "snapshots/base/forks/d/mailboxes/m"), F_OK), ENOENT);
    assert_works(access(harness_path(h, "snapshots/base/forks/d/commit"), F_OK));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        mounted_test(tree_when_looked_at_has_the_names_modes_and_sizes),
        mounted_test(readme_when_read_is_short_and_ends_with_a_newline),
        mounted_test(inodes_when_the_tree_is_walked_twice_are_unique_and_stable),
        mounted_test(inode_when_an_id_is_made_anew_is_not_used_again),
        mounted_test(mkdir_where_objects_are_made_refuses_bad_and_taken_ids),
        mounted_test(statfs_tells_of_the_stores_file_system),
        mounted_test(locks_of_files_exclude_each_other),
        mounted_test(names_that_are_very_long_are_not_there),
        mounted_test(scratch_file_with_a_very_long_name_is_not_made),
        bare_test(walk_of_an_image_full_of_mailboxes_finishes),
        bare_test(instances_may_be_more_than_the_usual_number_of_descriptors),
        mounted_test(directories_where_nothing_is_made_refuse_everything),
        mounted_test(files_that_are_fixed_cannot_be_removed_or_renamed),
        mounted_test(rmdir_of_directories_that_are_no_objects_is_refused),
        mounted_test(rmdir_of_objects_takes_them_whole),
        mounted_test(rm_of_a_draft_unlinks_what_is_staged_and_fails),
    };
    harness_enter();
    return cmocka_run_group_tests_name("tree", tests, NULL, NULL);
}
