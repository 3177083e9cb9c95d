/* SPDX-License-Identifier: MIT */
/* The tree as the kernel sees it: names, numbers, modes, and what may be made and removed where. */
#include "tree_fixture.h"

static void tree_when_listed_has_the_names_of_its_tables(void **state)
{
    static const struct {
        const char *path, *names;
    } cases[] = {
        {"", "README error snapshots instances events "},
        {"snapshots", "base "},
        {"snapshots/base", "info mailboxes warm accept forks "},
        {"snapshots/base/mailboxes", "fox box "},
        {"snapshots/base/forks", "commit new web-1 "},
        {"snapshots/base/forks/new", "mailboxes options commit status result error "},
        {"snapshots/base/forks/new/mailboxes", ""},
        {"snapshots/base/forks/web-1", "mailboxes options commit status result error instance "},
        {"snapshots/base/forks/web-1/mailboxes", "box "},
        {"instances/one",
         "info config state snapshot accept error console vmm.log mailboxes rescan forks "},
        {"instances/one/mailboxes", "fox box "},
        {"instances/two", "info config state snapshot accept error console vmm.log forks "},
        {"instances/web-1", "info config state snapshot accept error console vmm.log fork forks "},
    };
    struct tree *tree = *state;
    tree_furnish(tree);
    for (size_t i = 0; i < array_length(cases); i++)
        tree_assert_names(tree, cases[i].path, cases[i].names);
}

static void modes_when_asked_are_those_of_their_kind(void **state)
{
    static const struct {
        const char *path;
        mode_t mode;
    } cases[] = {
        {"", S_IFDIR | 0755},
        {"README", S_IFREG | 0444},
        {"error", S_IFREG | 0444},
        {"events", S_IFREG | 0400},
        {"snapshots", S_IFDIR | 0755},
        {"snapshots/base", S_IFDIR | 0755},
        {"snapshots/base/info", S_IFREG | 0444},
        {"snapshots/base/mailboxes", S_IFDIR | 0755},
        {"snapshots/base/mailboxes/box", S_IFREG | 0400},
        {"snapshots/base/warm", S_IFREG | 0644},
        {"snapshots/base/forks/web-1", S_IFDIR | 0755},
        {"snapshots/base/forks/web-1/mailboxes/box", S_IFREG | 0600},
        {"snapshots/base/forks/new/options", S_IFREG | 0644},
        {"snapshots/base/forks/new/commit", S_IFREG | 0200},
        {"snapshots/base/forks/new/status", S_IFREG | 0444},
        {"snapshots/base/forks/new/result", S_IFREG | 0400},
        {"snapshots/base/forks/new/error", S_IFREG | 0444},
        {"snapshots/base/forks/web-1/instance", S_IFLNK | 0777},
        {"instances/one/info", S_IFREG | 0444},
        {"instances/one/config", S_IFREG | 0600},
        {"instances/one/state", S_IFREG | 0644},
        {"instances/one/snapshot", S_IFREG | 0200},
        {"instances/one/error", S_IFREG | 0444},
        {"instances/one/console", S_IFREG | 0600},
        {"instances/one/vmm.log", S_IFREG | 0400},
        {"instances/one/mailboxes/fox", S_IFREG | 0600},
        {"instances/one/rescan", S_IFREG | 0200},
        {"instances/web-1/fork", S_IFLNK | 0777},
    };
    struct tree *tree = *state;
    tree_furnish(tree);
    for (size_t i = 0; i < array_length(cases); i++)
        if (tree_stat(tree, cases[i].path).st_mode != cases[i].mode)
            fail_msg("%s has mode %o", cases[i].path, tree_stat(tree, cases[i].path).st_mode);
}

enum { INODES_MAX = 256 };

struct inodes {
    ino_t seen[INODES_MAX];
    size_t count;
};

