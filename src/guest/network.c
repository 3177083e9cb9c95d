/* SPDX-License-Identifier: MIT */
#include "guest/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "guest/internal.h"
#include "guest/manager.h"
#include "guest/netlink.h"
#include "mailbox/address.h"

/* The first two together leave some of the 5 s that the host waits for the network. The third is
 * for an ack that the kernel cannot send, which is tried again. */
enum { MANAGERS_PATIENCE_MS = 3000, LINK_PATIENCE_MS = 1500, ACK_PATIENCE_MS = 2000 };

enum { MAC_TEXT_MAX = 3 * ADDRESS_MAC_SIZE - 1 };

static const uint32_t events = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE;

/* ---- the payload ---- */

/* Not there and "" say both that there is none. */
static bool parse_gateway(const char *payload, size_t size, struct network_identity *identity)
{
    struct guest_span value;
    char *text = identity->gateway_text;

    if (!guest_member_find(payload, size, "gateway", &value))
        return true;
    if (!guest_member_word(payload, size, "gateway", text, sizeof identity->gateway_text - 1))
        return false;
    if (!text[0])
        return true;
    return address_parse_host(text, &identity->gateway) &&
           identity->gateway.s_addr != identity->address.s_addr;
}

bool network_parse(const char *payload, size_t size, struct network_identity *ret, char *ret_reason)
{
    char mac[MAC_TEXT_MAX + 1], address[INET_ADDRSTRLEN];
    struct network_identity identity = {0};
    struct guest_span value;
    int64_t prefix = 0;
    const char *wrong = NULL;

    if (!guest_member_word(payload, size, "interface_name", identity.interface, IFNAMSIZ - 1) ||
        !address_is_interface(identity.interface))
        wrong = "interface_name is not 1 to 15 of A-Z a-z 0-9 _ . -";
    else if (!guest_member_word(payload, size, "mac", mac, MAC_TEXT_MAX) ||
             !address_parse_mac(mac, identity.mac))
        wrong = "mac is not a unicast MAC address";
    else if (!guest_member_word(payload, size, "ipv4", address, sizeof address - 1) ||
             !address_parse_host(address, &identity.address))
        wrong = "ipv4 is not a host's IPv4 address";
    else if (!guest_member_find(payload, size, "prefix", &value) ||
             !guest_number(value, ADDRESS_PREFIX_MAX, &prefix))
        wrong = "prefix is not a whole number from 0 to 32";
    else if (!address_is_host_in(identity.address, (unsigned)prefix))
        wrong = "ipv4 is not a host's address in a network of that prefix";
    else if (!parse_gateway(payload, size, &identity))
        wrong = "gateway is not another host's IPv4 address";
    identity.prefix = (unsigned)prefix;
    if (wrong)
        snprintf(ret_reason, NETWORK_REASON_MAX + 1, "%s", wrong);
    else
        *ret = identity;
    return !wrong;
}

/* ---- the interface ---- */

/* An interface while it changes. */
struct change {
    int fd, interface;
    const struct network_identity *identity;
    bool no_ipv6; /* switched off for a moment, and with it all of its addresses */
};

static int may_change(struct change *change)
{
    return netlink_may_change(change->fd, change->interface);
}

static int release(struct change *change)
{
    return manager_release("", change->identity->interface, change->interface,
                           MANAGERS_PATIENCE_MS);
}

static int remove_addresses(struct change *change)
{
    return netlink_remove_addresses(change->fd, change->interface);
}

/* The interface's switch for IPv6. -errno; ENOENT: there is no IPv6. */
static int switch_ipv6(const struct change *change, bool off)
{
    char path[sizeof "/proc/sys/net/ipv6/conf//disable_ipv6" + IFNAMSIZ], was = '1';
    snprintf(path, sizeof path, "/proc/sys/net/ipv6/conf/%s/disable_ipv6",
             change->identity->interface);
    int fd = open(path, O_RDWR | O_CLOEXEC), r = 0;
    if (fd < 0)
        return -errno;
    if (off && pread(fd, &was, 1, 0) == 1 && was != '0')
        r = -EALREADY;
    else if (pwrite(fd, off ? "1" : "0", 1, 0) != 1)
        r = -errno;
    close(fd);
    return r;
}

/* By the switch, so that the link stays up; or by the link, where that cannot be had. */
static int remove_ipv6_addresses(struct change *change)
{
    int r = switch_ipv6(change, true);
    change->no_ipv6 = r == 0;
    return r == 0 || r == -ENOENT || r == -EALREADY
               ? 0
               : netlink_set_link(change->fd, change->interface, false);
}

/* Most interfaces take it while they are up. Set down, one looks unplugged to network managers. */
static int set_mac(struct change *change)
{
    const uint8_t *mac = change->identity->mac;
    int r = netlink_set_mac(change->fd, change->interface, mac, ADDRESS_MAC_SIZE);
    if (r != -EBUSY)
        return r;
    r = netlink_set_link(change->fd, change->interface, false);
    return r < 0 ? r : netlink_set_mac(change->fd, change->interface, mac, ADDRESS_MAC_SIZE);
}

static int add_address(struct change *change)
{
    return netlink_add_address(change->fd, change->interface, change->identity->address,
                               change->identity->prefix);
}

