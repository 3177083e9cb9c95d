/* SPDX-License-Identifier: MIT */
#include "netns_fixture.h"

static void write_map(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t n = write(fd, text, strlen(text));
        (void)n; /* what was not written is seen by what does not work after it */
        close(fd);
    }
}

bool networks_allowed(void)
{
    char map[32];
    uid_t uid = getuid();
    gid_t gid = getgid();

    if (unshare(CLONE_NEWNET) == 0)
        return true;
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
        return false;
    write_map("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %u 1", (unsigned)uid);
    write_map("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "0 %u 1", (unsigned)gid);
    write_map("/proc/self/gid_map", map);
    return unshare(CLONE_NEWNET) == 0;
}

/* Ends an attribute that others are in, and begins at that place. */
static void close_nest(struct netlink_message *message, size_t at)
{
    struct rtattr *nest = (void *)(message->bytes + at);
    nest->rta_len = (uint16_t)(message->header.nlmsg_len - at);
}

static size_t next_place(const struct netlink_message *message)
{
    return NLMSG_ALIGN(message->header.nlmsg_len);
}

/* eth0 here, and its other end, "tap", there. False where the kernel has no veth. */
static bool network_make_pair(int fd, int there)
{
    static const uint8_t mac[MAC_SIZE] = {0x02, 0, 0, 0, 0, 0x01};
    const struct ifinfomsg any = {0};
    struct netlink_message message;

    netlink_begin(&message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &any, sizeof any);
    netlink_add(&message, IFLA_IFNAME, "eth0", sizeof "eth0");
    netlink_add(&message, IFLA_ADDRESS, mac, sizeof mac);
    size_t info = next_place(&message);
    netlink_add(&message, IFLA_LINKINFO, NULL, 0);
    netlink_add(&message, IFLA_INFO_KIND, "veth", sizeof "veth");
    size_t data = next_place(&message);
    netlink_add(&message, IFLA_INFO_DATA, NULL, 0);
    size_t peer = next_place(&message);
    netlink_add(&message, VETH_INFO_PEER, &any, sizeof any);
    netlink_add(&message, IFLA_IFNAME, "tap", sizeof "tap");
    netlink_add(&message, IFLA_NET_NS_FD, &there, sizeof there);
    close_nest(&message, peer);
    close_nest(&message, data);
    close_nest(&message, info);
    return netlink_request(fd, &message) == 0;
}

static void network_add(int fd, const char *interface, const char *address, unsigned prefix)
{
    struct in_addr parsed;
    assert_int_equal(inet_pton(AF_INET, address, &parsed), 1);
    assert_int_equal(netlink_add_address(fd, (int)if_nametoindex(interface), parsed, prefix), 0);
}

void network_set_link(int fd, const char *interface, bool up)
{
    assert_int_equal(netlink_set_link(fd, (int)if_nametoindex(interface), up), 0);
}

void network_set_default_route(int fd, const char *gateway)
{
    struct in_addr parsed;
    assert_int_equal(inet_pton(AF_INET, gateway, &parsed), 1);
    assert_int_equal(netlink_replace_default_route(fd, (int)if_nametoindex("eth0"), parsed, false),
                     0);
}

void network_enter(int namespace_fd)
{
    assert_int_equal(setns(namespace_fd, CLONE_NEWNET), 0);
}

static int network_own(void)
{
    int fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

bool networks_make(struct networks *ret)
{
    assert_int_equal(unshare(CLONE_NEWNET), 0);
    ret->host_fd = network_own();
    assert_int_equal(unshare(CLONE_NEWNET), 0);
    ret->guest_fd = network_own();
    int guest = netlink_open(0);
    assert_true(guest >= 0);
    bool made = network_make_pair(guest, ret->host_fd);
    if (made) {
        network_enter(ret->host_fd);
        int host = netlink_open(0);
        assert_true(host >= 0);
        network_add(host, "tap", "10.9.9.1", 24);
        network_add(host, "tap", "10.0.0.1", 24);
        network_set_link(host, "tap", true);
        close(host);
        network_enter(ret->guest_fd);
        network_add(guest, "eth0", "10.9.9.2", 24);
        network_add(guest, "eth0", "10.9.9.3", 24);
        network_add(guest, "eth0", "192.168.5.5", 16);
        network_set_link(guest, "lo", true);
        network_set_link(guest, "eth0", true);
        network_set_default_route(guest, "10.9.9.1");
    }
    close(guest);
    network_enter(ret->host_fd);
    return made;
}

char *append(char *at, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(at, 64, format, arguments);
    va_end(arguments);
    assert_in_range(n, 0, 63);
    return at + n;
}

static char *append_addresses(char *at)
{
    struct ifaddrs *all;
    assert_int_equal(getifaddrs(&all), 0);
    for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
        struct sockaddr_in address, mask;
        char text[INET_ADDRSTRLEN];
        if (strcmp(i->ifa_name, "eth0") != 0 || !i->ifa_addr || i->ifa_addr->sa_family != AF_INET)
            continue;
        memcpy(&address, i->ifa_addr, sizeof address);
        memcpy(&mask, i->ifa_netmask, sizeof mask);
        inet_ntop(AF_INET, &address.sin_addr, text, sizeof text);
        at = append(at, " %s/%d", text, __builtin_popcount(mask.sin_addr.s_addr));
    }
    freeifaddrs(all);
    return at;
}

/* Of the guest's eth0: "up|down MAC ADDRESS/PREFIX… [via GATEWAY]". */
static const char *networks_look(const struct networks *n, char ret[STATE_MAX])
{
    char gateway_text[INET_ADDRSTRLEN], *at = ret;
    struct ifreq request = {.ifr_name = "eth0"};
    struct in_addr gateway;

    network_enter(n->guest_fd);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(ioctl(fd, SIOCGIFFLAGS, &request), 0);
    at = append(at, request.ifr_flags & IFF_UP ? "up " : "down ");
    assert_int_equal(ioctl(fd, SIOCGIFHWADDR, &request), 0);
    for (int i = 0; i < MAC_SIZE; i++)
        at = append(at, "%s%02x", i > 0 ? ":" : "", (uint8_t)request.ifr_hwaddr.sa_data[i]);
    close(fd);
    at = append_addresses(at);
    FILE *routes = fopen("/proc/self/net/route", "re");
    assert_non_null(routes);
    if (guest_gateway_read(routes, &gateway))
        append(at, " via %s", inet_ntop(AF_INET, &gateway, gateway_text, sizeof gateway_text));
    fclose(routes);
    network_enter(n->host_fd);
    return ret;
}

void networks_expect(const struct networks *n, const char *expected)
{
    char state[STATE_MAX];
    assert_string_equal(networks_look(n, state), expected);
}

int networks_open_guest(const struct networks *n, uint32_t groups)
{
    network_enter(n->guest_fd);
    int fd = netlink_open(groups);
    network_enter(n->host_fd);
    assert_true(fd >= 0);
    return fd;
}

void networks_await(const struct networks *n, int events_fd, const char *expected)
{
    char state[STATE_MAX];
    while (strcmp(networks_look(n, state), expected) != 0)
        if (netlink_wait(events_fd, CHANGE_DEADLINE_MS) < 0)
            fail_msg("it stays %s", state);
}
