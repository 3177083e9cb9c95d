/* SPDX-License-Identifier: MIT */
/*
 * Network identities on the wire: real guests on taps, in a network namespace of the test's own.
 * The host is 10.0.2.2 on each tap, where acks are received; the template on t0 has 10.0.2.15 and
 * its MAC, and each fork gets its own of all three.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "vm/vm.h"

#define TEMPLATE_MAC "02:00:00:00:00:01"
#define TEMPLATE_PARAMETERS "hypefs.mailboxes=first.v1 hypefs.network"

enum { TAPS = 3, FRAME_BYTES = 2048, CAPTURE_BYTES = 8 << 20 };
static const unsigned char template_mac[ETH_ALEN] = {2, 0, 0, 0, 0, 1};

static const char *prepare(const char *base)
{
    const char *why = harness_make_taps(base, TAPS);
    if (why)
        return why;
    return system("for t in t0 t1 t2; do ip address add 10.0.2.2 dev $t; done && "
                  "ip route add 10.0.2.15 dev t0 && ip route add 10.0.2.101 dev t1 && "
                  "ip route add 10.0.2.102 dev t2") == 0
               ? NULL
               : "ip(8) cannot give addresses to taps here";
}

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", TEMPLATE_PARAMETERS);
}

static char *mac_of(struct harness *h, int fork)
{
    return harness_format(h, "02:00:00:00:00:1%d", fork);
}

static char *address_of(struct harness *h, int fork)
{
    return harness_format(h, "10.0.2.10%d", fork);
}

/* Everything that comes out of a tap from here on. */
static int capture(const char *tap)
{
    const int size = CAPTURE_BYTES;
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL),
                                  .sll_ifindex = (int)if_nametoindex(tap)};
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* ARP and RARP frames from that MAC that were captured so far; *ret_all: frames from the guest. */
static size_t count_arps(int fd, const unsigned char *mac, size_t *ret_all)
{
    unsigned char frame[FRAME_BYTES];
    struct sockaddr_ll from;
    socklen_t from_size = sizeof from;
    ssize_t size;
    size_t count = 0;
    *ret_all = 0;
    while ((size = recvfrom(fd, frame, sizeof frame, 0, (struct sockaddr *)&from, &from_size)) >=
           0) {
        const struct ether_header *header = (const struct ether_header *)frame;
        from_size = sizeof from;
        if (size < (ssize_t)sizeof *header || from.sll_pkttype == PACKET_OUTGOING)
            continue;
        ++*ret_all;
        uint16_t type = ntohs(header->ether_type);
        count += (type == ETHERTYPE_ARP || type == ETHERTYPE_REVARP) &&
                 memcmp(header->ether_shost, mac, ETH_ALEN) == 0;
    }
    assert_int_equal(errno, EAGAIN);
    return count;
}

/* `ack` is how its network acks. */
static char *fork_on(struct harness *h, int number, const char *ack)
{
    harness_put(vm_draft(h, "new", "network"),
                harness_format(h,
                               "{\"interface_name\":\"eth0\",\"mac\":\"%s\",\"ipv4\":\"%s\","
                               "\"prefix\":24,\"gateway\":\"10.0.2.2\",\"ack\":\"%s\"}",
                               mac_of(h, number), address_of(h, number), ack));
    harness_put(vm_draft(h, "new", "options"),
                harness_format(h, "{\"tap\":\"t%d\",\"ack_address\":\"10.0.2.2\"}", number));
    vm_stage(h, "new", "first.v1", VM_REQUEST_UDP("ack", ""));
    return vm_commit(h, "new", harness_format(h, "web-%d", number));
}

/* It answers there, and has that MAC. */
static void assert_answers(struct harness *h, const char *address, const char *mac)
{
    struct harness_result ping = harness_run(
        h, (const char *const[]){"busybox", "ping", "-c", "1", "-w", "30", address, NULL});
    if (ping.status != 0)
        fail_msg("no answer from %s: %s%s", address, ping.out, ping.err);
    char *script = harness_format(h, "ip neighbour show %s | grep -F 'lladdr %s '", address, mac);
    if (harness_shell(h, "bash", script).status != 0)
        fail_msg("another MAC: %s", harness_shell(h, "bash", "ip neighbour show").out);
}

