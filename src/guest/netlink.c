/* SPDX-License-Identifier: MIT */
#include "guest/netlink.h"

#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    FLAG_LOWER_UP = 1 << 16, /* IFF_LOWER_UP, which libc's header does not have */
    ADDRESSES_MAX = 4096,    /* a bound for a loop that ends when nothing is left */
    POINT_TO_POINT =
        31, /* a prefix of that length has no broadcast address, nor has a longer one */
};

int netlink_open(uint32_t groups)
{
    const struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = groups};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0)
        return -errno;
    if (bind(fd, (const struct sockaddr *)&address, sizeof address) < 0) {
        int r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

static void append(struct netlink_message *message, const void *data, size_t size)
{
    size_t at = NLMSG_ALIGN(message->header.nlmsg_len);
    if (size > sizeof message->bytes - at) {
        message->truncated = true;
        return;
    }
    if (size > 0)
        memcpy(message->bytes + at, data, size);
    message->header.nlmsg_len = (uint32_t)(at + size);
}

void netlink_begin(struct netlink_message *ret, uint16_t type, uint16_t flags, const void *body,
                   size_t size)
{
    memset(ret, 0, sizeof *ret);
    ret->header = (struct nlmsghdr){.nlmsg_len = NLMSG_HDRLEN,
                                    .nlmsg_type = type,
                                    .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags)};
    append(ret, body, size);
}

void netlink_add(struct netlink_message *message, uint16_t type, const void *data, size_t size)
{
    const struct rtattr attribute = {.rta_len = (uint16_t)RTA_LENGTH(size), .rta_type = type};
    append(message, &attribute, sizeof attribute);
    append(message, data, size);
}

/* The message at `at`; NULL at the end. (Compilers warn of the macros for this.) */
static const struct nlmsghdr *part_at(const uint8_t *bytes, size_t size, size_t at)
{
    const struct nlmsghdr *part = (const void *)(bytes + at);
    if (at + sizeof *part > size || part->nlmsg_len < sizeof *part || part->nlmsg_len > size - at)
        return NULL;
    return part;
}

static int error_of(const struct nlmsghdr *part)
{
    const struct nlmsgerr *error = NLMSG_DATA(part);
    return part->nlmsg_len < NLMSG_LENGTH(sizeof error->error) || error->error > 0 ? -EIO
                                                                                   : error->error;
}

bool netlink_visit(const uint8_t *bytes, size_t size,
                   void (*visit)(const struct nlmsghdr *, void *), void *context, int *ret)
{
    const struct nlmsghdr *part;
    for (size_t at = 0; (part = part_at(bytes, size, at)); at += NLMSG_ALIGN(part->nlmsg_len)) {
        if (part->nlmsg_type == NLMSG_DONE || part->nlmsg_type == NLMSG_ERROR) {
            *ret = part->nlmsg_type == NLMSG_DONE ? 0 : error_of(part);
            return true;
        }
        if (visit)
            visit(part, context);
    }
    return false;
}

static int transact(int fd, const struct netlink_message *message,
                    void (*visit)(const struct nlmsghdr *, void *), void *context)
{
    const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};

    if (message->truncated)
        return -EMSGSIZE;
    if (sendto(fd, message->bytes, message->header.nlmsg_len, 0, (const struct sockaddr *)&kernel,
               sizeof kernel) < 0)
        return -errno;
    for (;;) {
        union {
            struct nlmsghdr header;
            uint8_t bytes[NETLINK_ANSWER_MAX];
        } answer;
        ssize_t n = recv(fd, answer.bytes, sizeof answer.bytes, 0);
        int r;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (netlink_visit(answer.bytes, (size_t)n, visit, context, &r))
            return r;
    }
}

int netlink_request(int fd, struct netlink_message *message)
{
    message->header.nlmsg_flags |= NLM_F_ACK;
    return transact(fd, message, NULL, NULL);
}

int netlink_may_change(int fd, int interface)
{
    const struct ifinfomsg nothing = {.ifi_index = interface};
    struct netlink_message message;

    netlink_begin(&message, RTM_NEWLINK, 0, &nothing, sizeof nothing);
    return netlink_request(fd, &message);
}

int netlink_set_link(int fd, int interface, bool up)
{
    const struct ifinfomsg link = {
        .ifi_index = interface, .ifi_flags = up ? IFF_UP : 0, .ifi_change = IFF_UP};
    struct netlink_message message;

    netlink_begin(&message, RTM_NEWLINK, 0, &link, sizeof link);
    return netlink_request(fd, &message);
}

int netlink_set_mac(int fd, int interface, const uint8_t *mac, size_t size)
{
    const struct ifinfomsg link = {.ifi_index = interface};
    struct netlink_message message;

    netlink_begin(&message, RTM_NEWLINK, 0, &link, sizeof link);
    netlink_add(&message, IFLA_ADDRESS, mac, size);
    return netlink_request(fd, &message);
}

void netlink_look_at_link(const struct nlmsghdr *part, void *context)
{
    const struct ifinfomsg *link = NLMSG_DATA(part);
    if (part->nlmsg_type == RTM_NEWLINK && part->nlmsg_len >= NLMSG_LENGTH(sizeof *link))
        *(unsigned *)context = link->ifi_flags;
}

