/* SPDX-License-Identifier: MIT */
#include "tree_fixture.h"

const char tree_record[] =
    "{\"version\":1,\"options\":\"{}\\n\",\"result\":{\"status\":\"committed\",\"source\":"
    "\"snapshots/base\",\"instance\":\"web-1\",\"error\":null,\"mailboxes\":[{\"name\":\"box\","
    "\"offset\":4096,\"acked\":null}]}}";

static void wake(void *poll)
{
    struct tree *tree = poll;
    atomic_fetch_add(&tree->woken, 1);
    gate_post(&tree->woke);
}

static void drop(void *poll)
{
    atomic_fetch_add(&((struct tree *)poll)->dropped, 1);
}

static void scanned(struct world *world)
{
    fs_image_scanned(((struct tree *)world->context)->fs);
}

static void changed(struct world *world, const char *id)
{
    fs_changed(((struct tree *)world->context)->fs, OBJECT_INSTANCE, id);
}

void tree_open_fs(struct tree *tree, bool require_token)
{
    assert_int_equal(event_ring_create(&tree->events, &tree->world->err), 0);
    const struct fs_setup setup = {.snapshots = &tree->world->snapshots,
                                   .instances = &tree->world->instances,
                                   .warm = &tree->warm,
                                   .ack_address = "127.0.0.1",
                                   .rules.require_token = require_token,
                                   .events = tree->events,
                                   .wake = wake,
                                   .release = drop};
    const struct warm_setup warm = {.instances = &tree->world->instances,
                                    .meminfo = "/proc/meminfo"};
    assert_int_equal(warm_open(&warm, &tree->warm, &tree->world->err), 0);
    assert_int_equal(fs_open(&setup, &tree->fs, &tree->world->err), 0);
    tree->world->on_scanned = scanned;
    tree->world->on_changed = changed;
    tree->world->on_happened = event_instance;
    tree->world->on_snapshot = event_snapshot;
    tree->world->events = tree->events;
    tree->world->context = tree;
}

int tree_setup_empty(void **state)
{
    struct tree *tree = calloc(1, sizeof *tree);
    if (!tree || world_setup_empty((void **)&tree->world) < 0)
        return -1;
    gate_init(&tree->woke);
    *state = tree;
    return 0;
}

void tree_start(struct tree *tree)
{
    world_open_store(tree->world);
    world_open_layers(tree->world);
    tree_open_fs(tree, false);
}

int tree_setup(void **state)
{
    int r = tree_setup_empty(state);
    if (r == 0)
        tree_start(*state);
    return r;
}

void tree_stop(struct tree *tree)
{
    if (!tree->fs)
        return;
    fs_stop(tree->fs);
    image_scans_wait(&tree->world->snapshots.scans); /* they tell the tree */
    tree->world->on_scanned = NULL;
    tree->world->on_changed = NULL;
    fs_close(tree->fs);
    tree->fs = NULL;
    warm_close(&tree->warm);
    tree->world->events = NULL;
    event_ring_destroy(steal_pointer(tree->events));
}

int tree_teardown(void **state)
{
    struct tree *tree = *state;
    void *world = tree->world;
    tree_stop(tree);
    int r = world_teardown(&world);
    gate_finish(&tree->woke);
    free(tree);
    return r;
}

void tree_restart(struct tree *tree)
{
    tree_stop(tree);
    world_restart(tree->world);
    tree_open_fs(tree, false);
}

static void done(struct waiter *waiter, int result)
{
    struct caller *caller = (struct caller *)waiter;
    caller->result = result;
    gate_post(&caller->answered);
}

static bool not_interrupted(const struct waiter *waiter)
{
    (void)waiter;
    return false;
}

void caller_init(struct caller *caller)
{
    *caller = (struct caller){
        .waiter = {
            .done = done, .key = caller, .tid = gettid(), .interrupted_already = not_interrupted}};
    gate_init(&caller->answered);
}

int caller_wait(struct caller *caller, int r)
{
    if (r == FS_LATER) {
        if (!gate_wait(&caller->answered, FIXTURE_FAR_MS))
            fail_msg("no answer came");
        r = caller->result;
    }
    gate_finish(&caller->answered);
    return r;
}

int tree_lookup(struct tree *tree, uint64_t parent, const char *name, uint64_t *ret_node,
                struct stat *ret)
{
    for (;;) {
        struct caller caller;
        caller_init(&caller);
        double seconds;
        int r = fs_lookup(tree->fs, parent, name, &caller.waiter, ret_node, ret, &seconds);
        bool later = r == FS_LATER;
        r = caller_wait(&caller, r);
        if (!later || r < 0)
            return r;
    }
}

int tree_getattr(struct tree *tree, uint64_t node, struct stat *ret)
{
    bool keep;
    return fs_getattr(tree->fs, node, NULL, NULL, ret, &keep);
}