static void check_file(struct tree *tree, const char *path, const struct stat *st)
{
    struct handle *handle;
    if (S_ISLNK(st->st_mode)) {
        char target[256];
        assert_int_equal(fs_readlink(tree->fs, tree_walk(tree, path), target), 0);
        assert_int_equal(st->st_size, strlen(target));
        return;
    }
    if (strcmp(path, "events") == 0) {
        assert_int_equal(st->st_size, 0);
        return;
    }
    assert_int_equal(tree_open_flags(tree, path, O_RDONLY, &handle), 0);
    auto_free char *text = tree_read_open(tree, handle);
    size_t size = strlen(text);
    fs_release(tree->fs, handle);
    if ((size_t)st->st_size != size)
        fail_msg("%s has %zu bytes and says %jd", path, size, (intmax_t)st->st_size);
    if (size > 0 && text[size - 1] != '\n')
        fail_msg("%s does not end with a newline", path);
}

/* Every name of the directory and below: what readdir says of it is what a lookup finds. */
static void check_directory(struct tree *tree, const char *path, struct inodes *inodes)
{
    uint64_t directory = tree_walk(tree, path);
    struct handle *handle = tree_opendir(tree, directory);
    const char *name;
    struct stat listed;
    for (size_t i = 0; (name = fs_readdir(handle, i, &listed)); i++) {
        char inside[PATH_MAX];
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
            assert_int_equal(i, strlen(name) - 1);
            continue;
        }
        snprintf(inside, sizeof inside, "%s%s%s", path, *path ? "/" : "", name);
        struct stat st = tree_stat(tree, inside);
        if (st.st_ino != listed.st_ino || st.st_mode != listed.st_mode)
            fail_msg("%s: %ju %o, listed as %ju %o", inside, (uintmax_t)st.st_ino, st.st_mode,
                     (uintmax_t)listed.st_ino, listed.st_mode);
        assert_int_equal(st.st_nlink, 1);
        assert_int_equal(st.st_uid, geteuid());
        assert_int_equal(st.st_blocks, (st.st_size + 511) / 512);
        assert_true(st.st_mtim.tv_sec > 0);
        for (size_t k = 0; k < inodes->count; k++)
            if (inodes->seen[k] == st.st_ino)
                fail_msg("%s has the number of another one", inside);
        assert_true(inodes->count < INODES_MAX);
        inodes->seen[inodes->count++] = st.st_ino;
        if (S_ISDIR(st.st_mode))
            check_directory(tree, inside, inodes);
        else
            check_file(tree, inside, &st);
    }
    fs_release(tree->fs, handle);
}

static void tree_when_walked_is_consistent(void **state)
{
    struct tree *tree = *state;
    struct inodes first = {0}, second = {0};
    tree_furnish(tree);
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/mine"), 0);
    assert_int_equal(tree_put(tree, "snapshots/base/forks/mine/mailboxes/box", "{}\n"), 0);
    first.seen[first.count++] = tree_stat(tree, "").st_ino;
    second.seen[second.count++] = tree_stat(tree, "").st_ino;
    check_directory(tree, "", &first);
    assert_true(first.count > 60);
    check_directory(tree, "", &second); /* stable */
    assert_int_equal(first.count, second.count);
    assert_memory_equal(first.seen, second.seen, sizeof first.seen);
}

static void node_when_looked_up_again_is_the_same_but_for_commands(void **state)
{
    static const char *const same[] = {"", "README", "snapshots/base/mailboxes/box",
                                       "snapshots/base/forks/new/status", "instances/one/config"};
    static const char *const new[] = {"snapshots/base/forks/new/commit", "instances/one/state",
                                      "instances/one/snapshot"};
    struct tree *tree = *state;
    tree_furnish(tree);
    for (size_t i = 0; i < array_length(same); i++)
        assert_int_equal(tree_walk(tree, same[i]), tree_walk(tree, same[i]));
    for (size_t i = 0; i < array_length(new); i++) {
        uint64_t first = tree_walk(tree, new[i]), second = tree_walk(tree, new[i]);
        struct stat a, b;
        assert_int_not_equal(first, second);
        assert_int_equal(tree_getattr(tree, first, &a), 0);
        assert_int_equal(tree_getattr(tree, second, &b), 0);
        assert_int_equal(a.st_ino, b.st_ino);
    }
}