int netlink_has_carrier(int fd, int interface, bool *ret)
{
    const struct ifinfomsg link = {.ifi_index = interface};
    struct netlink_message message;
    unsigned flags = 0;

    netlink_begin(&message, RTM_GETLINK, NLM_F_ACK, &link, sizeof link);
    int r = transact(fd, &message, netlink_look_at_link, &flags);
    if (r == 0)
        *ret = (flags & IFF_UP) && (flags & FLAG_LOWER_UP);
    return r;
}

void netlink_look_at_address(const struct nlmsghdr *part, void *context)
{
    struct netlink_found *search = context;
    const struct ifaddrmsg *header = NLMSG_DATA(part);

    if (search->found || part->nlmsg_type != RTM_NEWADDR ||
        part->nlmsg_len < NLMSG_LENGTH(sizeof *header) || header->ifa_index != search->interface ||
        header->ifa_family != AF_INET)
        return;
    const uint8_t *bytes = (const uint8_t *)part;
    struct rtattr attribute;
    for (size_t at = NLMSG_SPACE(sizeof *header); at + sizeof attribute <= part->nlmsg_len;
         at += RTA_ALIGN(attribute.rta_len)) {
        memcpy(&attribute, bytes + at, sizeof attribute);
        if (attribute.rta_len < sizeof attribute || attribute.rta_len > part->nlmsg_len - at)
            return;
        if (attribute.rta_type != IFA_LOCAL ||
            attribute.rta_len != RTA_LENGTH(sizeof search->address))
            continue;
        memcpy(&search->address, bytes + at + RTA_LENGTH(0), sizeof search->address);
        search->header = *header;
        search->found = true;
    }
}

static int find_address(int fd, struct netlink_found *search)
{
    const struct ifaddrmsg any = {.ifa_family = AF_INET};
    struct netlink_message message;

    netlink_begin(&message, RTM_GETADDR, NLM_F_DUMP, &any, sizeof any);
    return transact(fd, &message, netlink_look_at_address, search);
}

int netlink_remove_addresses(int fd, int interface)
{
    /* The first of those that are left: with a primary address its secondary ones may go. */
    for (int i = 0; i < ADDRESSES_MAX; i++) {
        struct netlink_found search = {.interface = (unsigned)interface};
        struct netlink_message message;

        int r = find_address(fd, &search);
        if (r < 0 || !search.found)
            return r;
        netlink_begin(&message, RTM_DELADDR, 0, &search.header, sizeof search.header);
        netlink_add(&message, IFA_LOCAL, &search.address, sizeof search.address);
        r = netlink_request(fd, &message);
        if (r < 0 && r != -EADDRNOTAVAIL)
            return r;
    }
    return -E2BIG;
}

int netlink_add_address(int fd, int interface, struct in_addr address, unsigned prefix)
{
    const struct ifaddrmsg header = {.ifa_family = AF_INET,
                                     .ifa_prefixlen = (uint8_t)prefix,
                                     .ifa_scope = RT_SCOPE_UNIVERSE,
                                     .ifa_index = (uint32_t)interface};
    struct netlink_message message;

    netlink_begin(&message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &header, sizeof header);
    netlink_add(&message, IFA_LOCAL, &address, sizeof address);
    netlink_add(&message, IFA_ADDRESS, &address, sizeof address);
    if (prefix < POINT_TO_POINT) {
        const struct in_addr broadcast = {.s_addr = address.s_addr | htonl(UINT32_MAX >> prefix)};
        netlink_add(&message, IFA_BROADCAST, &broadcast, sizeof broadcast);
    }
    return netlink_request(fd, &message);
}

int netlink_replace_default_route(int fd, int interface, struct in_addr gateway, bool onlink)
{
    const struct rtmsg header = {.rtm_family = AF_INET,
                                 .rtm_table = RT_TABLE_MAIN,
                                 .rtm_protocol = RTPROT_BOOT,
                                 .rtm_scope = RT_SCOPE_UNIVERSE,
                                 .rtm_type = RTN_UNICAST,
                                 .rtm_flags = onlink ? RTNH_F_ONLINK : 0};
    struct netlink_message message;

    netlink_begin(&message, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &header, sizeof header);
    netlink_add(&message, RTA_GATEWAY, &gateway, sizeof gateway);
    netlink_add(&message, RTA_OIF, &interface, sizeof interface);
    return netlink_request(fd, &message);
}

int netlink_wait(int fd, int timeout_ms)
{
    struct pollfd event = {.fd = fd, .events = POLLIN};
    uint8_t bytes[NETLINK_ANSWER_MAX];

    int n = poll(&event, 1, timeout_ms);
    if (n == 0)
        return -ETIMEDOUT;
    if (n < 0 && errno != EINTR)
        return -errno;
    /* ENOBUFS: there were more than the socket could hold, which says that there were some. */
    while (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) >= 0 || errno == ENOBUFS)
        ;
    return 0;
}
