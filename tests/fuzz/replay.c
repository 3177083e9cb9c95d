/* SPDX-License-Identifier: MIT */
/* Feeds each file of a directory to a fuzzer's function, which must take it, or refuse it if its
 * name says so: replay DIRECTORY. */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"
#include "util/cleanup.h"

static const char refused[] = "should-fail-";

static int feed(const char *directory, const char *name)
{
    char path[4096];
    struct stat st;

    snprintf(path, sizeof path, "%s/%s", directory, name);
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        perror(path);
        return -1;
    }
    size_t size = (size_t)st.st_size;
    auto_free uint8_t *data = malloc(size ? size : 1); /* of its very size, for the sanitizers */
    if (!data || read(fd, data, size) != (ssize_t)size) {
        perror(path);
        return -1;
    }
    fprintf(stderr, "%s\n", path);
    bool taken = fuzz(data, size), wanted = strncmp(name, refused, sizeof refused - 1) != 0;
    if (taken == wanted)
        return 0;
    fprintf(stderr, "it was %s\n", taken ? "taken" : "refused");
    return -1;
}

int main(int argc, char **argv)
{
    struct dirent **names = NULL;
    int fed = 0, status = 0;

    int count = argc == 2 ? scandir(argv[1], &names, NULL, alphasort) : -1;
    for (int i = 0; i < count; i++) {
        if (names[i]->d_name[0] != '.') {
            status |= feed(argv[1], names[i]->d_name);
            fed++;
        }
        free(names[i]);
    }
    free(names);
    if (fed == 0)
        fprintf(stderr, "usage: %s DIRECTORY, with files in it\n", argv[0]);
    return fed > 0 && status == 0 ? 0 : 1;
}
