/* SPDX-License-Identifier: MIT */
#include "util/file_key.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { TIME_SIZE = 48 };

static const char format[] = "size=%ju inode=%ju mtime=%jd.%09ld";

struct key {
    uintmax_t size, inode;
    intmax_t seconds;
    long nanoseconds;
};

static struct key key_of(const struct stat *st)
{
    return (struct key){(uintmax_t)st->st_size, (uintmax_t)st->st_ino, (intmax_t)st->st_mtim.tv_sec,
                        st->st_mtim.tv_nsec};
}

static void print_key(const struct key *key, char ret[FILE_KEY_SIZE])
{
    snprintf(ret, FILE_KEY_SIZE, format, key->size, key->inode, key->seconds, key->nanoseconds);
}

void file_key(const struct stat *st, char ret[FILE_KEY_SIZE])
{
    struct key key = key_of(st);
    print_key(&key, ret);
}

/* Only what file_key() can have made. */
static bool parse_key(const char *text, struct key *ret)
{
    char again[FILE_KEY_SIZE];
    if (sscanf(text, "size=%20ju inode=%20ju mtime=%20jd.%9ld", &ret->size, &ret->inode,
               &ret->seconds, &ret->nanoseconds) != 4)
        return false;
    print_key(ret, again);
    return strcmp(again, text) == 0;
}

static void print_time(const struct key *key, char ret[TIME_SIZE])
{
    time_t seconds = (time_t)key->seconds;
    struct tm utc;
    size_t used =
        gmtime_r(&seconds, &utc) ? strftime(ret, TIME_SIZE, "%Y-%m-%dT%H:%M:%S", &utc) : 0;
    if (used > 0)
        snprintf(ret + used, TIME_SIZE - used, ".%09ldZ", key->nanoseconds);
    else
        snprintf(ret, TIME_SIZE, "%jd", key->seconds);
}

__attribute__((format(printf, 2, 3))) static void add(char ret[FILE_KEY_CHANGE_SIZE],
                                                      const char *words, ...)
{
    size_t used = strlen(ret);
    va_list args;
    va_start(args, words);
    used += (size_t)snprintf(ret + used, FILE_KEY_CHANGE_SIZE - used, "%s", used ? "; " : "");
    vsnprintf(ret + used, FILE_KEY_CHANGE_SIZE - used, words, args);
    va_end(args);
}

void file_key_tell(const char *key, const struct stat *st, char ret[FILE_KEY_CHANGE_SIZE])
{
    struct key was, is = key_of(st);
    char before[TIME_SIZE], now[TIME_SIZE];
    ret[0] = 0;
    if (!parse_key(key, &was)) {
        add(ret, "what it was is not known");
        return;
    }
    if (was.size != is.size)
        add(ret, "size was %ju, is %ju", was.size, is.size);
    if (was.inode != is.inode)
        add(ret, "inode was %ju, is %ju", was.inode, is.inode);
    if (was.seconds == is.seconds && was.nanoseconds == is.nanoseconds)
        return;
    print_time(&was, before);
    print_time(&is, now);
    add(ret, "mtime was %s, is %s", before, now);
}

struct file_id file_id_of(const struct stat *st)
{
    if (S_ISBLK(st->st_mode))
        return (struct file_id){.device = st->st_rdev, .inode = (ino_t)-1};
    return (struct file_id){.device = st->st_dev, .inode = st->st_ino};
}

bool file_id_equal(struct file_id a, struct file_id b)
{
    return a.device == b.device && a.inode == b.inode;
}