static void node_when_forgotten_is_gone_and_its_id_never_reused(void **state)
{
    struct tree *tree = *state;
    struct stat st;
    tree_furnish(tree);
    uint64_t base = tree_walk(tree, "snapshots/base"), node, again;
    assert_int_equal(tree_lookup(tree, base, "info", &node, &st), 0);
    assert_int_equal(tree_lookup(tree, base, "info", &again, &st), 0);
    fs_forget(tree->fs, node, 1);
    assert_int_equal(tree_getattr(tree, node, &st), 0); /* looked up twice */
    fs_forget(tree->fs, node, 1);
    assert_int_equal(tree_getattr(tree, node, &st), -ESTALE);
    fs_forget(tree->fs, node, 1);
    fs_forget(tree->fs, UINT64_MAX, 1);
    assert_int_equal(tree_lookup(tree, base, "info", &again, &st), 0);
    assert_true(again > node);
    fs_forget(tree->fs, again, UINT64_MAX);
    assert_int_equal(tree_getattr(tree, again, &st), -ESTALE);
    fs_forget(tree->fs, 1, UINT64_MAX);
    assert_int_equal(tree_getattr(tree, 1, &st), 0); /* the root stays */
}

static void lookup_when_there_is_nothing_fails(void **state)
{
    static const struct {
        const char *path;
        int code;
    } cases[] = {
        {"nothing", ENOENT},
        {"readme", ENOENT},
        {"snapshots/other", ENOENT},
        {"snapshots/base/cold", ENOENT},
        {"snapshots/base/network", ENOENT},
        {"snapshots/base/mailboxes/bo", ENOENT},
        {"snapshots/base/forks/other", ENOENT},
        {"snapshots/base/forks/new/network", ENOENT},
        {"snapshots/base/forks/new/instance", ENOENT},
        {"snapshots/base/forks/new/mailboxes/box", ENOENT},
        {"instances/new", ENOENT},
        {"instances/two/mailboxes", ENOENT},
        {"instances/two/fork", ENOENT},
        {"instances/..", ENOENT},
        {"README/x", ENOTDIR},
        {"instances/two/config/x", ENOTDIR},
        {"instances/web-1/fork/x", ENOTDIR},
    };
    struct tree *tree = *state;
    struct stat st;
    tree_furnish(tree);
    for (size_t i = 0; i < array_length(cases); i++)
        if (tree_try_walk(tree, cases[i].path, &st) != -cases[i].code)
            fail_msg("%s: %jd", cases[i].path, (intmax_t)tree_try_walk(tree, cases[i].path, &st));
}

static void links_when_read_lead_to_each_other(void **state)
{
    struct tree *tree = *state;
    char target[256];
    tree_furnish(tree);
    assert_int_equal(
        fs_readlink(tree->fs, tree_walk(tree, "snapshots/base/forks/web-1/instance"), target), 0);
    assert_string_equal(target, "../../../../instances/web-1");
    assert_int_equal(fs_readlink(tree->fs, tree_walk(tree, "instances/web-1/fork"), target), 0);
    assert_string_equal(target, "../../snapshots/base/forks/web-1");
    assert_int_equal(fs_readlink(tree->fs, tree_walk(tree, "README"), target), -EINVAL);
}

