/* SPDX-License-Identifier: MIT */
/* The list of an image goes over to what is saved of a VM that was loaded from it: only what the VM
 * has written is scanned. With tests/fake_firecracker, which is no Firecracker. */
#include "hypervisor/guest_memory.h"
#include "instance/internal.h"
#include "world.h"

enum { PAGES = 256, MEMORY = PAGES * FRAME_SIZE, BOX = 1, NOISE = 3, TWIN = 40 };
#define MACHINE                                                                                    \
    "\"machine\":{\"memory_bytes\":1048576,\"vcpus\":1,\"machine\":\"microvm\",\"accel\":\"kvm\"," \
    "\"network\":{\"mode\":\"none\",\"restrict\":false},\"disks\":[],\"type\":null,\"cpu\":null,"  \
    "\"host_cpu\":null,\"version\":\"1.7.0\"}"

/* Scans of whole images; see the build file. */
static atomic_uint scans;

int __real_scan_image(int fd, scan_progress *progress, void *context, struct scan *ret,
                      struct error *err);
int __wrap_scan_image(int fd, scan_progress *progress, void *context, struct scan *ret,
                      struct error *err);
int __wrap_scan_image(int fd, scan_progress *progress, void *context, struct scan *ret,
                      struct error *err)
{
    scans++;
    return __real_scan_image(fd, progress, context, ret, err);
}

static void write_frame(int fd, size_t page, const char *name)
{
    uint8_t frame[FRAME_SIZE] = {0};
    frames_arm(frame, name, "token");
    assert_int_equal(pwrite(fd, frame, sizeof frame, (off_t)(page * FRAME_SIZE)), sizeof frame);
}

