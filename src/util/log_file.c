/* SPDX-License-Identifier: MIT */
#include "util/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { NOTE_MAX = 4096, COPY_SIZE = 65536 };

static const char note_begin[] = "[hypefs: ",
                  note_middle[] = " bytes of output before this line are gone: at most ",
                  note_end[] = " are kept]";

static int print_note(char *note, size_t room, int64_t gone, int64_t max)
{
    return snprintf(note, room, "%s%" PRId64 "%s%" PRId64 "%s", note_begin, gone, note_middle, max,
                    note_end);
}

/* How much output went when the file was shortened before, less the line that says so, which goes
 * with this time's; 0 where no such line begins the file. Others can write one, too. */
static int64_t gone_before(int fd)
{
    char text[NOTE_MAX + 1], *end;
    const size_t begin = sizeof note_begin - 1;
    ssize_t size = pread(fd, text, NOTE_MAX, 0);
    text[size > 0 ? size : 0] = '\0';
    const char *line_end = strchr(text, '\n');
    if (!line_end || strncmp(text, note_begin, begin) != 0)
        return 0;
    errno = 0;
    int64_t gone = strtoll(text + begin, &end, 10);
    bool known = errno == 0 && gone > 0 && strncmp(end, note_middle, sizeof note_middle - 1) == 0;
    return known ? gone - (line_end + 1 - text) : 0;
}

/* Puts the line that says how much went over the bytes at `at`, up to the end of a line of the log
 * if one ends nearby. Returns how many bytes it replaces, or -errno. */
static ssize_t write_note(int fd, off_t at, off_t max)
{
    char old[NOTE_MAX], note[NOTE_MAX];
    ssize_t size = pread(fd, old, sizeof old, at);
    if (size < 0)
        return -errno;
    /* Its length is that of the longest number, so that it does not depend on what it says. */
    int length = print_note(NULL, 0, INT64_MAX, max);
    if (length + 1 >= size)
        return 0;
    const char *end = memchr(old + length, '\n', (size_t)(size - length));
    ssize_t replaced = (end ? end - old : length) + 1;
    int64_t gone = at + replaced;
    if (__builtin_add_overflow(gone, gone_before(fd), &gone))
        gone = at + replaced;
    memset(note, ' ', sizeof note);
    note[print_note(note, sizeof note, gone, max)] = ' ';
    note[replaced - 1] = '\n';
    return pwrite(fd, note, (size_t)replaced, at) < 0 ? -errno : replaced;
}

/* How much of so many bytes is copied at once. */
static size_t smaller(off_t left)
{
    return left < COPY_SIZE ? (size_t)left : COPY_SIZE;
}

/* The bytes from `from` on, also those that come meanwhile, go to the front, `max` at most: who
 * writes faster than this loses whole lines, if lines there are. */
static int move_to_front(int fd, off_t from, off_t max, struct error *err)
{
    char bytes[COPY_SIZE];
    off_t to = 0;
    ssize_t size = 0;
    while (to < max && (size = pread(fd, bytes, smaller(max - to), from + to)) > 0) {
        const char *end = to + size == max ? memrchr(bytes, '\n', (size_t)size) : NULL;
        if (end)
            max = to + (size = end + 1 - bytes);
        ssize_t put = pwrite(fd, bytes, (size_t)size, to);
        if (put != size)
            return error_errno(err, put < 0 ? errno : ENOSPC, "it cannot be written");
        to += size;
    }
    if (size < 0)
        return error_errno(err, errno, "it cannot be read");
    return ftruncate(fd, to) < 0 ? error_errno(err, errno, "it cannot be cut") : 0;
}

int log_file_shorten(int fd, off_t max, off_t *ret_gone, struct error *err)
{
    struct stat st;
    struct statfs system;
    if (fstat(fd, &st) < 0 || fstatfs(fd, &system) < 0)
        return error_errno(err, errno, "it cannot be checked");
    *ret_gone = 0;
    if (st.st_size <= max)
        return 0;
    off_t block = system.f_bsize > 0 ? system.f_bsize : 1;
    off_t from = st.st_size - max / 2;
    from -= from % block;
    ssize_t replaced = from > 0 ? write_note(fd, from, max) : 0;
    if (replaced < 0)
        return error_errno(err, (int)-replaced, "it cannot be written");
    if (from > 0 && fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, from) < 0) {
        int r = move_to_front(fd, from, max, err);
        if (r < 0)
            return r;
    }
    *ret_gone = from + replaced;
    return 0;
}
