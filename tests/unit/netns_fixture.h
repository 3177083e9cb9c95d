/* SPDX-License-Identifier: MIT */
/*
 * netns_fixture: two networks of the test's own: the host's, which the test is in, and the guest's,
 * with a veth pair between them.
 *
 *     host: "tap" 10.9.9.1/24, 10.0.0.1/24        guest: "eth0", at first as template_state says
 */
#ifndef HYPEFS_TESTS_UNIT_NETNS_FIXTURE_H
#define HYPEFS_TESTS_UNIT_NETNS_FIXTURE_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/if_link.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "guest/internal.h"
#include "guest/netlink.h"
#include "test.h"

enum { STATE_MAX = 512, MAC_SIZE = 6, CHANGE_DEADLINE_MS = 20000 };

static const char template_state[] =
    "up 02:00:00:00:00:01 10.9.9.2/24 192.168.5.5/16 10.9.9.3/24 via 10.9.9.1";

struct networks {
    int host_fd, guest_fd; /* network namespaces */
};
/* Root may have networks as it is, others as the root of users of their own. */
bool networks_allowed(void);
void network_set_link(int fd, const char *interface, bool up);
void network_set_default_route(int fd, const char *gateway);
void network_enter(int namespace_fd);
bool networks_make(struct networks *ret);
char *append(char *at, const char *format, ...) __attribute__((format(printf, 2, 3)));
void networks_expect(const struct networks *n, const char *expected);
/* A netlink socket of the guest's network. */
int networks_open_guest(const struct networks *n, uint32_t groups);
void networks_await(const struct networks *n, int events_fd, const char *expected);

#endif