/* An instance in standby, with two frames and a magic in its memory, and its list. */
static struct instance *leave_standby(struct world *world)
{
    static const char device[] = "\0\0\x64\x86\x84\x19\x10\x07{\"version\":\"1.7.0\"}";
    struct image_index *index;
    world_leave_instance(world, "fire", "");
    world_write_text(world_path(world, "store/instances/fire/instance.json"),
                     "{\"version\":1,\"id\":\"fire\",\"hypervisor\":\"firecracker\","
                     "\"state\":\"standby\"," MACHINE ",\"vmm\":null}");
    auto_close int run = open(world_path(world, "store/instances/fire/run"), O_RDONLY | O_CLOEXEC);
    auto_close int memory = openat(run, "memory", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    auto_close int state = openat(run, "state", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(state, device, sizeof device - 1), sizeof device - 1);
    assert_int_equal(ftruncate(memory, MEMORY), 0);
    write_frame(memory, BOX, "box");
    write_frame(memory, TWIN, "twin");
    assert_int_equal(pwrite(memory, "HYPEMAN_FORK_MAILBOX_V1", 24, NOISE * FRAME_SIZE), 24);
    world_open_whole(world);
    world->binary = (struct vmm_binary){"firecracker", getenv("FAKE_FIRECRACKER")};
    struct instance *instance = world_found(world, "fire");
    assert_int_equal(image_index_wait(instance->image, NULL, &index, &world->err), 0);
    image_index_unref(index);
    return instance;
}

static void change(struct world *world, struct instance *instance, enum instance_state state)
{
    if (instance_change(instance, state, 0, &world->err) < 0)
        fail_msg("%s: %s", instance_state_names[state], world->err.text);
}

/* As its guest would: a frame where `name` says so, or a magic, or zeros. */
static void write_as_guest(struct instance *instance, size_t page, const char *name)
{
    uint8_t bytes[FRAME_SIZE] = {0};
    struct guest_memory *memory;
    struct error err = {0};
    int process;
    auto_close int base = openat(instance->entry_fd, "base", O_RDONLY | O_CLOEXEC);
    if (name && *name)
        frames_arm(bytes, name, "token");
    else if (name)
        memcpy(bytes, "HYPEMAN_FORK_MAILBOX_V1", 24);
    assert_int_equal(guest_memory_open_process(instance->vmm->pid, &process, &err), 0);
    assert_int_equal(guest_memory_create(instance->vmm->pid, process, base, &memory, &err), 0);
    if (guest_memory_write(memory, page * FRAME_SIZE, bytes, sizeof bytes, &err) < 0)
        fail_msg("%s", err.text);
    guest_memory_destroy(memory);
    close(process);
}

/* The kept list is what a scan of the whole image finds, so many frames and magics. */
static void assert_list(const char *directory, size_t frames, uint64_t noise)
{
    struct image_index *index;
    struct scan whole;
    struct error err = {0};
    auto_close int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    auto_close int memory = openat(fd, "memory", O_RDONLY | O_CLOEXEC);
    if (image_index_read(fd, &index, &err) < 0)
        fail_msg("%s: %s", directory, err.text);
    assert_int_equal(__real_scan_image(memory, NULL, NULL, &whole, &err), 0);
    assert_int_equal(index->scan.count, frames);
    assert_int_equal(index->scan.noise, noise);
    assert_int_equal(whole.count, frames);
    assert_int_equal(whole.noise, noise);
    assert_int_equal(whole.data_bytes, index->scan.data_bytes);
    for (size_t i = 0; i < frames; i++) {
        assert_int_equal(whole.candidates[i].offset, index->scan.candidates[i].offset);
        assert_true(
            frame_marker_equal(&whole.candidates[i].marker, &index->scan.candidates[i].marker));
    }
    scan_finish(&whole);
    image_index_unref(index);
}

static void snapshots_of_a_vm_that_was_loaded_scan_only_what_it_wrote(void **state)
{
    struct world *world = *state;
    struct instance *instance = leave_standby(world);
    scans = 0;
    change(world, instance, INSTANCE_RUNNING);
    assert_int_equal(instance_snapshot(instance, "same", &world->err), 0);
    write_as_guest(instance, TWIN, NULL);
    write_as_guest(instance, NOISE, NULL);
    write_as_guest(instance, 7, "new");
    write_as_guest(instance, 120, "last");
    assert_int_equal(instance_snapshot(instance, "first", &world->err), 0);
    write_as_guest(instance, 7, "");
    assert_int_equal(instance_snapshot(instance, "second", &world->err), 0);
    assert_int_equal(scans, 0);
    assert_list(world_path(world, "store/snapshots/same"), 2, 1);
    assert_list(world_path(world, "store/snapshots/first"), 3, 0);
    assert_list(world_path(world, "store/snapshots/second"), 2, 1);
    change(world, instance, INSTANCE_STOPPED);
    assert_null(instance->base_index);
    instance_unref(instance);
}

static void standby_of_a_vm_that_was_loaded_scans_only_what_it_wrote(void **state)
{
    struct world *world = *state;
    struct instance *instance = leave_standby(world);
    scans = 0;
    for (size_t i = 0; i < 3; i++) {
        change(world, instance, INSTANCE_RUNNING);
        write_as_guest(instance, 100 + i, "new");
        change(world, instance, INSTANCE_STANDBY);
        assert_list(world_path(world, "store/instances/fire/run"), 3 + i, 1);
    }
    assert_int_equal(scans, 0);
    instance_unref(instance);
}

/* What was loaded is not the image any more that the list is of. */
static void standby_when_the_base_is_another_file_scans_all(void **state)
{
    struct world *world = *state;
    struct instance *instance = leave_standby(world);
    change(world, instance, INSTANCE_RUNNING);
    write_as_guest(instance, 9, "new");
    instance->base_index->memory[0] ^= 1;
    scans = 0;
    change(world, instance, INSTANCE_STANDBY);
    assert_int_equal(scans, 1);
    assert_list(world_path(world, "store/instances/fire/run"), 3, 1);
    instance_unref(instance);
}

/* The next daemon does not know the list: it scans everything. */
static void standby_after_a_restart_scans_all(void **state)
{
    struct world *world = *state;
    struct instance *instance = leave_standby(world);
    change(world, instance, INSTANCE_RUNNING);
    write_as_guest(instance, 9, "new");
    instance_unref(instance);
    world_restart(world);
    world->binary = (struct vmm_binary){"firecracker", getenv("FAKE_FIRECRACKER")};
    instance = world_found(world, "fire");
    scans = 0;
    change(world, instance, INSTANCE_STANDBY);
    assert_int_equal(scans, 1);
    assert_list(world_path(world, "store/instances/fire/run"), 3, 1);
    instance_unref(instance);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY(snapshots_of_a_vm_that_was_loaded_scan_only_what_it_wrote),
        IN_EMPTY(standby_of_a_vm_that_was_loaded_scans_only_what_it_wrote),
        IN_EMPTY(standby_when_the_base_is_another_file_scans_all),
        IN_EMPTY(standby_after_a_restart_scans_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
