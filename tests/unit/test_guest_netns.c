/* SPDX-License-Identifier: MIT */
/*
 * What the agent does to a network, in networks of the test's own. Where a user may not have any,
 * nothing here can be tried; all that needs none is in test_guest_agent.c and test_guest_network.c.
 */
#include <linux/capability.h>

#include "agent_fixture.h"
#include "frames.h"
#include "netns_fixture.h"

#define MAC_AND_IP "\"mac\":\"02:00:00:00:0A:07\",\"ipv4\":\"10.0.0.7\""
#define IDENTITY "\"interface_name\":\"eth0\"," MAC_AND_IP
#define SUBJECT "mac=02:00:00:00:0A:07 ip=10.0.0.7"
#define KEY "00112233445566778899aabbccddeeff"

struct fixture {
    struct agent agent;
    struct networks networks;
    int ack_fd;
    uint16_t ack_port;
};

static bool has_networks; /* of its own */

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    *state = f;
    if (!has_networks)
        return 0;
    has_networks = networks_make(&f->networks);
    if (!has_networks) {
        print_message("no veth pairs here: nothing is tried\n");
        return 0;
    }
    f->agent.namespace_fd = f->networks.guest_fd;
    f->ack_fd = ack_open(htonl(INADDR_ANY), &f->ack_port);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    const int fds[] = {f->ack_fd, f->networks.host_fd, f->networks.guest_fd};

    agent_stop(&f->agent);
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] > 0)
            close(fds[i]);
    free(f);
    return 0;
}

static void start(struct fixture *f, const char *const *arguments)
{
    agent_start(&f->agent, arguments);
    agent_wait_for_output(&f->agent, "hypefs-guest: ready\n");
}

static void start_network(struct fixture *f)
{
    start(f, (const char *[]){"--network", NULL});
}

/* Delivers {MEMBERS,"ack_port":PORT}. */
static void deliver(const struct fixture *f, const char *name, const char *members)
{
    char payload[512];
    snprintf(payload, sizeof payload, "{%s,\"ack_port\":%u}", members, (unsigned)f->ack_port);
    agent_deliver(&f->agent, name, payload);
}

/* Then the mailbox is armed again; a host would not deliver earlier, for the VM runs. */
static void expect_applied(struct fixture *f, const char *subject)
{
    char datagram[256];
    snprintf(datagram, sizeof datagram, "stage=applied %s", subject);
    ack_expect(f->ack_fd, datagram);
    agent_wait_for_output(&f->agent, "hypefs-guest: applied (network)\n");
    f->agent.output_size = 0;
    f->agent.output[0] = '\0';
}

/* Did what came last come from that address, and its MAC address? */
static void expect_neighbour(const char *address, const char *mac)
{
    char line[256];
    bool found = false;
    FILE *neighbours = fopen("/proc/self/net/arp", "re");

    assert_non_null(neighbours);
    while (fgets(line, sizeof line, neighbours))
        if (strncmp(line, address, strlen(address)) == 0 && line[strlen(address)] == ' ')
            found = strstr(line, mac) != NULL;
    fclose(neighbours);
    assert_true(found);
}

static void network_with_a_gateway_replaces_all_and_acks_to_it(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[FRAME_SIZE];

    if (!has_networks)
        return;
    networks_expect(&f->networks, template_state);
    start_network(f);
    deliver(f, NULL, IDENTITY ",\"prefix\":24,\"gateway\":\"10.0.0.1\",\"ack_key\":\"" KEY "\"");
    expect_applied(f, SUBJECT " key=" KEY);
    networks_expect(&f->networks, "up 02:00:00:00:0a:07 10.0.0.7/24 via 10.0.0.1");
    expect_neighbour("10.0.0.7", "02:00:00:00:0a:07");
    agent_look(&f->agent, NULL, frame);
    assert_true(frames_is_empty(frame, FRAME_NETWORK, 0));
    /* And once more, as in a fork of the fork. */
    deliver(f, NULL,
            "\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:08\",\"ipv4\":\"10.9.9.6\","
            "\"prefix\":29,\"gateway\":\"10.9.9.1\"");
    expect_applied(f, "mac=02:00:00:00:00:08 ip=10.9.9.6");
    networks_expect(&f->networks, "up 02:00:00:00:00:08 10.9.9.6/29 via 10.9.9.1");
}

