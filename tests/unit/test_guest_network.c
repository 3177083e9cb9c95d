/* SPDX-License-Identifier: MIT */
/* The resume-network mailbox of the guest library, and what the agent takes for a valid payload:
 * the test plays the host. */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frames.h"
#include "guest/internal.h"
#include "guest/network.h"
#include "test.h"

enum { DEADLINE_MS = 10000 };

#define ADDRESSES "\"mac\":\"02:00:00:00:0A:07\",\"ipv4\":\"10.0.0.7\""
#define SUBJECT "mac=02:00:00:00:0A:07 ip=10.0.0.7"
#define KEY "00112233445566778899aabbccddeeff"

struct fixture {
    struct hypefs_mailbox *box;
    int host_fd;
    uint16_t host_port;
};

static struct fixture fixture;

static int set_up(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct fixture *f = *state = &fixture;

    f->host_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_true(f->host_fd >= 0);
    assert_int_equal(bind(f->host_fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(getsockname(f->host_fd, (struct sockaddr *)&address, &size), 0);
    f->host_port = ntohs(address.sin_port);
    assert_int_equal(hypefs_network_arm("t", 1, &f->box), 0);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    hypefs_mailbox_close(f->box);
    close(f->host_fd);
    return 0;
}

/* A copy of the frame as the host would see it. */
static void look(const struct hypefs_mailbox *box, uint8_t ret[FRAME_SIZE])
{
    memcpy(ret, (const void *)box->frame, FRAME_SIZE);
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

static void deliver_sized(struct hypefs_mailbox *box, const char *payload, size_t size,
                          uint32_t length)
{
    uint8_t *frame = (uint8_t *)box->frame;
    memcpy(frame + 72, payload, size);
    frame_store_u32(frame + 68, length);
    __atomic_store_n((uint32_t *)(void *)(frame + 64), htole32(1), __ATOMIC_RELEASE);
}

static void take(struct hypefs_mailbox *box)
{
    struct hypefs_mailbox *full = NULL;
    assert_int_equal(hypefs_mailbox_wait(&box, 1, DEADLINE_MS, &full), 0);
    assert_ptr_equal(full, box);
}

/* Delivers {MEMBERS,"ack_port":PORT} and takes it in hand. */
static void deliver(const struct fixture *f, const char *members)
{
    char payload[512];
    int size =
        snprintf(payload, sizeof payload, "{%s,\"ack_port\":%u}", members, (unsigned)f->host_port);
    deliver_sized(f->box, payload, (size_t)size, (uint32_t)size);
    take(f->box);
}

static void expect(const struct fixture *f, const char *expected)
{
    char text[2048];
    struct pollfd fd = {.fd = f->host_fd, .events = POLLIN};

    assert_int_equal(poll(&fd, 1, DEADLINE_MS), 1);
    ssize_t n = recv(f->host_fd, text, sizeof text - 1, 0);
    assert_true(n >= 0);
    text[n] = '\0';
    assert_string_equal(text, expected);
}

static void network_arm_writes_exactly_these_bytes(void **state)
{
    (void)state;
    static const char expected[64] = "HYPEMAN_RESUME_NETWORK_MAILBOX_V1\0template-token";
    struct hypefs_mailbox *box;
    uint8_t frame[FRAME_SIZE];

    assert_int_equal(hypefs_network_arm("template-token", 14, &box), 0);
    look(box, frame);
    assert_int_equal((uintptr_t)box->frame % 4096, 0);
    assert_memory_equal(frame, expected, sizeof expected);
    assert_true(frames_is_empty(frame, FRAME_NETWORK, 0));
    assert_string_equal(hypefs_mailbox_name(box), "");
    hypefs_mailbox_close(box);
}

static void network_arm_with_the_longest_token_leaves_no_zero_before_the_sequence(void **state)
{
    (void)state;
    static const char expected[FRAME_SIZE] = "HYPEMAN_RESUME_NETWORK_MAILBOX_V1\0" KEY;
    struct hypefs_mailbox *box;
    uint8_t frame[FRAME_SIZE];

    assert_int_equal(hypefs_network_arm(KEY, 30, &box), 0);
    look(box, frame);
    assert_memory_equal(frame, expected, 64);
    assert_true(frames_is_empty(frame, FRAME_NETWORK, 0));
    hypefs_mailbox_close(box);
}

static void network_arm_without_token_takes_120_random_bits(void **state)
{
    (void)state;
    struct hypefs_mailbox *boxes[2];
    uint8_t frames[2][FRAME_SIZE];

    for (size_t i = 0; i < 2; i++) {
        struct frame_marker marker;
        assert_int_equal(hypefs_network_arm(NULL, 0, &boxes[i]), 0);
        look(boxes[i], frames[i]);
        assert_true(frame_decode_marker(FRAME_NETWORK, frames[i], FRAME_SIZE, &marker));
        assert_int_equal(marker.token_size, 30);
        for (size_t k = 0; k < marker.token_size; k++)
            assert_non_null(strchr("0123456789abcdef", marker.token[k]));
    }
    assert_memory_not_equal(frames[0], frames[1], 64);
    hypefs_mailbox_close(boxes[0]);
    hypefs_mailbox_close(boxes[1]);
}

static void network_arm_with_a_bad_token_is_einval(void **state)
{
    (void)state;
    static const struct {
        const char *token;
        size_t size;
    } cases[] = {{"", 0}, {"a\0b", 3}, {" \t", 2}, {KEY, 31}, {NULL, 1}};
    struct hypefs_mailbox *const untouched = (struct hypefs_mailbox *)&cases;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct hypefs_mailbox *box = untouched;
        assert_int_equal(hypefs_network_arm(cases[i].token, cases[i].size, &box), -EINVAL);
        assert_ptr_equal(box, untouched);
    }
    assert_int_equal(hypefs_network_arm(NULL, 0, NULL), -EINVAL);
}

static void wait_takes_as_much_as_the_network_frame_holds(void **state)
{
    struct fixture *f = *state;
    char payload[4024];
    size_t size;

    memset(payload, 'p', sizeof payload);
    deliver_sized(f->box, payload, sizeof payload, sizeof payload);
    take(f->box);
    const char *got = hypefs_mailbox_payload(f->box, &size);
    assert_int_equal(size, HYPEFS_NETWORK_PAYLOAD_MAX);
    assert_memory_equal(got, payload, size);
    assert_int_equal(got[size], '\0');
}

static void wait_when_the_network_payload_is_too_long_refuses(void **state)
{
    struct fixture *f = *state;
    struct hypefs_mailbox *full = NULL;
    uint8_t frame[FRAME_SIZE];

    deliver_sized(f->box, "{}", 2, 4025);
    assert_int_equal(hypefs_mailbox_wait(&f->box, 1, 0, &full), -ETIMEDOUT);
    look(f->box, frame);
    assert_int_equal(frame_load_u32(frame + 64), 0);
    assert_int_equal(frame_load_u32(frame + 68), FRAME_REFUSED);
    assert_string_equal((char *)frame + 72, "the payload's length is not valid");
}

static void wait_takes_the_network_first_when_it_is_first(void **state)
{
    struct fixture *f = *state;
    struct hypefs_mailbox *boxes[] = {f->box, NULL}, *full = NULL;
    uint8_t *frame;

    assert_int_equal(hypefs_mailbox_arm("a", NULL, 0, &boxes[1]), 0);
    frame = (uint8_t *)boxes[1]->frame;
    frame_store_u32(frame + 260, 2);
    frame_store_u32(frame + 256, 1);
    deliver_sized(f->box, "{}", 2, 2);
    assert_int_equal(hypefs_mailbox_wait(boxes, 2, DEADLINE_MS, &full), 0);
    assert_ptr_equal(full, f->box);
    assert_int_equal(hypefs_mailbox_wait(boxes, 2, DEADLINE_MS, &full), 0);
    assert_ptr_equal(full, boxes[1]);
    hypefs_mailbox_close(boxes[1]);
}

static void rearm_wipes_the_network_payload(void **state)
{
    static const char expected[64] = "HYPEMAN_RESUME_NETWORK_MAILBOX_V1\0t";
    struct fixture *f = *state;
    uint8_t frame[FRAME_SIZE];

    deliver(f, ADDRESSES ",\"ack_key\":\"" KEY "\"");
    hypefs_mailbox_rearm(f->box);
    look(f->box, frame);
    assert_memory_equal(frame, expected, sizeof expected);
    assert_true(frames_is_empty(frame, FRAME_NETWORK, 0));
    assert_true(all_zero((uint8_t *)f->box->payload, sizeof f->box->payload));
    assert_true(all_zero((uint8_t *)f->box->subject, sizeof f->box->subject));
    assert_true(all_zero((uint8_t *)f->box->ack_key, sizeof f->box->ack_key));
}

static void ack_of_the_network_repeats_its_addresses(void **state)
{
    struct fixture *f = *state;

    deliver(f, ADDRESSES);
    assert_int_equal(hypefs_mailbox_ack(f->box, "127.0.0.1"), 0);
    expect(f, "stage=applied " SUBJECT);
    hypefs_mailbox_rearm(f->box);
    deliver(f, ADDRESSES ",\"ack_key\":\"" KEY "\"");
    assert_int_equal(hypefs_mailbox_ack(f->box, "127.0.0.1"), 0);
    expect(f, "stage=applied " SUBJECT " key=" KEY);
}

static void fail_of_the_network_repeats_its_addresses(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[FRAME_SIZE];

    deliver(f, ADDRESSES);
    assert_int_equal(hypefs_mailbox_fail(f->box, "no interface", "127.0.0.1"), 0);
    expect(f, "stage=failed " SUBJECT " reason=no_interface");
    look(f->box, frame);
    assert_int_equal(frame_load_u32(frame + 64), 0);
    assert_int_equal(frame_load_u32(frame + 68), FRAME_REFUSED);
    assert_string_equal((char *)frame + 72, "no interface");
    assert_true(all_zero(frame + 72 + 12, FRAME_FLAGS - 72 - 12));
    deliver(f, ADDRESSES ",\"ack_key\":\"" KEY "\"");
    assert_int_equal(hypefs_mailbox_fail(f->box, NULL, "127.0.0.1"), 0);
    expect(f, "stage=failed " SUBJECT " key=" KEY " reason=unspecified");
}

/* A datagram must stay one that the host can read, whatever the payload says. */
static void ack_leaves_out_addresses_that_are_no_words(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *members, *expected;
    } cases[] = {
        {"\"ipv4\":\"10.0.0.7\"", "stage=applied ip=10.0.0.7"},
        {"\"mac\":\"a b\",\"ipv4\":\"10.0.0.7\"", "stage=applied ip=10.0.0.7"},
        {"\"mac\":\"\",\"ipv4\":7", "stage=applied"},
        {"\"mac\":\"\\u0041\",\"ipv4\":[\"10.0.0.7\"]", "stage=applied"},
        {"\"mac\":\"\xC3\xA9\",\"n\":{\"ipv4\":\"10.0.0.7\"}", "stage=applied"},
        {"\"mac\":\"a=b\"", "stage=applied mac=a=b"},
        {"\"mac\":\"" KEY KEY "\"", "stage=applied"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        deliver(f, cases[i].members);
        assert_int_equal(hypefs_mailbox_ack(f->box, "127.0.0.1"), 0);
        expect(f, cases[i].expected);
        hypefs_mailbox_rearm(f->box);
    }
}

static void fail_with_everything_at_its_longest_fits_one_datagram(void **state)
{
    struct fixture *f = *state;
    char members[512], reason[600], expected[1025];
    const char *word = KEY "0123456789012345678901234567890"; /* 63 bytes */

    snprintf(members, sizeof members, "\"mac\":\"%s\",\"ipv4\":\"%s\",\"ack_key\":\"%s0\"", word,
             word, word);
    memset(reason, 'r', sizeof reason - 1);
    reason[sizeof reason - 1] = '\0';
    snprintf(expected, sizeof expected, "stage=failed mac=%s ip=%s key=%s0 reason=%.512s", word,
             word, word, reason);
    deliver(f, members);
    assert_int_equal(hypefs_mailbox_fail(f->box, reason, "127.0.0.1"), 0);
    expect(f, expected);
}

#define VALID(interface, mac, ipv4, prefix, more)                                                  \
    "{\"interface_name\":" interface ",\"mac\":" mac ",\"ipv4\":" ipv4 ",\"prefix\":" prefix more  \
    "}"
#define INTERFACE "\"eth0\""
#define MAC "\"02:aB:00:00:0c:07\""
#define IPV4 "\"10.0.0.7\""

static void parse_reads_all_members(void **state)
{
    (void)state;
    static const char payload[] =
        VALID("\"wan_0.1-a234567\"", MAC, IPV4, "24", ",\"gateway\":\"10.0.0.1\",\"ack_port\":1");
    struct network_identity identity;
    char reason[NETWORK_REASON_MAX + 1];

    assert_true(network_parse(payload, sizeof payload - 1, &identity, reason));
    assert_string_equal(identity.interface, "wan_0.1-a234567");
    assert_memory_equal(identity.mac, "\x02\xAB\x00\x00\x0C\x07", 6);
    assert_int_equal(identity.prefix, 24);
    assert_int_equal(ntohl(identity.address.s_addr), 0x0A000007);
    assert_int_equal(ntohl(identity.gateway.s_addr), 0x0A000001);
    assert_string_equal(identity.gateway_text, "10.0.0.1");
}

static void parse_takes_what_is_at_the_limits(void **state)
{
    (void)state;
    static const char *const payloads[] = {
        VALID(INTERFACE, MAC, IPV4, "0", ""),
        VALID(INTERFACE, MAC, IPV4, "32", ""),
        VALID(INTERFACE, MAC, IPV4, "31", ""),
        VALID(INTERFACE, MAC, "\"10.0.0.0\"", "31", ""),
        VALID(INTERFACE, MAC, "\"11.0.0.0\"", "7", ""),
        VALID(INTERFACE, MAC, "\"10.0.0.255\"", "23", ""),
        VALID(INTERFACE, MAC, IPV4, "24", ",\"gateway\":\"\""),
        VALID(INTERFACE, MAC, "\"223.255.255.254\"", "24", ",\"gateway\":\"1.0.0.0\""),
        VALID("\"a\"", "\"fe:ff:ff:ff:ff:ff\"", IPV4, "9", ""),
        VALID("\"...\"", "\"00:00:00:00:00:01\"", IPV4, "10", ""),
    };

    for (size_t i = 0; i < sizeof payloads / sizeof payloads[0]; i++) {
        struct network_identity identity;
        char reason[NETWORK_REASON_MAX + 1] = "";
        if (!network_parse(payloads[i], strlen(payloads[i]), &identity, reason))
            fail_msg("%s: %s", payloads[i], reason);
    }
}

static void parse_of_a_bad_member_says_which(void **state)
{
    (void)state;
    static const struct {
        const char *payload, *says;
    } cases[] = {
        {"", "interface_name "},
        {"{}", "interface_name "},
        {VALID("\"\"", MAC, IPV4, "24", ""), "interface_name "},
        {VALID("\"a234567890123456\"", MAC, IPV4, "24", ""), "interface_name "},
        {VALID("\"eth0:1\"", MAC, IPV4, "24", ""), "interface_name "},
        {VALID("\"eth0/\"", MAC, IPV4, "24", ""), "interface_name "},
        {VALID("\"..\"", MAC, IPV4, "24", ""), "interface_name "},
        {VALID("\".\"", MAC, IPV4, "24", ""), "interface_name "},
        {VALID("\"eth\\u0030\"", MAC, IPV4, "24", ""), "interface_name "},
        {VALID("0", MAC, IPV4, "24", ""), "interface_name "},
        {VALID(INTERFACE, "\"02:00:00:00:00\"", IPV4, "24", ""), "mac "},
        {VALID(INTERFACE, "\"02:00:00:00:00:07:08\"", IPV4, "24", ""), "mac "},
        {VALID(INTERFACE, "\"02-00-00-00-00-07\"", IPV4, "24", ""), "mac "},
        {VALID(INTERFACE, "\"02:00:00:00:00:0g\"", IPV4, "24", ""), "mac "},
        {VALID(INTERFACE, "\"2:0:0:0:0:7\"", IPV4, "24", ""), "mac "},
        {VALID(INTERFACE, "\"03:00:00:00:00:07\"", IPV4, "24", ""), "mac "},
        {VALID(INTERFACE, "\"00:00:00:00:00:00\"", IPV4, "24", ""), "mac "},
        {VALID(INTERFACE, "\"ff:ff:ff:ff:ff:ff\"", IPV4, "24", ""), "mac "},
        {VALID(INTERFACE, MAC, "\"10.0.0\"", "24", ""), "ipv4 "},
        {VALID(INTERFACE, MAC, "\"10.0.0.7/24\"", "24", ""), "ipv4 "},
        {VALID(INTERFACE, MAC, "\"10.0.0.256\"", "24", ""), "ipv4 "},
        {VALID(INTERFACE, MAC, "\"010.0.0.7\"", "24", ""), "ipv4 "},
        {VALID(INTERFACE, MAC, "\"0.0.0.0\"", "24", ""), "ipv4 "},
        {VALID(INTERFACE, MAC, "\"127.0.0.1\"", "24", ""), "ipv4 "},
        {VALID(INTERFACE, MAC, "\"224.0.0.1\"", "24", ""), "ipv4 "},
        {VALID(INTERFACE, MAC, "\"255.255.255.255\"", "24", ""), "ipv4 "},
        {VALID(INTERFACE, MAC, "\"fe80::1\"", "24", ""), "ipv4 "},
        {VALID(INTERFACE, MAC, IPV4, "33", ""), "prefix "},
        {VALID(INTERFACE, MAC, IPV4, "-1", ""), "prefix "},
        {VALID(INTERFACE, MAC, IPV4, "24.0", ""), "prefix "},
        {VALID(INTERFACE, MAC, IPV4, "04", ""), "prefix "},
        {VALID(INTERFACE, MAC, IPV4, "256", ""), "prefix "},
        {VALID(INTERFACE, MAC, IPV4, "\"24\"", ""), "prefix "},
        {"{\"interface_name\":\"eth0\",\"mac\":" MAC ",\"ipv4\":" IPV4 "}", "prefix "},
        {VALID(INTERFACE, MAC, IPV4, "29", ""), "ipv4 "},
        {VALID(INTERFACE, MAC, "\"10.0.0.8\"", "30", ""), "ipv4 "},
        {VALID(INTERFACE, MAC, "\"10.0.0.255\"", "24", ""), "ipv4 "},
        {VALID(INTERFACE, MAC, "\"10.0.0.0\"", "8", ""), "ipv4 "},
        {VALID(INTERFACE, MAC, IPV4, "24", ",\"gateway\":\"10.0.0.7\""), "gateway "},
        {VALID(INTERFACE, MAC, IPV4, "24", ",\"gateway\":\"localhost\""), "gateway "},
        {VALID(INTERFACE, MAC, IPV4, "24", ",\"gateway\":7"), "gateway "},
        {VALID(INTERFACE, MAC, IPV4, "24", ",\"gateway\":null"), "gateway "},
        {VALID(INTERFACE, MAC, IPV4, "24", ",\"gateway\":\"0.0.0.0\""), "gateway "},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct network_identity identity;
        char reason[NETWORK_REASON_MAX + 1] = "";
        if (network_parse(cases[i].payload, strlen(cases[i].payload), &identity, reason))
            fail_msg("taken: %s", cases[i].payload);
        if (strncmp(reason, cases[i].says, strlen(cases[i].says)) != 0)
            fail_msg("%s: %s", cases[i].payload, reason);
    }
}

#define network_test(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(network_arm_writes_exactly_these_bytes),
        cmocka_unit_test(network_arm_with_the_longest_token_leaves_no_zero_before_the_sequence),
        cmocka_unit_test(network_arm_without_token_takes_120_random_bits),
        cmocka_unit_test(network_arm_with_a_bad_token_is_einval),
        network_test(wait_takes_as_much_as_the_network_frame_holds),
        network_test(wait_when_the_network_payload_is_too_long_refuses),
        network_test(wait_takes_the_network_first_when_it_is_first),
        network_test(rearm_wipes_the_network_payload),
        network_test(ack_of_the_network_repeats_its_addresses),
        network_test(fail_of_the_network_repeats_its_addresses),
        network_test(ack_leaves_out_addresses_that_are_no_words),
        network_test(fail_with_everything_at_its_longest_fits_one_datagram),
        cmocka_unit_test(parse_reads_all_members),
        cmocka_unit_test(parse_takes_what_is_at_the_limits),
        cmocka_unit_test(parse_of_a_bad_member_says_which),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
