/* SPDX-License-Identifier: MIT */
/*
 * What the tree does when memory is missing: each call that takes memory fails once, in each
 * operation. The operation then succeeds or says ENOMEM, the daemon lives, and nothing is missing
 * from the tree afterwards.
 */
#include "faults.h"
#include "tree_fixture.h"

/* ---- the operations ---- */

struct operation {
    const char *parent, *name;
    bool makes; /* the directory `name`, rather than to look for it */
};

/* As the kernel: each name is looked up in the directory before. */
static int walk(struct tree *tree, const char *path, uint64_t *ret)
{
    char copy[PATH_MAX], *rest = NULL;
    struct stat st;
    int r = 0;
    snprintf(copy, sizeof copy, "%s", path);
    *ret = 1;
    for (char *name = strtok_r(copy, "/", &rest); name && r == 0; name = strtok_r(NULL, "/", &rest))
        r = tree_lookup(tree, *ret, name, ret, &st);
    return r;
}

static int operate(struct tree *tree, const struct operation *operation)
{
    uint64_t node;
    struct stat st;
    int r = walk(tree, operation->parent, &node);
    if (r < 0)
        return r;
    return operation->makes ? fs_mkdir(tree->fs, node, operation->name, gettid(), &node, &st)
                            : tree_lookup(tree, node, operation->name, &node, &st);
}

/* With the tree as the daemon has it when nobody has looked yet. True if something has failed. */
static bool try(struct tree *tree, const struct operation *operation, unsigned at, int *ret_r)
{
    tree_restart(tree);
    faults_begin(at);
    faults_armed = true;
    *ret_r = operate(tree, operation);
    faults_armed = false;
    return faults.failed;
}

static void assert_complete(struct tree *tree, const struct operation *operation)
{
    if (operation->makes) /* it is not there yet */
        assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/mine"), 0);
    tree_assert_names(tree, "snapshots/base/forks",
                      operation->makes ? "commit new web-1 mine " : "commit new web-1 ");
    tree_assert_text(tree, "snapshots/base/forks/web-1/status", "committed\n");
    tree_assert_text(tree, "snapshots/base/forks/web-1/options", "{}\n");
    tree_assert_has(tree, "snapshots/base/forks/web-1/result", "\"committed\"");
    tree_assert_names(tree, "snapshots/base/forks/web-1/mailboxes", "box ");
    tree_assert_names(tree, "snapshots/base/mailboxes", "fox box ");
    tree_assert_names(tree, "instances/one/mailboxes", "fox box ");
    if (!operation->makes)
        assert_int_equal(operate(tree, operation), 0);
}

static void operation_when_memory_is_missing_says_so(void **state)
{
    static const struct operation operations[] = {
        {"snapshots/base/forks/web-1/mailboxes", "box", false},
        {"snapshots/base/forks/new", "commit", false},
        {"snapshots/base/mailboxes", "fox", false},
        {"instances/one/mailboxes", "box", false},
        {"instances/one/forks/new", "options", false},
        {"snapshots/base/forks", "mine", true},
    };
    struct tree *tree = *state;
    for (size_t i = 0; i < array_length(operations); i++) {
        unsigned at = 1;
        int r;
        for (; try(tree, &operations[i], at, &r); at++) {
            if (r != 0 && r != -ENOMEM)
                fail_msg("%s/%s, call %u: %s", operations[i].parent, operations[i].name, at,
                         strerrorname_np(-r));
            if (r < 0 || !operations[i].makes)
                assert_complete(tree, &operations[i]);
        }
        assert_int_equal(r, 0);
        assert_true(at > 5); /* else the calls were not those of the build file */
    }
}

/* ---- reading ---- */

enum { TEXT_SIZE = 1 << 16 };

/* What stat and read say of a file of that text. True if something has failed. */
static bool try_read(struct tree *tree, const char *path, const char *text, unsigned at, int *ret)
{
    uint64_t node = tree_walk(tree, path);
    struct caller caller;
    struct handle *handle = NULL;
    struct stat st;
    char *bytes = NULL;
    size_t size = 0;
    caller_init(&caller);
    faults_begin(at);
    faults_armed = true;
    int r = tree_getattr(tree, node, &st);
    if (r == 0)
        r = fs_open_file(tree->fs, node, O_RDONLY, gettid(), NULL, &handle);
    if (r == 0)
        r = fs_read(tree->fs, handle, TEXT_SIZE, 0, &caller.waiter, &bytes, &size);
    faults_armed = false;
    r = caller_wait(&caller, r);
    if (r == 0 && ((size_t)st.st_size != strlen(text) || size != strlen(text) ||
                   (size > 0 && memcmp(bytes, text, size) != 0)))
        fail_msg("%s, call %u: %jd bytes, \"%.*s\", not \"%s\"", path, at, (intmax_t)st.st_size,
                 (int)size, bytes, text);
    free(bytes);
    if (handle)
        fs_release(tree->fs, handle);
    *ret = r;
    return faults.failed;
}

/* Neither empty, nor cut. */
static void file_when_memory_is_missing_is_whole_or_says_so(void **state)
{
    static const char *const paths[] = {
        "README",
        "error",
        "instances/one/info",
        "instances/one/config",
        "instances/one/state",
        "instances/one/error",
        "instances/one/forks/new/status",
        "instances/one/forks/new/error",
        "instances/one/forks/new/options",
        "snapshots/base/info",
        "snapshots/base/accept",
        "snapshots/base/warm",
        "snapshots/base/mailboxes/box",
        "snapshots/base/forks/web-1/status",
        "snapshots/base/forks/web-1/options",
        "snapshots/base/forks/web-1/result",
        "snapshots/base/forks/web-1/error",
        "snapshots/base/forks/web-1/mailboxes/box",
    };
    struct tree *tree = *state;
    assert_int_equal(tree_rmdir(tree, "snapshots/none"), -ENOENT); /* which `error` tells */
    for (size_t i = 0; i < array_length(paths); i++) {
        auto_free char *text = tree_read(tree, paths[i]);
        unsigned at = 1;
        int r;
        for (; try_read(tree, paths[i], text, at, &r); at++)
            if (r != 0 && r != -ENOMEM)
                fail_msg("%s, call %u: %s", paths[i], at, strerrorname_np(-r));
        assert_int_equal(r, 0);
        assert_true(at > 2);
    }
}

static int setup(void **state)
{
    int r = tree_setup_empty(state);
    if (r == 0)
        tree_furnish(*state);
    return r;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(file_when_memory_is_missing_is_whole_or_says_so, setup,
                                        tree_teardown),
        cmocka_unit_test_setup_teardown(operation_when_memory_is_missing_says_so, setup,
                                        tree_teardown),
    };
    faults.memory = true;
    cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = malloc, .free_fn = free});
    return cmocka_run_group_tests(tests, NULL, NULL);
}
