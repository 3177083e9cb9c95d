/* SPDX-License-Identifier: MIT */
/* A page that the kernel itself uses for long is one that it does not move. Two things make it do
 * so, and neither needs a privilege: a buffer that is registered with io_uring, and a page that
 * lies in a pipe. The first may be forbidden, or not built in; the second holds on most kernels. */
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guest/internal.h"

/* Nothing is ever read or written by it. Returns its descriptor, which is CLOEXEC, or -1. */
static int pin_by_ring(const struct iovec *page)
{
    struct io_uring_params parameters = {0};
    int fd = (int)syscall(__NR_io_uring_setup, 1, &parameters);
    if (fd >= 0 && syscall(__NR_io_uring_register, fd, IORING_REGISTER_BUFFERS, page, 1) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Nobody ever reads from it. One end keeps what is in it. */
static int pin_by_pipe(const struct iovec *page)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return -1;
    bool pinned = vmsplice(ends[1], page, 1, SPLICE_F_NONBLOCK) == (ssize_t)page->iov_len;
    close(ends[1]);
    if (pinned)
        return ends[0];
    close(ends[0]);
    return -1;
}

void guest_pin(void *page, struct guest_pin *ret)
{
    const struct iovec whole = {.iov_base = page, .iov_len = FRAME_SIZE};
    volatile uint8_t *touched = page;
    touched[0] = touched[0]; /* until it is written to, it is the kernel's page of zeros */
    int fd = pin_by_ring(&whole);
    if (fd < 0)
        fd = pin_by_pipe(&whole);
    *ret = (struct guest_pin){.pinned = fd >= 0, .fd = fd};
}

void guest_unpin(struct guest_pin *pin)
{
    if (pin->pinned)
        close(pin->fd);
    pin->pinned = false;
}
