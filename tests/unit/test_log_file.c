/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "test.h"
#include "util/cleanup.h"
#include "util/log_file.h"

enum { MAX = 256 * 1024, COPIED = 64 * 1024, LINES = 200000, LINE = 12 };

/* Where a log is: in $TMPDIR, and in memory, whose file system cannot collapse ranges. */
struct place {
    const char *directory;
    bool lossless;
};

static int make_file(const char *directory)
{
    char path[256];
    snprintf(path, sizeof path, "%s/log-XXXXXX", directory);
    int fd = mkostemp(path, O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(unlink(path), 0);
    return fd;
}

static const char *temporary(void)
{
    const char *directory = getenv("TMPDIR");
    return directory ? directory : "/tmp";
}

static char *read_all(int fd, size_t *ret_size)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    char *text = malloc((size_t)st.st_size + 1);
    assert_non_null(text);
    assert_int_equal(pread(fd, text, (size_t)st.st_size, 0), st.st_size);
    text[st.st_size] = 0;
    *ret_size = (size_t)st.st_size;
    return text;
}

/* To append to. */
static int open_again(int fd)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
}

static void write_line(int fd, unsigned number)
{
    char line[LINE + 1];
    snprintf(line, sizeof line, "%011u\n", number);
    assert_int_equal(write(fd, line, LINE), LINE);
}

struct writer {
    int fd;
    atomic_bool ended;
};

/* Numbered lines, as fast as it can, as a VMM does it. */
static void *write_lines(void *argument)
{
    struct writer *writer = argument;
    auto_close int fd = open_again(writer->fd);
    for (unsigned i = 0; i < LINES; i++)
        write_line(fd, i);
    atomic_store(&writer->ended, true);
    return NULL;
}

/* The lines behind the note go on one after another to the last; returns the number of gaps. */
static unsigned check_lines(const char *text, size_t size)
{
    unsigned gaps = 0;
    const char *line = strchr(text, '\n') + 1;
    unsigned long last = strtoul(line, NULL, 10);
    for (line += LINE; line < text + size; line += LINE) {
        unsigned long number = strtoul(line, NULL, 10);
        assert_true(number > last);
        gaps += number != last + 1;
        last = number;
    }
    return gaps;
}

static void shorten_while_it_is_written(const char *directory, unsigned max_gaps)
{
    auto_close int fd = make_file(directory);
    struct writer writer = {.fd = fd};
    struct error err = {0};
    off_t gone = 0;
    unsigned times = 0;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, write_lines, &writer), 0);
    while (!atomic_load(&writer.ended)) {
        assert_int_equal(log_file_shorten(fd, MAX, &gone, &err), 0);
        times += gone > 0;
    }
    pthread_join(thread, NULL);
    assert_int_equal(log_file_shorten(fd, MAX, &gone, &err), 0);
    assert_true(times > 0);
    size_t size;
    auto_free char *text = read_all(fd, &size);
    assert_true(size <= MAX);
    unsigned gaps = check_lines(text, size);
    assert_true(gaps <= (max_gaps ? times : 0));
    assert_int_equal(strncmp(text, "[hypefs: ", 9), 0);
    assert_non_null(strstr(text, " bytes of output before this line are gone: at most 262144 "));
}

/* In place of the C library's: a writer that is faster than whoever reads that file. */
static int outrun_fd = -1;

ssize_t pread(int fd, void *bytes, size_t size, off_t at)
{
    enum { MANY = COPIED / LINE };
    static unsigned number = MAX;
    auto_close int end = fd == outrun_fd ? open_again(fd) : -1;
    for (unsigned i = 0; end >= 0 && i < MANY; i++)
        write_line(end, number++);
    return (ssize_t)syscall(SYS_pread64, fd, bytes, size, at);
}

static void log_when_its_writer_is_faster_loses_whole_lines(void **state)
{
    (void)state;
    struct error err = {0};
    off_t gone = 0;
    size_t size;
    auto_close int fd = make_file("/dev/shm");
    auto_close int end = open_again(fd);
    for (unsigned i = 0; i < MAX; i++)
        write_line(end, i);
    outrun_fd = fd;
    assert_int_equal(log_file_shorten(fd, MAX, &gone, &err), 0);
    outrun_fd = -1;
    write_line(end, UINT_MAX);
    auto_free char *text = read_all(fd, &size);
    assert_in_range(size, MAX - LINE, MAX + LINE);
    assert_int_equal(check_lines(text, size), 1);
}

static void log_when_shortened_while_it_is_written_goes_on(void **state)
{
    (void)state;
    shorten_while_it_is_written(temporary(), 1);
    shorten_while_it_is_written("/dev/shm", 1);
}