static void forks_when_given_addresses_have_them_and_the_source_keeps_its_own(void **state)
{
    struct harness *h = *state;
    vm_boot(h, "microvm", TEMPLATE_PARAMETERS); /* the source runs on, on its tap */
    assert_answers(h, "10.0.2.15", TEMPLATE_MAC);
    for (int i = 1; i <= 2; i++) {
        auto_close int wire = capture(harness_format(h, "t%d", i));
        size_t all, early;
        char *result = fork_on(h, i, i == 1 ? "memory" : "keyed");
        early = count_arps(wire, template_mac, &all);
        assert_string_equal(harness_json(h, result, "network.status"), "applied");
        assert_string_equal(harness_json(h, result, "network.ack_text"),
                            i == 1 ? "null"
                                   : harness_format(h, "stage=applied mac=%s ip=%s", mac_of(h, i),
                                                    address_of(h, i)));
        assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
        assert_true(all > 0); /* the ack, at least, was on the wire */
        assert_int_equal(early, 0);
    }
    for (int i = 1; i <= 2; i++)
        assert_answers(h, address_of(h, i), mac_of(h, i));
    assert_answers(h, "10.0.2.15", TEMPLATE_MAC);
    vm_assert_running(h, (const char *const[]){"template", "web-1", "web-2", NULL});
    /* Without a tap of its own a fork would be on the source's. */
    static const char *const words[] = {"t0", "template", NULL};
    vm_commit_fails(h, "new", "web-3", EBUSY, words);
}

/* The host has no address on t2 yet: nothing that the guest sends could arrive. */
static void fork_when_the_host_cannot_be_reached_yet_is_not_degraded(void **state)
{
    struct harness *h = *state;
    harness_put(vm_draft(h, "new", "network"),
                "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:12\",\"ipv4\":"
                "\"10.9.9.102\",\"prefix\":24,\"gateway\":\"10.9.9.1\"}");
    harness_put(vm_draft(h, "new", "options"), "{\"tap\":\"t2\"}");
    vm_stage(h, "new", "first.v1", VM_REQUEST("ack", ""));
    char *result = vm_commit(h, "new", "web-1");
    assert_string_equal(harness_json(h, result, "network.status"), "applied");
    assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
}

/* Its datagrams are for 127.0.0.1 on the host, which no guest on a tap reaches. */
static void commit_when_its_ack_address_is_out_of_reach_says_so(void **state)
{
    struct harness *h = *state;
    harness_put(vm_draft(h, "new", "options"), "{\"tap\":\"t1\"}");
    vm_stage(h, "new", "first.v1",
             "{\"payload\":{\"do\":\"ack\"},\"wait_for_ack\":true,\"ack\":\"udp\","
             "\"ack_timeout_ms\":300}");
    static const char *const words[] = {"127.0.0.1, which no guest on a tap can reach",
                                        "\"ack_address\"", "\"ack\": \"memory\"", NULL};
    vm_commit_fails(h, "new", "web-1", ETIMEDOUT, words);
}

/* The guest refuses: the fork goes on, and keeps what it had. */
static void fork_when_its_interface_is_not_there_is_degraded(void **state)
{
    struct harness *h = *state;
    harness_put(vm_draft(h, "new", "network"),
                "{\"interface_name\":\"eth7\",\"mac\":\"02:00:00:00:00:11\",\"ipv4\":"
                "\"10.0.2.101\",\"prefix\":24,\"gateway\":\"10.0.2.2\"}");
    harness_put(vm_draft(h, "new", "options"), "{\"tap\":\"t1\",\"ack_address\":\"10.0.2.2\"}");
    char *result = vm_commit(h, "new", "web-1");
    assert_string_equal(harness_json(h, result, "network.status"), "degraded");
    assert_non_null(strstr(harness_json(h, result, "network.message"), "eth7"));
    assert_int_equal(harness_shell(h, "bash", "ip route replace 10.0.2.15 dev t1").status, 0);
    assert_answers(h, "10.0.2.15", TEMPLATE_MAC);
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(forks_when_given_addresses_have_them_and_the_source_keeps_its_own),
        test(fork_when_the_host_cannot_be_reached_yet_is_not_degraded),
        test(commit_when_its_ack_address_is_out_of_reach_says_so),
        test(fork_when_its_interface_is_not_there_is_degraded),
    };
    vm_enter_with_network("{\"mode\":\"tap\",\"tap\":\"t0\",\"mac\":\"" TEMPLATE_MAC "\"}",
                          prepare);
    return cmocka_run_group_tests_name("network", tests, make_template, harness_teardown);
}
