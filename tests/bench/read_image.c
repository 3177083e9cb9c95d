/* SPDX-License-Identifier: MIT */
/*
 * read_image: what a scan of an image cannot do without, for the benchmark to compare with.
 *
 *     read_image read THREADS FILE      reads all that is no hole, and does nothing with it
 *     read_image memmem THREADS FILE    the same, and looks for the word that mailboxes begin with
 *
 * Prints how many bytes were read, and how often the word was found.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 1 << 18, THREADS_MAX = 64 };

static const char word[] = "HYPEMAN_FORK_MAILBOX_V1";

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    int fd;
    bool search;
    off_t next, end; /* the next piece, and the end of the data in which it lies */
    uint64_t total, hits;
} work; /* with the lock held, but for the first two */

__attribute__((noreturn)) static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* A word that lies across two pieces is not found: frames begin pages. */
static uint64_t count(const char *bytes, size_t size)
{
    uint64_t hits = 0;
    const char *end = bytes + size;
    while ((bytes = memmem(bytes, (size_t)(end - bytes), word, strlen(word)))) {
        hits++;
        bytes++;
    }
    return hits;
}

/* Its size; 0: there are no more. */
static size_t take_piece(off_t *ret_at)
{
    pthread_mutex_lock(&lock);
    if (work.next >= work.end) {
        work.next = lseek(work.fd, work.next, SEEK_DATA);
        work.end = work.next < 0 ? 0 : lseek(work.fd, work.next, SEEK_HOLE);
    }
    off_t left = work.next < 0 ? 0 : work.end - work.next;
    size_t size = left < PIECE ? (size_t)left : PIECE;
    *ret_at = work.next;
    if (size > 0)
        work.next += (off_t)size;
    else
        work.next = work.end = INT64_MAX; /* for the other threads, too */
    pthread_mutex_unlock(&lock);
    return size;
}

static void *run(void *argument)
{
    uint64_t total = 0, hits = 0;
    off_t at;
    char *bytes = malloc(PIECE);
    if (!bytes)
        die("malloc");
    for (size_t size; (size = take_piece(&at)) > 0; total += size) {
        if (pread(work.fd, bytes, size, at) != (ssize_t)size)
            die("pread");
        hits += work.search ? count(bytes, size) : 0;
    }
    free(bytes);
    pthread_mutex_lock(&lock);
    work.total += total;
    work.hits += hits;
    pthread_mutex_unlock(&lock);
    return argument;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS_MAX];
    int wanted = argc == 4 ? atoi(argv[2]) : 0;
    work.fd = wanted > 0 && wanted <= THREADS_MAX ? open(argv[3], O_RDONLY | O_CLOEXEC) : -1;
    if (work.fd < 0)
        die("usage: read_image read|memmem THREADS FILE");
    work.search = strcmp(argv[1], "memmem") == 0;
    for (int i = 1; i < wanted; i++)
        if (pthread_create(&threads[i], NULL, run, NULL) != 0)
            die("pthread_create");
    run(NULL);
    for (int i = 1; i < wanted; i++)
        pthread_join(threads[i], NULL);
    printf("%" PRIu64 " %" PRIu64 "\n", work.total, work.hits);
    close(work.fd);
    return 0;
}