static void network_with_its_own_addresses_again_is_applied(void **state)
{
    struct fixture *f = *state;

    if (!has_networks)
        return;
    start_network(f);
    deliver(f, NULL,
            "\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:01\",\"ipv4\":\"10.9.9.2\","
            "\"prefix\":24,\"gateway\":\"10.9.9.1\"");
    expect_applied(f, "mac=02:00:00:00:00:01 ip=10.9.9.2");
    networks_expect(&f->networks, "up 02:00:00:00:00:01 10.9.9.2/24 via 10.9.9.1");
}

/* No route of the address's own leads to it. */
static void network_with_a_gateway_elsewhere_takes_it_as_on_the_link(void **state)
{
    static const char *const prefixes[] = {"0", "32", "31", "30"};
    struct fixture *f = *state;

    if (!has_networks)
        return;
    start_network(f);
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        char members[256], expected[STATE_MAX];
        snprintf(members, sizeof members,
                 "\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:0a:06\","
                 "\"ipv4\":\"10.0.0.6\",\"prefix\":%s,\"gateway\":\"10.0.0.1\"",
                 prefixes[i]);
        deliver(f, NULL, members);
        expect_applied(f, "mac=02:00:00:00:0a:06 ip=10.0.0.6");
        snprintf(expected, sizeof expected, "up 02:00:00:00:0a:06 10.0.0.6/%s via 10.0.0.1",
                 prefixes[i]);
        networks_expect(&f->networks, expected);
    }
}

static void network_without_a_gateway_leaves_no_default_route(void **state)
{
    struct fixture *f = *state;

    if (!has_networks)
        return;
    start(f, (const char *[]){"--network=t", "--ack-address", "10.0.0.1", NULL});
    deliver(f, NULL, IDENTITY ",\"prefix\":24,\"gateway\":\"\"");
    expect_applied(f, SUBJECT);
    networks_expect(&f->networks, "up 02:00:00:00:0a:07 10.0.0.7/24");
}

static void network_that_is_not_valid_changes_nothing(void **state)
{
    static const struct {
        const char *members, *expected;
    } cases[] = {
        {MAC_AND_IP ",\"prefix\":24",
         SUBJECT " reason=interface_name_is_not_1_to_15_of_A-Z_a-z_0-9___._-"},
        {"\"interface_name\":\"eth0\",\"mac\":\"01:00:00:00:00:07\",\"ipv4\":\"10.0.0.7\"",
         "mac=01:00:00:00:00:07 ip=10.0.0.7 reason=mac_is_not_a_unicast_MAC_address"},
        {IDENTITY ",\"prefix\":33", SUBJECT " reason=prefix_is_not_a_whole_number_from_0_to_32"},
        {IDENTITY ",\"prefix\":24,\"gateway\":\"10.0.0.7\"",
         SUBJECT " reason=gateway_is_not_another_host's_IPv4_address"},
        {IDENTITY ",\"prefix\":30",
         SUBJECT " reason=ipv4_is_not_a_host's_address_in_a_network_of_that_prefix"},
        {"\"interface_name\":\"eth1\"," MAC_AND_IP ",\"prefix\":24",
         SUBJECT " reason=eth1:_there_is_no_such_interface"},
        {"\"interface_name\":\"lo\"," MAC_AND_IP ",\"prefix\":24",
         SUBJECT " reason=lo:_not_an_Ethernet_interface"},
    };
    struct fixture *f = *state;

    if (!has_networks)
        return;
    start_network(f);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char expected[512];
        snprintf(expected, sizeof expected, "stage=failed %s", cases[i].expected);
        deliver(f, NULL, cases[i].members);
        ack_expect(f->ack_fd, expected);
        networks_expect(&f->networks, template_state);
    }
}

static void network_that_may_not_be_changed_says_so(void **state)
{
    struct fixture *f = *state;

    if (!has_networks)
        return;
    f->agent.capability = CAP_NET_ADMIN;
    start(f, (const char *[]){"--network", "--ack-address", "10.9.9.1", NULL});
    deliver(f, NULL, IDENTITY ",\"prefix\":24,\"gateway\":\"10.0.0.1\"");
    ack_expect(f->ack_fd,
               "stage=failed " SUBJECT " reason=eth0:_cannot_change_it:_Operation_not_"
               "permitted_(nothing_was_changed)");
    networks_expect(&f->networks, template_state);
}

static void make_unreachable(int fd, const char *address)
{
    const struct rtmsg header = {.rtm_family = AF_INET,
                                 .rtm_dst_len = 32,
                                 .rtm_table = RT_TABLE_MAIN,
                                 .rtm_protocol = RTPROT_STATIC,
                                 .rtm_scope = RT_SCOPE_LINK,
                                 .rtm_type = RTN_UNREACHABLE};
    struct netlink_message message;
    struct in_addr parsed;

    assert_int_equal(inet_pton(AF_INET, address, &parsed), 1);
    netlink_begin(&message, RTM_NEWROUTE, NLM_F_CREATE, &header, sizeof header);
    netlink_add(&message, RTA_DST, &parsed, sizeof parsed);
    assert_int_equal(netlink_request(fd, &message), 0);
}