int64_t tree_try_walk(struct tree *tree, const char *path, struct stat *ret)
{
    char copy[PATH_MAX], *rest = NULL;
    uint64_t node = 1;
    snprintf(copy, sizeof copy, "%s", path);
    assert_int_equal(tree_getattr(tree, node, ret), 0);
    for (char *name = strtok_r(copy, "/", &rest); name; name = strtok_r(NULL, "/", &rest)) {
        int r = tree_lookup(tree, node, name, &node, ret);
        if (r < 0)
            return r;
    }
    return (int64_t)node;
}

uint64_t tree_walk(struct tree *tree, const char *path)
{
    struct stat st;
    int64_t node = tree_try_walk(tree, path, &st);
    if (node < 0)
        fail_msg("%s: %s", path, strerrorname_np((int)-node));
    return (uint64_t)node;
}

struct stat tree_stat(struct tree *tree, const char *path)
{
    struct stat st;
    int64_t node = tree_try_walk(tree, path, &st);
    if (node < 0)
        fail_msg("%s: %s", path, strerrorname_np((int)-node));
    return st;
}

/* The directory of a path; its last name goes to *ret_name, which points into `path`. */
static uint64_t parent_of(struct tree *tree, const char *path, const char **ret_name)
{
    char parent[PATH_MAX];
    const char *slash = strrchr(path, '/');
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - path) : 0, path);
    *ret_name = slash ? slash + 1 : path;
    return tree_walk(tree, parent);
}