static void mkdir_when_its_name_or_place_is_wrong_fails(void **state)
{
    static const struct {
        const char *path;
        int code;
    } cases[] = {
        {"instances/two", EEXIST},
        {"instances/New", EINVAL},
        {"instances/new", EINVAL},
        {"instances/commit", EINVAL},
        {"instances/a.b", EINVAL},
        {"instances/-a", EINVAL},
        {"snapshots/base/forks/new", EINVAL},
        {"snapshots/base/forks/web-1", EEXIST},
        {"snapshots/base/forks/A", EINVAL},
        {"snapshots/other", EPERM},
        {"other", EPERM},
        {"snapshots/base/other", EPERM},
        {"snapshots/base/mailboxes/other", EPERM},
        {"snapshots/base/forks/new/other", EPERM},
        {"snapshots/base/forks/new/mailboxes/other", EPERM},
        {"instances/two/other", EPERM},
    };
    struct tree *tree = *state;
    tree_furnish(tree);
    for (size_t i = 0; i < array_length(cases); i++)
        if (tree_mkdir(tree, cases[i].path) != -cases[i].code)
            fail_msg("%s: %d", cases[i].path, tree_mkdir(tree, cases[i].path));
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/a"), 0);
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/a"), -EEXIST);
    /* A draft's id is taken in its own forks/ alone. */
    assert_int_equal(tree_mkdir(tree, "instances/a"), 0);
}

static void removal_when_not_allowed_fails(void **state)
{
    static const struct {
        const char *path;
        int rmdir_code, unlink_code;
    } cases[] = {
        {"README", EPERM, EPERM},
        {"events", EPERM, EPERM},
        {"snapshots", EPERM, EPERM},
        {"snapshots/base/info", EPERM, EPERM},
        {"snapshots/base/mailboxes", EPERM, EPERM},
        {"snapshots/base/mailboxes/box", EPERM, EPERM},
        {"snapshots/base/forks", EPERM, EPERM},
        {"snapshots/base/forks/new", EPERM, EPERM},
        {"snapshots/base/forks/web-1", EBUSY, EPERM}, /* a record goes with its instance */
        {"snapshots/base/forks/other", ENOENT, EPERM},
        {"snapshots/base/forks/new/commit", EPERM, EPERM},
        {"snapshots/base/forks/new/options", EPERM, EPERM},
        {"snapshots/base/forks/new/mailboxes", EPERM, EPERM},
        {"snapshots/base/forks/new/mailboxes/box", EPERM, ENOENT},
        {"snapshots/base/forks/web-1/mailboxes/box", EPERM, EPERM},
        {"snapshots/base/forks/web-1/instance", EPERM, EPERM},
        {"snapshots/other", ENOENT, EPERM},
        {"instances/other", ENOENT, EPERM},
        {"instances/two/state", EPERM, EPERM},
        {"instances/web-1/fork", EPERM, EPERM},
    };
    struct tree *tree = *state;
    tree_furnish(tree);
    for (size_t i = 0; i < array_length(cases); i++) {
        int removed = tree_rmdir(tree, cases[i].path), unlinked = tree_unlink(tree, cases[i].path);
        if (removed != -cases[i].rmdir_code || unlinked != -cases[i].unlink_code)
            fail_msg("%s: %d and %d", cases[i].path, removed, unlinked);
    }
}

static void creation_when_not_in_a_drafts_mailboxes_fails(void **state)
{
    static const struct {
        const char *path;
        int code;
    } cases[] = {
        {"file", EPERM},
        {"snapshots/file", EPERM},
        {"snapshots/base/network", EPERM},
        {"snapshots/base/mailboxes/file", EPERM},
        {"snapshots/base/forks/file", EPERM},
        {"snapshots/base/forks/new/file", EPERM},
        {"snapshots/base/forks/web-1/network", EPERM},
        {"snapshots/base/forks/web-1/mailboxes/file", EPERM},
        {"instances/file", EPERM},
        {"instances/two/file", EPERM},
        {"instances/one/mailboxes/file", EPERM},
        {"snapshots/base/forks/new/mailboxes/a b", EINVAL},
        {"snapshots/base/forks/new/mailboxes/a@b", EINVAL},
        {"snapshots/base/forks/new/mailboxes/.", EINVAL},
        {"snapshots/base/forks/new/mailboxes/..", EINVAL},
        {"snapshots/base/forks/new/mailboxes/ä", EINVAL},
        {"snapshots/base/forks/new/mailboxes/"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         EINVAL},
    };
    struct tree *tree = *state;
    struct handle *handle;
    tree_furnish(tree);
    for (size_t i = 0; i < array_length(cases); i++) {
        int r = tree_open_flags(tree, cases[i].path, O_WRONLY | O_CREAT, &handle);
        if (r != -cases[i].code)
            fail_msg("%s: %d", cases[i].path, r);
    }
    tree_assert_names(tree, "snapshots/base/forks/new/mailboxes", "");
}

