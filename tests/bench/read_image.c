/* SPDX-License-Identifier: MIT */
/*
 * read_image: what a scan of an image cannot do without, for the benchmark to compare with.
 *
 *     read_image read FILE      reads all that is no hole, and does nothing with it
 *     read_image memmem FILE    the same, and looks for the word that mailboxes begin with
 *
 * Prints how many bytes were read, and how often the word was found.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 20 };

static const char word[] = "HYPEMAN_FORK_MAILBOX_V1";

__attribute__((noreturn)) static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* A word that lies across two chunks is not found: frames begin pages. */
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

int main(int argc, char **argv)
{
    uint64_t total = 0, hits = 0;
    struct stat st;
    int fd = argc == 3 ? open(argv[2], O_RDONLY | O_CLOEXEC) : -1;
    char *bytes = malloc(CHUNK);
    if (fd < 0 || fstat(fd, &st) < 0 || !bytes)
        die("usage: read_image read|memmem FILE");
    bool search = strcmp(argv[1], "memmem") == 0;
    for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0;) {
        off_t end = lseek(fd, at, SEEK_HOLE);
        while (at < end) {
            size_t size = end - at < CHUNK ? (size_t)(end - at) : CHUNK;
            ssize_t got = pread(fd, bytes, size, at);
            if (got <= 0)
                die(argv[2]);
            at += got;
            total += (uint64_t)got;
            hits += search ? count(bytes, (size_t)got) : 0;
        }
    }
    printf("%" PRIu64 " %" PRIu64 "\n", total, hits);
    free(bytes);
    close(fd);
    return 0;
}