static bool can_collapse(void)
{
    auto_close int fd = make_file(temporary());
    return ftruncate(fd, 1024 * 1024) == 0 &&
           fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 64 * 1024) == 0;
}

static void log_where_ranges_collapse_loses_nothing_that_is_written_meanwhile(void **state)
{
    (void)state;
    if (can_collapse())
        shorten_while_it_is_written(temporary(), 0);
    else
        print_message("the file system of TMPDIR cannot collapse ranges\n");
}

static void log_when_short_enough_is_left_alone(void **state)
{
    struct error err = {0};
    off_t gone = 1;
    (void)state;
    auto_close int fd = make_file(temporary());
    assert_int_equal(ftruncate(fd, MAX), 0);
    assert_int_equal(log_file_shorten(fd, MAX, &gone, &err), 0);
    assert_int_equal(gone, 0);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, MAX);
}

/* One long line, and what the note says of how much went. */
static void note_when_there_are_no_lines_is_one_and_counts(void **state)
{
    struct error err = {0};
    static char bytes[MAX + 5000];
    off_t gone;
    (void)state;
    auto_close int fd = make_file(temporary());
    memset(bytes, 'x', sizeof bytes);
    assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
    assert_int_equal(log_file_shorten(fd, MAX, &gone, &err), 0);
    size_t size;
    auto_free char *text = read_all(fd, &size);
    const char *end = strchr(text, '\n');
    assert_non_null(end);
    assert_int_equal(strtoll(text + strlen("[hypefs: "), NULL, 10), gone);
    assert_int_equal((size_t)gone + size - (size_t)(end + 1 - text), sizeof bytes);
    assert_int_equal(strspn(end + 1, "x"), size - (size_t)(end + 1 - text));
}

/* Of all that ever went, and not what hypefs said of that before. */
static void note_of_a_log_that_is_shortened_again_counts_all_that_went(void **state)
{
    struct error err = {0};
    static char bytes[MAX + 5000];
    size_t size, written = 0;
    off_t gone;
    (void)state;
    auto_close int fd = make_file(temporary());
    memset(bytes, 'x', sizeof bytes);
    for (int times = 0; times < 3; times++) {
        assert_int_equal(pwrite(fd, bytes, sizeof bytes, lseek(fd, 0, SEEK_END)), sizeof bytes);
        written += sizeof bytes;
        assert_int_equal(log_file_shorten(fd, MAX, &gone, &err), 0);
        assert_true(gone > 0);
        char *text = read_all(fd, &size);
        size_t left = size - (size_t)(strchr(text, '\n') + 1 - text);
        size_t told = strtoull(text + strlen("[hypefs: "), NULL, 10);
        free(text);
        assert_int_equal(told, written - left);
    }
}

/* A guest can write such a line, too. */
static void note_behind_a_forged_one_counts_what_went(void **state)
{
    static const char *const forged[] = {"9223372036854775807", "-5", "", "99999999999999999999"};
    struct error err = {0};
    static char bytes[2 * MAX];
    (void)state;
    for (size_t i = 0; i < sizeof forged / sizeof forged[0]; i++) {
        size_t size;
        off_t gone;
        auto_close int fd = make_file(temporary());
        memset(bytes, 'x', sizeof bytes);
        int used = snprintf(bytes, sizeof bytes,
                            "[hypefs: %s bytes of output before this line are gone: at most 1\n",
                            forged[i]);
        bytes[used] = 'x';
        assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
        assert_int_equal(log_file_shorten(fd, MAX, &gone, &err), 0);
        auto_free char *text = read_all(fd, &size);
        assert_int_equal(strtoll(text + strlen("[hypefs: "), NULL, 10), gone);
    }
}

static void log_that_cannot_be_written_is_an_error(void **state)
{
    struct error err = {0};
    off_t gone;
    (void)state;
    auto_close int fd = make_file(temporary());
    char path[64];
    assert_int_equal(ftruncate(fd, 2 * MAX), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    auto_close int reader = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(log_file_shorten(reader, MAX, &gone, &err), -EBADF);
    assert_string_equal(err.text, "it cannot be written: Bad file descriptor");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_when_shortened_while_it_is_written_goes_on),
        cmocka_unit_test(log_when_its_writer_is_faster_loses_whole_lines),
        cmocka_unit_test(log_where_ranges_collapse_loses_nothing_that_is_written_meanwhile),
        cmocka_unit_test(log_when_short_enough_is_left_alone),
        cmocka_unit_test(note_when_there_are_no_lines_is_one_and_counts),
        cmocka_unit_test(note_of_a_log_that_is_shortened_again_counts_all_that_went),
        cmocka_unit_test(note_behind_a_forged_one_counts_what_went),
        cmocka_unit_test(log_that_cannot_be_written_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
