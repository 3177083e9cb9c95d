/* SPDX-License-Identifier: MIT */
/* This process maps the images itself, as a VMM would. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hypervisor/guest_memory.h"
#include "test.h"
#include "util/cleanup.h"

enum { PAGE = 4096, PAGES = 16, SIZE = PAGES * PAGE };

struct fixture {
    int image, mem;
    char *mapped[2]; /* whole areas, unmapped in the end */
};

/* An image whose bytes tell their page, unnamed from the start. */
static int make_image(void)
{
    char path[] = "/tmp/hypefs-image-XXXXXX", page[PAGE];
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return -1;
    unlink(path);
    for (int i = 0; i < PAGES; i++) {
        memset(page, 'a' + i, sizeof page);
        if (write(fd, page, sizeof page) != PAGE)
            return -1;
    }
    return fd;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    if (!fixture)
        return -1;
    fixture->image = make_image();
    fixture->mem = -1;
    *state = fixture;
    return fixture->image < 0 ? -1 : guest_memory_open_process(getpid(), &fixture->mem, NULL);
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    for (size_t i = 0; i < array_length(fixture->mapped); i++)
        if (fixture->mapped[i])
            munmap(fixture->mapped[i], SIZE);
    close(fixture->image);
    close(fixture->mem);
    free(fixture);
    return 0;
}

static char *map(struct fixture *fixture, size_t which, int protection, int flags)
{
    char *address = mmap(NULL, SIZE, protection, flags, fixture->image, 0);
    assert_ptr_not_equal(address, MAP_FAILED);
    fixture->mapped[which] = address;
    return address;
}

static struct guest_memory *open_memory(const struct fixture *fixture)
{
    struct guest_memory *memory = NULL;
    struct error err = {0};
    if (guest_memory_create(getpid(), fixture->mem, fixture->image, &memory, &err) < 0)
        fail_msg("%s", err.text);
    return memory;
}

/* Both ways at an offset give `wanted`. */
static void try_both(const struct fixture *fixture, uint64_t offset, size_t size, int wanted)
{
    struct guest_memory *memory = open_memory(fixture);
    struct error err = {0};
    char bytes[2 * PAGE] = "";

    assert_true(size <= sizeof bytes);
    assert_int_equal(guest_memory_read(memory, offset, bytes, size, &err), wanted);
    assert_int_equal(err.code, -wanted);
    err.code = 0;
    assert_int_equal(guest_memory_write(memory, offset, bytes, size, &err), wanted);
    assert_int_equal(err.code, -wanted);
    guest_memory_destroy(memory);
}

