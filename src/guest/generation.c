/* SPDX-License-Identifier: MIT */
#include "guest/generation.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GENERATION_SIZE = sizeof((struct hypefs_identity *)NULL)->generation };

int generation_open(struct generation *ret)
{
    int fd = memfd_create("hypefs-guest", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, GENERATION_SIZE) < 0)
        return -errno;
    void *memory = mmap(NULL, GENERATION_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    *ret = (struct generation){.fd = fd, .last = memory};
    return 0;
}

/* A process's lock, which goes with it. */
static void lock(const struct generation *generation, short type)
{
    struct flock all = {.l_type = type};
    while (fcntl(generation->fd, F_SETLKW, &all) < 0 && errno == EINTR)
        ;
}

int generation_become(const struct generation *generation, const struct hypefs_mailbox *box)
{
    struct hypefs_identity identity;
    int r = hypefs_identity_read(box, &identity);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    lock(generation, F_WRLCK);
    if (strcmp(identity.generation, generation->last) != 0) {
        r = hypefs_identity_apply(&identity);
        if (r == 0)
            memcpy(generation->last, identity.generation, GENERATION_SIZE);
    }
    lock(generation, F_UNLCK);
    explicit_bzero(&identity, sizeof identity);
    return r;
}