int tree_open_flags(struct tree *tree, const char *path, int flags, struct handle **ret)
{
    const char *name;
    struct stat st;
    uint64_t node, parent = parent_of(tree, path, &name);
    int r = tree_lookup(tree, parent, name, &node, &st);
    if (r == -ENOENT && flags & O_CREAT)
        return fs_create(tree->fs, parent, name, flags, gettid(), &node, &st, ret);
    if (r == 0 && (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
        return -EEXIST;
    return r < 0 ? r : fs_open_file(tree->fs, node, flags & ~O_CREAT, gettid(), NULL, ret);
}

struct handle *tree_open(struct tree *tree, const char *path, int flags)
{
    struct handle *handle = NULL;
    int r = tree_open_flags(tree, path, flags, &handle);
    if (r < 0)
        fail_msg("%s: %s", path, strerrorname_np(-r));
    return handle;
}

int tree_pwrite(struct tree *tree, struct handle *handle, const char *bytes, size_t size,
                off_t offset, bool append)
{
    struct caller caller;
    caller_init(&caller);
    int r = fs_write(tree->fs, handle, bytes, size, offset, append, &caller.waiter);
    return caller_wait(&caller, r);
}

int tree_write_at(struct tree *tree, struct handle *handle, const char *text, off_t offset)
{
    return tree_pwrite(tree, handle, text, strlen(text), offset, false);
}

int tree_put(struct tree *tree, const char *path, const char *text)
{
    struct handle *handle;
    int r = tree_open_flags(tree, path, O_WRONLY | O_CREAT | O_TRUNC, &handle);
    if (r < 0)
        return r;
    r = fs_flush(tree->fs, handle,
                 &(struct waiter){.tid = gettid()}); /* the shell closes its own copy first */
    if (r == 0)
        r = tree_write_at(tree, handle, text, 0);
    int flushed = fs_flush(tree->fs, handle, &(struct waiter){.tid = gettid()});
    fs_release(tree->fs, handle);
    return r < 0 ? r : flushed;
}

char *tree_read_open(struct tree *tree, struct handle *handle)
{
    enum { PIECE = 100 };
    char *text = NULL;
    size_t used = 0;
    for (;;) {
        auto_free char *bytes = NULL;
        size_t size = 0;
        struct caller caller;
        caller_init(&caller);
        int r = fs_read(tree->fs, handle, PIECE, (off_t)used, &caller.waiter, &bytes, &size);
        bool later = r == FS_LATER;
        r = caller_wait(&caller, r);
        if (later && r == 0)
            continue;
        if (r < 0)
            fail_msg("read: %s", strerrorname_np(-r));
        text = realloc(text, used + size + 1);
        assert_non_null(text);
        if (size > 0)
            memcpy(text + used, bytes, size);
        used += size;
        text[used] = 0;
        if (size == 0)
            return text;
    }
}

char *tree_read(struct tree *tree, const char *path)
{
    struct handle *handle = tree_open(tree, path, O_RDONLY);
    char *text = tree_read_open(tree, handle);
    fs_release(tree->fs, handle);
    return text;
}

void tree_assert_text(struct tree *tree, const char *path, const char *wanted)
{
    auto_free char *text = tree_read(tree, path);
    if (strcmp(text, wanted) != 0)
        fail_msg("%s is \"%s\", not \"%s\"", path, text, wanted);
}

void tree_assert_has(struct tree *tree, const char *path, const char *wanted)
{
    auto_free char *text = tree_read(tree, path);
    if (!strstr(text, wanted))
        fail_msg("%s is \"%s\", without \"%s\"", path, text, wanted);
}

int tree_mkdir(struct tree *tree, const char *path)
{
    const char *name;
    struct stat st;
    uint64_t node, parent = parent_of(tree, path, &name);
    return fs_mkdir(tree->fs, parent, name, gettid(), &node, &st);
}

int tree_rmdir(struct tree *tree, const char *path)
{
    const char *name;
    uint64_t parent = parent_of(tree, path, &name);
    return fs_change(tree->fs, "rmdir", parent, name, gettid());
}

int tree_unlink(struct tree *tree, const char *path)
{
    const char *name;
    uint64_t parent = parent_of(tree, path, &name);
    return fs_change(tree->fs, "unlink", parent, name, gettid());
}

int tree_rename(struct tree *tree, const char *path, const char *new_path, unsigned flags)
{
    const char *name, *new_name;
    uint64_t parent = parent_of(tree, path, &name);
    uint64_t new_parent = parent_of(tree, new_path, &new_name);
    return fs_rename(tree->fs, parent, name, new_parent, new_name, flags, gettid());
}

struct handle *tree_opendir(struct tree *tree, uint64_t node)
{
    struct handle *handle = NULL;
    for (;;) {
        struct caller caller;
        caller_init(&caller);
        int r = fs_opendir(tree->fs, node, &caller.waiter, &handle);
        bool later = r == FS_LATER;
        r = caller_wait(&caller, r);
        if (r < 0)
            fail_msg("opendir: %s", strerrorname_np(-r));
        if (!later)
            return handle;
    }
}

/* The names in a directory, without . and .., each with a space behind it; owned. */
static char *names_in(struct tree *tree, const char *path)
{
    struct handle *handle = tree_opendir(tree, tree_walk(tree, path));
    const char *name;
    struct stat listed;
    char *names = strdup("");
    for (size_t i = 0; (name = fs_readdir(handle, i, &listed)); i++) {
        char *longer = NULL;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        assert_true(asprintf(&longer, "%s%s ", names, name) > 0);
        free(names);
        names = longer;
    }
    fs_release(tree->fs, handle);
    return names;
}

void tree_assert_names(struct tree *tree, const char *path, const char *wanted)
{
    auto_free char *names = names_in(tree, path);
    if (strcmp(names, wanted) != 0)
        fail_msg("in %s are \"%s\", not \"%s\"", path, names, wanted);
}

int tree_flush(struct tree *tree, struct handle *handle)
{
    return fs_flush(tree->fs, handle, &(struct waiter){.tid = gettid()});
}

void tree_must_put(struct tree *tree, const char *path, const char *text)
{
    int r = tree_put(tree, path, text);
    if (r < 0)
        fail_msg("%s: %s: %s", path, text, strerrorname_np(-r));
}

int tree_setup_base(void **state)
{
    int r = tree_setup(state);
    if (r == 0)
        world_publish_box(((struct tree *)*state)->world, "base");
    return r;
}

int tree_setup_draft(void **state)
{
    int r = tree_setup_base(state);
    return r == 0 ? tree_mkdir(*state, "snapshots/base/forks/web-1") : r;
}

void tree_assert_not_committed(struct tree *tree, const char *why)
{
    assert_int_equal(tree_put(tree, OWN "commit", "web-1\n"), -EINVAL);
    tree_assert_has(tree, OWN "error", why);
    tree_assert_has(tree, OWN "result", "\"code\": \"EINVAL\"");
    tree_assert_text(tree, OWN "status", "failed\n");
    tree_assert_names(tree, "instances", "");
}

void tree_assert_committable(struct tree *tree, const char *draft)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%scommit", draft);
    assert_int_equal(tree_put(tree, path, "web-1\n"), -EIO);
    snprintf(path, sizeof path, "%sresult", draft);
    tree_assert_has(tree, path, "\"phase\": \"load\"");
}

void tree_leave_fork(struct tree *tree, const char *record)
{
    struct world *world = tree->world;
    auto_free char *json = NULL;
    struct snapshot *base = snapshots_find(&world->snapshots, "base");
    assert_true(asprintf(&json,
                         "\"state\":\"stopped\",%s,\"source\":{\"snapshot\":\"base\","
                         "\"uuid\":\"%s\"}",
                         world_machine, base->uuid) > 0);
    snapshot_unref(base);
    world_leave_instance(world, "web-1", json);
    world_write_text(world_path(world, "store/instances/web-1/fork.json"), record);
}

void tree_furnish(struct tree *tree)
{
    struct world *world = tree->world;
    struct world_image image = {.size = FIXTURE_MEMORY};
    auto_free char *json = NULL;
    frames_arm(world_page(&image, 1), "fox", "token");
    frames_arm(world_page(&image, 2), "box", "token");
    world_open_store(world);
    world_open_layers(world);
    world_publish(world, "base", &image);
    tree_leave_fork(tree, tree_record);
    world_write_text(world_path(world, "store/instances/web-1/console.log"), "hello\n");
    assert_true(asprintf(&json, "\"state\":\"standby\",%s", world_machine) > 0);
    world_leave_instance(world, "one", json);
    world_write(world_path(world, "store/instances/one/run/memory"), 0600, image.bytes, image.size);
    world_restart(world);
    assert_string_equal(world->complaints, "");
    tree_open_fs(tree, false);
    assert_int_equal(tree_mkdir(tree, "instances/two"), 0);
}