static void write_when_mapped_privately_changes_the_mapping_and_not_the_image(void **state)
{
    struct fixture *fixture = *state;
    const char *mapped = map(fixture, 0, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    struct guest_memory *memory = open_memory(fixture);
    char bytes[8] = "", kept[4] = "";

    assert_int_equal(guest_memory_read(memory, 3 * PAGE - 2, bytes, 4, NULL), 0);
    assert_memory_equal(bytes, "ccdd", 4);
    assert_int_equal(guest_memory_write(memory, 3 * PAGE - 2, "wxyz", 4, NULL), 0);
    assert_memory_equal(mapped + 3 * PAGE - 3, "cwxyzd", 6);
    assert_int_equal(guest_memory_read(memory, 3 * PAGE - 2, bytes, 4, NULL), 0);
    assert_memory_equal(bytes, "wxyz", 4);
    assert_int_equal(pread(fixture->image, kept, sizeof kept, 3 * PAGE - 2), sizeof kept);
    assert_memory_equal(kept, "ccdd", 4);
    guest_memory_destroy(memory);
}

static void write_of_many_pages_is_written_and_read_back_whole(void **state)
{
    struct fixture *fixture = *state;
    const char *mapped = map(fixture, 0, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    struct guest_memory *memory = open_memory(fixture);
    char bytes[3 * PAGE + 5];

    memset(bytes, '!', sizeof bytes);
    assert_int_equal(guest_memory_write(memory, 7, bytes, sizeof bytes, NULL), 0);
    assert_memory_equal(mapped + 7, bytes, sizeof bytes);
    assert_int_equal(mapped[6], 'a');
    assert_int_equal(mapped[7 + sizeof bytes], 'd');
    guest_memory_destroy(memory);
}

static void access_when_regions_lie_apart_follows_their_file_offsets(void **state)
{
    struct fixture *fixture = *state;
    struct error err = {0};
    char byte = 0;

    /* The image's halves the other way round, with a hole of other memory after each. */
    for (size_t i = 0; i < 2; i++) {
        fixture->mapped[i] = mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_ptr_not_equal(fixture->mapped[i], MAP_FAILED);
        assert_ptr_not_equal(mmap(fixture->mapped[i], SIZE / 2, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_FIXED, fixture->image, i == 0 ? SIZE / 2 : 0),
                             MAP_FAILED);
    }
    struct guest_memory *memory = open_memory(fixture);
    assert_int_equal(guest_memory_read(memory, 0, &byte, 1, &err), 0);
    assert_int_equal(byte, 'a');
    assert_int_equal(guest_memory_write(memory, SIZE / 2, "#", 1, &err), 0);
    assert_int_equal(fixture->mapped[0][0], '#');
    guest_memory_destroy(memory);
    try_both(fixture, SIZE / 2 - 4, 8, -EIO);
}

static void access_when_mapped_twice_is_eio(void **state)
{
    map(*state, 0, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    map(*state, 1, PROT_READ, MAP_PRIVATE);
    try_both(*state, 0, 1, -EIO);
}

static void access_when_mapped_shared_is_eio(void **state)
{
    map(*state, 0, PROT_READ | PROT_WRITE, MAP_SHARED);
    try_both(*state, 0, 1, -EIO);
}

static void access_when_mapped_read_only_is_eio(void **state)
{
    map(*state, 0, PROT_READ, MAP_PRIVATE);
    try_both(*state, 0, 1, -EIO);
}

static void access_when_only_another_part_is_unusable_works(void **state)
{
    char *mapped = map(*state, 0, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    assert_int_equal(mprotect(mapped + 4 * PAGE, 4 * PAGE, PROT_NONE), 0);
    try_both(*state, 3 * PAGE, PAGE, 0);
    try_both(*state, 3 * PAGE, PAGE + 1, -EIO);
    try_both(*state, 5 * PAGE, 1, -EIO);
    try_both(*state, 8 * PAGE, PAGE, 0);
}

static void access_at_the_end_of_the_image_stays_inside(void **state)
{
    map(*state, 0, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    try_both(*state, SIZE - PAGE, PAGE, 0);
    try_both(*state, SIZE - 1, 2, -EIO);
    try_both(*state, SIZE, 1, -EIO);
    try_both(*state, UINT64_MAX, 1, -EIO);
    try_both(*state, UINT64_MAX - PAGE, PAGE, -EIO);
}

static void create_when_the_process_does_not_map_the_image_is_eio(void **state)
{
    struct fixture *fixture = *state;
    struct guest_memory *memory = NULL;
    struct error err = {0};
    auto_close int other = make_image();

    map(fixture, 0, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    assert_true(other >= 0);
    assert_int_equal(guest_memory_create(getpid(), fixture->mem, other, &memory, &err), -EIO);
    assert_non_null(strstr(err.text, "does not map"));
    assert_null(memory);
}

static void access_when_the_process_has_ended_is_eio(void **state)
{
    struct fixture *fixture = *state;
    struct guest_memory *memory = NULL;
    struct error err = {0};
    char byte;

    map(fixture, 0, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        pause();
        _exit(0);
    }
    auto_close int mem = -1;
    int opened = guest_memory_open_process(pid, &mem, &err);
    int created = opened == 0 ? guest_memory_create(pid, mem, fixture->image, &memory, &err) : -1;
    int before = created == 0 ? guest_memory_read(memory, 0, &byte, 1, &err) : -1;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(before, 0);
    assert_int_equal(guest_memory_read(memory, 0, &byte, 1, &err), -EIO);
    assert_int_equal(guest_memory_write(memory, 0, "x", 1, &err), -EIO);
    guest_memory_destroy(memory);
    assert_int_equal(guest_memory_open_process(pid, &mem, &err), -EIO);
}

/* Not reaped yet: its number is still in /proc. */
static void create_when_the_process_is_ending_is_esrch(void **state)
{
    struct fixture *fixture = *state;
    struct guest_memory *memory = NULL;
    struct error err = {0};
    siginfo_t info;

    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(0);
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    int created = guest_memory_create(pid, -1, fixture->image, &memory, &err);
    waitpid(pid, NULL, 0);
    assert_int_equal(created, -ESRCH);
    assert_non_null(strstr(err.text, "has ended"));
    assert_null(memory);
}

/* As an ordinary user, and of a process that is not dumpable, as one with file capabilities is. */
static int look_at_undumpable(int image, struct error *err)
{
    struct guest_memory *memory = NULL;
    char byte;
    int ready[2], mem = -1;
    if (pipe2(ready, O_CLOEXEC) < 0 || (getuid() == 0 && setuid(65534) < 0))
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_DUMPABLE, 0);
        if (write(ready[1], "r", 1) == 1)
            pause();
        _exit(0);
    }
    bool there = pid > 0 && read(ready[0], &byte, 1) == 1;
    int opened = there ? guest_memory_open_process(pid, &mem, &err[0]) : 0;
    int created = there ? guest_memory_create(pid, -1, image, &memory, &err[1]) : 0;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return opened == -EIO && created == -EIO ? 0 : -1;
}

static void process_when_it_may_not_be_looked_at_is_eio_with_cause_and_remedy(void **state)
{
    struct fixture *fixture = *state;
    struct error err[2] = {0};
    int ends[2], status;

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int r = look_at_undumpable(fixture->image, err);
        _exit(r == 0 && write(ends[1], err, sizeof err) == sizeof err ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(read(ends[0], err, sizeof err), sizeof err);
    close(ends[0]);
    close(ends[1]);
    for (size_t i = 0; i < array_length(err); i++) {
        assert_non_null(strstr(err[i].text, "file capabilities"));
        assert_non_null(strstr(err[i].text, "setcap -r"));
        assert_non_null(strstr(err[i].text, "ptrace_scope"));
        assert_non_null(strstr(err[i].text, "VMMs of an earlier one"));
    }
}

/* EIO is what the caller gets, and the text has the true reason. */
static void failure_of_the_system_is_told_by_its_own_words(void **state)
{
    struct fixture *fixture = *state;
    struct guest_memory *memory = NULL;
    struct error err = {0};
    char byte;
    auto_close int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    assert_int_equal(guest_memory_create(getpid(), fixture->mem, directory, &memory, &err), -EIO);
    assert_string_equal(err.text, "the memory image cannot be mapped: No such device");
    map(fixture, 0, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    assert_int_equal(guest_memory_create(getpid(), directory, fixture->image, &memory, &err), 0);
    assert_int_equal(guest_memory_read(memory, 0, &byte, 1, &err), -EIO);
    assert_non_null(strstr(err.text, "cannot be read (has it ended?): Is a directory"));
    assert_int_equal(guest_memory_write(memory, 0, "x", 1, &err), -EIO);
    assert_non_null(strstr(err.text, "cannot be written (has it ended?): Bad file descriptor"));
    guest_memory_destroy(memory);
    assert_int_equal(guest_memory_open_process(INT_MAX, &(int){0}, &err), -EIO);
    assert_string_equal(err.text,
                        "/proc/2147483647/mem cannot be opened: No such file or directory");
}

/* ---- what was written ---- */

/* A copy of the image with what was written to the mapping, and the holes in it. */
static void copy_written(const struct fixture *fixture, int to)
{
    struct guest_memory *memory = open_memory(fixture);
    struct error err = {0};
    char page[PAGE];
    for (off_t at = 0; at < SIZE; at += PAGE) {
        assert_int_equal(pread(fixture->image, page, PAGE, at), PAGE);
        assert_int_equal(pwrite(to, page, PAGE, at), PAGE);
    }
    if (guest_memory_copy_written(memory, getpid(), to, -1, NULL, &err) < 0)
        fail_msg("%s", err.text);
    guest_memory_destroy(memory);
}

static void assert_page(int fd, int page, const char *wanted)
{
    char bytes[PAGE];
    assert_int_equal(pread(fd, bytes, PAGE, (off_t)page * PAGE), PAGE);
    assert_memory_equal(bytes, wanted, PAGE);
}

static void copy_when_pages_were_written_has_these_alone(void **state)
{
    struct fixture *fixture = *state;
    struct stat st;
    struct page_set set;
    char untouched[PAGE];
    volatile char sum = 0;
    char *mapped = map(fixture, 0, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    auto_close int to = memfd_create("copy", MFD_CLOEXEC);
    for (int i = 0; i < PAGES; i++)
        sum = (char)(sum + mapped[i * PAGE]); /* reading makes no page its own */
    strcpy(mapped + 2 * PAGE + 100, "written");
    mapped[3 * PAGE] = mapped[3 * PAGE]; /* the same byte */
    *(volatile char *)(mapped + 4 * PAGE) = 'x';
    memset(mapped + 6 * PAGE, 0, 2 * PAGE);
    mapped[SIZE - 1] = '!';
    copy_written(fixture, to);
    for (int i = 0; i < PAGES; i++)
        assert_page(to, i, mapped + i * PAGE);
    assert_int_equal(fstat(to, &st), 0);
    assert_int_equal(st.st_size, SIZE);
    assert_int_equal(st.st_blocks * 512, (PAGES - 2) * PAGE); /* what became zeros is a hole */

    /* Pages that were not written are not copied: what the file has there stays. */
    memset(untouched, 'u', sizeof untouched);
    assert_int_equal(pwrite(to, untouched, PAGE, 0), PAGE);
    assert_int_equal(pwrite(to, untouched, PAGE, 4 * PAGE), PAGE);
    struct guest_memory *memory = open_memory(fixture);
    assert_int_equal(page_set_create(SIZE, &set, NULL), 0);
    assert_int_equal(guest_memory_copy_written(memory, getpid(), to, -1, &set, NULL), 0);
    assert_true(set.complete);
    for (int i = 0; i < PAGES; i++)
        assert_int_equal(page_set_has(&set, (uint64_t)i * PAGE),
                         (i >= 2 && i <= 4) || i == 6 || i == 7 || i == PAGES - 1);
    page_set_finish(&set);
    guest_memory_destroy(memory);
    assert_page(to, 0, untouched);
    assert_page(to, 4, mapped + 4 * PAGE);
}

/* In the order of the file, wherever they are mapped; what is not the guest's is passed over. */
static void copy_when_regions_lie_apart_follows_their_file_offsets(void **state)
{
    struct fixture *fixture = *state;
    char wanted[PAGE];
    for (size_t i = 0; i < 2; i++) {
        fixture->mapped[i] = mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_ptr_not_equal(fixture->mapped[i], MAP_FAILED);
        assert_ptr_not_equal(mmap(fixture->mapped[i], SIZE / 2, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_FIXED, fixture->image, i == 0 ? SIZE / 2 : 0),
                             MAP_FAILED);
        memset(fixture->mapped[i], '1' + (int)i, PAGE);
    }
    assert_int_equal(mprotect(fixture->mapped[1] + PAGE, PAGE, PROT_NONE), 0); /* not plugged in */
    auto_close int to = memfd_create("copy", MFD_CLOEXEC);
    copy_written(fixture, to);
    memset(wanted, '2', PAGE);
    assert_page(to, 0, wanted);
    memset(wanted, 'b', PAGE);
    assert_page(to, 1, wanted);
    memset(wanted, '1', PAGE);
    assert_page(to, PAGES / 2, wanted);
    memset(wanted, 'a' + PAGES / 2 + 1, PAGE);
    assert_page(to, PAGES / 2 + 1, wanted);
}

static void copy_when_told_to_stop_is_cancelled(void **state)
{
    struct fixture *fixture = *state;
    struct error err = {0};
    int ends[2];
    map(fixture, 0, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    struct guest_memory *memory = open_memory(fixture);
    struct page_set set;
    auto_close int to = memfd_create("copy", MFD_CLOEXEC);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    close(ends[1]);
    assert_int_equal(page_set_create(SIZE, &set, NULL), 0);
    assert_int_equal(guest_memory_copy_written(memory, getpid(), to, ends[0], &set, &err),
                     -ECANCELED);
    assert_false(set.complete);
    page_set_finish(&set);
    close(ends[0]);
    guest_memory_destroy(memory);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(write_when_mapped_privately_changes_the_mapping_and_not_the_image),
        WITH(write_of_many_pages_is_written_and_read_back_whole),
        WITH(access_when_regions_lie_apart_follows_their_file_offsets),
        WITH(access_when_mapped_twice_is_eio),
        WITH(access_when_mapped_shared_is_eio),
        WITH(access_when_mapped_read_only_is_eio),
        WITH(access_when_only_another_part_is_unusable_works),
        WITH(access_at_the_end_of_the_image_stays_inside),
        WITH(create_when_the_process_does_not_map_the_image_is_eio),
        WITH(create_when_the_process_is_ending_is_esrch),
        WITH(process_when_it_may_not_be_looked_at_is_eio_with_cause_and_remedy),
        WITH(failure_of_the_system_is_told_by_its_own_words),
        WITH(access_when_the_process_has_ended_is_eio),
        WITH(copy_when_pages_were_written_has_these_alone),
        WITH(copy_when_regions_lie_apart_follows_their_file_offsets),
        WITH(copy_when_told_to_stop_is_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
