/* SPDX-License-Identifier: MIT */
#include "hypervisor/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { HEADER_SIZE = 10 };

static const struct {
    int code;
    const char *words;
} refusals[] = {
    {EBUSY, ": another process has it open: stop that, or give another tap"},
    {EPERM, ": it belongs to another user: make it for the one that hypefs runs as (ip tuntap add "
            "NAME mode tap user USER)"},
};

static int open_device(void)
{
    return open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

static int attach(int fd, const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    return ioctl(fd, TUNSETIFF, &request);
}

int tap_open(const char *name, int *ret, struct error *err)
{
    int size = HEADER_SIZE;
    auto_close int fd = open_device();
    if (fd < 0)
        return error_io(err, errno, "the tap %s: /dev/net/tun cannot be opened", name);
    /* An earlier process may have left it another size. */
    if (attach(fd, name) == 0 && ioctl(fd, TUNSETVNETHDRSZ, &size) == 0) {
        *ret = steal_fd(&fd);
        return 0;
    }
    int code = errno, r = error_io(err, code, "the tap %s cannot be opened", name);
    for (size_t i = 0; i < array_length(refusals); i++)
        if (refusals[i].code == code)
            error_append(err, "%s", refusals[i].words);
    return r;
}

void tap_take_back(const char *name)
{
    auto_close int fd = open_device();
    /* One that is not there would be made. */
    if (fd >= 0 && if_nametoindex(name) != 0 && attach(fd, name) == 0)
        (void)ioctl(fd, TUNSETOWNER, (unsigned long)geteuid());
}