static int set_up(struct change *change)
{
    int r = netlink_set_link(change->fd, change->interface, true);
    return r < 0 || !change->no_ipv6 ? r : switch_ipv6(change, false);
}

/* Is there a route to the gateway, but for its own? */
static bool is_near(const struct network_identity *identity)
{
    unsigned prefix = identity->prefix;
    if (prefix == 0 || prefix == ADDRESS_PREFIX_MAX)
        return false;
    uint32_t difference = ntohl(identity->gateway.s_addr ^ identity->address.s_addr);
    return difference >> (ADDRESS_PREFIX_MAX - prefix) == 0;
}

/* Those that led through this interface are gone with its addresses. */
static int set_default_route(struct change *change)
{
    const struct network_identity *identity = change->identity;
    if (!identity->gateway_text[0])
        return 0;
    return netlink_replace_default_route(change->fd, change->interface, identity->gateway,
                                         !is_near(identity));
}

static const struct {
    const char *what;
    int (*run)(struct change *change);
    const char *after_failure; /* what is left */
} steps[] = {
    {"change it", may_change, "nothing was changed"},
    {"take it from systemd-networkd or NetworkManager", release, "nothing was changed"},
    {"remove the old addresses", remove_addresses, "it may have some of them"},
    {"remove the old IPv6 addresses", remove_ipv6_addresses, "it has no IPv4 address"},
    {"set the MAC address", set_mac, "it has no address"},
    {"add the address", add_address, "it has no address"},
    {"set the link up", set_up, "the link may be down"},
    {"set the default route", set_default_route, "there is none through this interface"},
};

static int find_interface(int fd, const char *name, int *ret)
{
    struct ifreq request = {0};

    memcpy(request.ifr_name, name, strlen(name));
    if (ioctl(fd, SIOCGIFHWADDR, &request) < 0)
        return -errno;
    if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER)
        return -EOPNOTSUPP;
    if (ioctl(fd, SIOCGIFINDEX, &request) < 0)
        return -errno;
    *ret = request.ifr_ifindex;
    return 0;
}

/* False when the time is over. */
static bool wait_for_event(int events_fd, int64_t deadline)
{
    int64_t left = deadline - guest_now_ms();
    return left > 0 && netlink_wait(events_fd, (int)left) == 0;
}

/* What is sent before a link has its carrier is dropped, and the question for the gateway's address
 * is only repeated after a second. IFF_RUNNING would be too late: the kernel may set it a second
 * after the carrier. A link that does not come is the host's concern: it gets no ack. */
static void wait_for_link(int fd, int interface, int events_fd)
{
    int64_t deadline = guest_now_ms() + LINK_PATIENCE_MS;
    bool there = false;

    while (netlink_has_carrier(fd, interface, &there) == 0 && !there &&
           wait_for_event(events_fd, deadline))
        ;
}

/* `events_fd` listens from before the first change. */
static void run_steps(int fd, int events_fd, const struct network_identity *identity,
                      struct network_result *ret)
{
    const char *name = identity->interface;
    int interface = 0;

    int r = find_interface(fd, name, &interface);
    if (r < 0) {
        snprintf(ret->reason, sizeof ret->reason, "%s: %s", name,
                 r == -ENODEV       ? "there is no such interface"
                 : r == -EOPNOTSUPP ? "not an Ethernet interface"
                                    : strerror(-r));
        return;
    }
    struct change change = {.fd = fd, .interface = interface, .identity = identity};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        r = steps[i].run(&change);
        if (r < 0) {
            snprintf(ret->reason, sizeof ret->reason, "%s: cannot %s: %s (%s)", name, steps[i].what,
                     strerror(-r), steps[i].after_failure);
            return;
        }
        memcpy(ret->gateway, identity->gateway_text, sizeof ret->gateway);
    }
    wait_for_link(fd, interface, events_fd);
    ret->applied = true;
}

void network_apply(const char *payload, size_t size, struct network_result *ret)
{
    struct network_identity identity;

    *ret = (struct network_result){.applied = false};
    if (!network_parse(payload, size, &identity, ret->reason))
        return;
    int fd = netlink_open(0);
    int events_fd = fd < 0 ? -1 : netlink_open(events);
    if (fd >= 0 && events_fd >= 0)
        run_steps(fd, events_fd, &identity, ret);
    else
        snprintf(ret->reason, sizeof ret->reason, "cannot open a netlink socket: %s",
                 strerror(fd < 0 ? -fd : -events_fd));
    if (events_fd >= 0)
        close(events_fd);
    if (fd >= 0)
        close(fd);
}

/* ---- the ack ---- */

static bool is_unreachable(int r)
{
    return r == -ENETUNREACH || r == -ENETDOWN;
}

int network_ack(struct hypefs_mailbox *box, const char *address)
{
    int64_t deadline = guest_now_ms() + ACK_PATIENCE_MS;
    int r = hypefs_mailbox_ack(box, address);

    if (!is_unreachable(r))
        return r;
    int events_fd = netlink_open(events);
    if (events_fd < 0)
        return r;
    /* Once more first: what it waits for may have come before the socket listened. */
    do
        r = hypefs_mailbox_ack(box, address);
    while (is_unreachable(r) && wait_for_event(events_fd, deadline));
    close(events_fd);
    return r;
}