/* The kernel takes no gateway that another route keeps it from. */
static void network_that_fails_halfway_says_what_is_left(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[FRAME_SIZE];

    if (!has_networks)
        return;
    int guest = networks_open_guest(&f->networks, 0);
    make_unreachable(guest, "10.0.0.9");
    close(guest);
    start(f, (const char *[]){"--network", "--ack-address", "10.0.0.1", NULL});
    deliver(f, NULL, IDENTITY ",\"prefix\":24,\"gateway\":\"10.0.0.9\"");
    ack_expect(f->ack_fd, "stage=failed " SUBJECT
                          " reason=eth0:_cannot_set_the_default_route:_No_route_to_host_"
                          "(there_is_none_through_this_interface)");
    networks_expect(&f->networks, "up 02:00:00:00:0a:07 10.0.0.7/24");
    agent_look(&f->agent, NULL, frame);
    assert_int_equal(frame_load_u32(frame + 68), FRAME_REFUSED);
}

static void network_is_applied_before_what_came_with_it(void **state)
{
    struct fixture *f = *state;

    if (!has_networks)
        return;
    start(f, (const char *[]){"--mailbox", "a", "--hook", "true", "--network", NULL});
    /* Both are there before it looks at either, as in a fork. */
    kill(f->agent.pid, SIGSTOP);
    assert_int_equal(waitpid(f->agent.pid, NULL, WUNTRACED), f->agent.pid);
    deliver(f, "a", "\"n\":1");
    deliver(f, NULL, IDENTITY ",\"prefix\":24,\"gateway\":\"10.0.0.1\"");
    kill(f->agent.pid, SIGCONT);
    expect_applied(f, SUBJECT);
    ack_expect(f->ack_fd, "stage=applied mailbox=a");
}

static void network_whose_link_comes_late_is_acked_then(void **state)
{
    struct fixture *f = *state;

    if (!has_networks)
        return;
    int host = netlink_open(0);
    assert_true(host >= 0);
    network_set_link(host, "tap", false);
    start_network(f);
    int events_fd =
        networks_open_guest(&f->networks, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE);
    deliver(f, NULL, IDENTITY ",\"prefix\":24,\"gateway\":\"10.0.0.1\"");
    networks_await(&f->networks, events_fd, "up 02:00:00:00:0a:07 10.0.0.7/24 via 10.0.0.1");
    network_set_link(host, "tap", true);
    expect_applied(f, SUBJECT);
    close(events_fd);
    close(host);
}

static void network_whose_route_to_the_host_comes_late_is_acked_then(void **state)
{
    struct fixture *f = *state;

    if (!has_networks)
        return;
    start(f, (const char *[]){"--network", "--ack-address", "10.9.9.1", NULL});
    int guest = networks_open_guest(&f->networks, 0);
    int events_fd =
        networks_open_guest(&f->networks, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE);
    deliver(f, NULL, IDENTITY ",\"prefix\":24");
    networks_await(&f->networks, events_fd, "up 02:00:00:00:0a:07 10.0.0.7/24");
    network_enter(f->networks.guest_fd);
    network_set_default_route(guest, "10.0.0.1");
    network_enter(f->networks.host_fd);
    expect_applied(f, SUBJECT);
    close(events_fd);
    close(guest);
}

#define netns_test(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        netns_test(network_with_a_gateway_replaces_all_and_acks_to_it),
        netns_test(network_with_its_own_addresses_again_is_applied),
        netns_test(network_with_a_gateway_elsewhere_takes_it_as_on_the_link),
        netns_test(network_without_a_gateway_leaves_no_default_route),
        netns_test(network_that_is_not_valid_changes_nothing),
        netns_test(network_that_may_not_be_changed_says_so),
        netns_test(network_that_fails_halfway_says_what_is_left),
        netns_test(network_is_applied_before_what_came_with_it),
        netns_test(network_whose_link_comes_late_is_acked_then),
        netns_test(network_whose_route_to_the_host_comes_late_is_acked_then),
    };
    if (!getenv("HYPEFS_GUEST")) {
        fputs("HYPEFS_GUEST must name the agent\n", stderr);
        return 2;
    }
    has_networks = networks_allowed();
    if (!has_networks)
        print_message("no network namespaces for this user here: nothing is tried\n");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
