/* SPDX-License-Identifier: MIT */
/* What makes a clone another than its siblings: the kernel's random pool and its wall clock. */
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "guest/internal.h"
#include "util/hex.h"

enum { NS_PER_S = 1000000000 };

static bool read_members(struct guest_span fork, struct hypefs_identity *ret)
{
    char seed[2 * HYPEFS_IDENTITY_SEED_SIZE + 1];
    struct guest_span time;
    size_t seed_size;
    bool read =
        guest_member_word(fork.text, fork.size, "id", ret->id, sizeof ret->id - 1) && ret->id[0] &&
        guest_member_word(fork.text, fork.size, "generation", ret->generation,
                          sizeof ret->generation - 1) &&
        ret->generation[0] &&
        guest_member_word(fork.text, fork.size, "seed", seed, sizeof seed - 1) &&
        hex_decode(seed, ret->seed, sizeof ret->seed, &seed_size) &&
        seed_size == sizeof ret->seed && guest_member_find(fork.text, fork.size, "time", &time) &&
        guest_number(time, INT64_MAX, &ret->time_ns);
    explicit_bzero(seed, sizeof seed);
    return read;
}

int hypefs_identity_read(const struct hypefs_mailbox *box, struct hypefs_identity *ret)
{
    struct hypefs_identity identity = {0};
    struct guest_span fork;
    int r = 0;
    if (!box->in_hand)
        return -EINVAL;
    if (!guest_member_find(box->payload, box->payload_size, "fork", &fork))
        r = -ENOENT;
    else if (!read_members(fork, &identity))
        r = -EINVAL;
    else
        *ret = identity;
    explicit_bzero(&identity, sizeof identity);
    return r;
}

/* The pool alone is not enough: the generator goes on from its own state until it reseeds. */
static int reseed(const unsigned char *seed)
{
    struct {
        int entropy_count, buf_size; /* of struct rand_pool_info, in bits and bytes */
        unsigned char bytes[HYPEFS_IDENTITY_SEED_SIZE];
    } pool = {8 * HYPEFS_IDENTITY_SEED_SIZE, HYPEFS_IDENTITY_SEED_SIZE, {0}};
    int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC), r = 0;
    if (fd < 0)
        return -errno;
    memcpy(pool.bytes, seed, sizeof pool.bytes);
    if (ioctl(fd, RNDADDENTROPY, &pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
        r = -errno;
    explicit_bzero(&pool, sizeof pool);
    close(fd);
    return r;
}

int hypefs_identity_apply(const struct hypefs_identity *identity)
{
    const struct timespec time = {.tv_sec = (time_t)(identity->time_ns / NS_PER_S),
                                  .tv_nsec = (long)(identity->time_ns % NS_PER_S)};
    int r = reseed(identity->seed);
    if (r == 0 && clock_settime(CLOCK_REALTIME, &time) < 0)
        r = -errno;
    return r;
}