static void listing_when_the_directory_changes_stays_as_it_was_opened(void **state)
{
    struct tree *tree = *state;
    tree_furnish(tree);
    struct handle *handle = tree_opendir(tree, tree_walk(tree, "instances"));
    struct stat st;
    size_t count = 0;
    while (fs_readdir(handle, count, &st))
        count++;
    assert_int_equal(count, 2 + 3);
    assert_int_equal(tree_rmdir(tree, "instances/two"), 0);
    assert_int_equal(tree_mkdir(tree, "instances/three"), 0);
    assert_int_equal(tree_mkdir(tree, "instances/four"), 0);
    assert_non_null(fs_readdir(handle, count - 1, &st));
    assert_null(fs_readdir(handle, count, &st));
    assert_null(fs_readdir(handle, SIZE_MAX, &st));
    fs_release(tree->fs, handle);
    struct handle *none = NULL;
    struct caller caller;
    caller_init(&caller);
    assert_int_equal(fs_opendir(tree->fs, tree_walk(tree, "README"), &caller.waiter, &none),
                     -ENOTDIR);
    gate_finish(&caller.answered);
}

struct looker {
    struct tree *tree;
    struct gate started;
    pid_t tid;
};

static void *look_at_snapshots(void *argument)
{
    struct looker *looker = argument;
    looker->tid = gettid();
    gate_post(&looker->started);
    tree_walk(looker->tree, "snapshots/base");
    tree_assert_names(looker->tree, "snapshots", "base ");
    return NULL;
}

/* Somebody reads the files of what is new in the store, on a disk that takes its time. */
static void tree_while_the_store_is_read_keeps_nobody_waiting_but_who_looks_there(void **state)
{
    struct tree *tree = *state;
    struct looker looker = {.tree = tree};
    pthread_t thread;
    tree_furnish(tree);
    gate_init(&looker.started);
    pthread_mutex_lock(&tree->world->snapshots.refreshing);
    assert_int_equal(pthread_create(&thread, NULL, look_at_snapshots, &looker), 0);
    assert_true(gate_wait(&looker.started, FIXTURE_FAR_MS));
    world_await_asleep(looker.tid);
    alarm(FIXTURE_FAR_MS / 1000);
    tree_assert_text(tree, "instances/two/state", "created\n");
    tree_assert_names(tree, "instances/two/forks", "commit new ");
    assert_int_equal(tree_put(tree, "instances/two/forks/new/mailboxes/m", "{}"), 0);
    alarm(0);
    pthread_mutex_unlock(&tree->world->snapshots.refreshing);
    pthread_join(thread, NULL);
    gate_finish(&looker.started);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY_TREE(tree_when_listed_has_the_names_of_its_tables),
        IN_EMPTY_TREE(modes_when_asked_are_those_of_their_kind),
        IN_EMPTY_TREE(tree_when_walked_is_consistent),
        IN_EMPTY_TREE(node_when_looked_up_again_is_the_same_but_for_commands),
        IN_EMPTY_TREE(node_when_forgotten_is_gone_and_its_id_never_reused),
        IN_EMPTY_TREE(lookup_when_there_is_nothing_fails),
        IN_EMPTY_TREE(links_when_read_lead_to_each_other),
        IN_EMPTY_TREE(mkdir_when_its_name_or_place_is_wrong_fails),
        IN_EMPTY_TREE(removal_when_not_allowed_fails),
        IN_EMPTY_TREE(creation_when_not_in_a_drafts_mailboxes_fails),
        IN_EMPTY_TREE(listing_when_the_directory_changes_stays_as_it_was_opened),
        IN_EMPTY_TREE(tree_while_the_store_is_read_keeps_nobody_waiting_but_who_looks_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
