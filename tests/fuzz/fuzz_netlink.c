/* SPDX-License-Identifier: MIT */
/* What the kernel answers on a netlink socket, in one datagram. Taken: it ends what was asked. */
#include <string.h>

#include "fuzz.h"
#include "guest/netlink.h"

static void count(const struct nlmsghdr *part, void *context)
{
    MUST(part->nlmsg_len >= sizeof *part);
    ++*(size_t *)context;
}

bool fuzz(const uint8_t *data, size_t size)
{
    union {
        struct nlmsghdr header;
        uint8_t bytes[NETLINK_ANSWER_MAX];
    } answer;
    struct netlink_found found = {.interface = 2};
    unsigned flags = 0;
    size_t parts = 0;
    int result = 1;
    if (size > sizeof answer.bytes)
        return false;
    memcpy(answer.bytes, data, size);
    bool ended = netlink_visit(answer.bytes, size, count, &parts, &result);
    MUST(ended ? result <= 0 : parts <= size / sizeof answer.header);
    netlink_visit(answer.bytes, size, netlink_look_at_link, &flags, &result);
    netlink_visit(answer.bytes, size, netlink_look_at_address, &found, &result);
    MUST(!found.found || found.header.ifa_index == 2);
    return ended;
}
