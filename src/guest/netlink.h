/* SPDX-License-Identifier: MIT */
/* netlink: the few requests of rtnetlink(7) that a change of addresses takes. Part of the agent
 * program, not of the library. All return 0 or -errno, the kernel's own where it refused. */
#ifndef HYPEFS_GUEST_NETLINK_H
#define HYPEFS_GUEST_NETLINK_H

#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    NETLINK_MESSAGE_MAX = 512,
    NETLINK_ANSWER_MAX = 8192, /* the kernel's dumps come in pieces of that size at the most */
};

/* A request that is being put together. What does not fit makes netlink_request() say EMSGSIZE. */
struct netlink_message {
    union {
        struct nlmsghdr header;
        uint8_t bytes[NETLINK_MESSAGE_MAX];
    };
    bool truncated;
};

/* A socket for requests, or with `groups` (RTMGRP_…) one for netlink_wait(). Returns it. */
int netlink_open(uint32_t groups);

/* `body` is the type's own header: a struct ifinfomsg, ifaddrmsg or rtmsg. */
void netlink_begin(struct netlink_message *ret, uint16_t type, uint16_t flags, const void *body,
                   size_t size);
void netlink_add(struct netlink_message *message, uint16_t type, const void *data, size_t size);

/* Goes through one piece of an answer: `visit` (or NULL) gets each part of it. True if the answer
 * ends there, with its result: 0 or -errno. `bytes` is aligned as a struct nlmsghdr. */
bool netlink_visit(const uint8_t *bytes, size_t size,
                   void (*visit)(const struct nlmsghdr *part, void *context), void *context,
                   int *ret);

/* Visits: into an unsigned, a link's flags; into the next, the first address of an interface. */
void netlink_look_at_link(const struct nlmsghdr *part, void *context);
void netlink_look_at_address(const struct nlmsghdr *part, void *context);
struct netlink_found {
    unsigned interface;
    bool found;
    struct ifaddrmsg header;
    struct in_addr address;
};

/* Sends it and reads the answer. */
int netlink_request(int fd, struct netlink_message *message);

/* Is the caller allowed to? */
int netlink_may_change(int fd, int interface);

int netlink_set_link(int fd, int interface, bool up);
int netlink_set_mac(int fd, int interface, const uint8_t *mac, size_t size);

/* Is it up, and the link there? */
int netlink_has_carrier(int fd, int interface, bool *ret);

/* All IPv4 addresses that the interface has. */
int netlink_remove_addresses(int fd, int interface);
int netlink_add_address(int fd, int interface, struct in_addr address, unsigned prefix);

/* Replaces the default route with metric 0. `onlink`: the gateway is there, but no route to it. */
int netlink_replace_default_route(int fd, int interface, struct in_addr gateway, bool onlink);

/* Waits until something has changed in the groups of `fd`, and forgets what. -ETIMEDOUT. */
int netlink_wait(int fd, int timeout_ms);

#endif
