/* SPDX-License-Identifier: MIT */
/* What the guest library tells the host, and the parsing behind it. */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/internal.h"
#include "test.h"

enum { DEADLINE_MS = 10000 };

#define KEY "00112233445566778899aabbccddeeff" /* as the host makes them */

static struct hypefs_mailbox *arm(const char *name)
{
    struct hypefs_mailbox *box = NULL;
    assert_int_equal(hypefs_mailbox_arm(name, NULL, 0, &box), 0);
    assert_non_null(box);
    return box;
}

/* A copy of the frame as the host would see it. */
static void look(const struct hypefs_mailbox *box, uint8_t ret[FRAME_SIZE])
{
    memcpy(ret, (const void *)box->frame, FRAME_SIZE);
}

/* Plays the host, and the guest that takes the payload in hand. */
static void deliver(struct hypefs_mailbox *box, const char *payload)
{
    struct hypefs_mailbox *full = NULL;
    uint8_t *frame = (uint8_t *)box->frame;

    memcpy(frame + 264, payload, strlen(payload));
    frame_store_u32(frame + 260, (uint32_t)strlen(payload));
    __atomic_store_n((uint32_t *)(void *)(frame + 256), htole32(1), __ATOMIC_RELEASE);
    assert_int_equal(hypefs_mailbox_wait(&box, 1, DEADLINE_MS, &full), 0);
    assert_ptr_equal(full, box);
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

/* A host that waits for acks on 127.0.0.1. */
struct host {
    int fd;
    uint16_t port;
};

static struct host host_open(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct host host = {.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};

    assert_true(host.fd >= 0);
    assert_int_equal(bind(host.fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(getsockname(host.fd, (struct sockaddr *)&address, &size), 0);
    host.port = ntohs(address.sin_port);
    return host;
}

static void host_expect(const struct host *host, const char *expected)
{
    char text[2048];
    struct pollfd fd = {.fd = host->fd, .events = POLLIN};

    assert_int_equal(poll(&fd, 1, DEADLINE_MS), 1);
    ssize_t n = recv(host->fd, text, sizeof text - 1, 0);
    assert_true(n >= 0);
    text[n] = '\0';
    assert_string_equal(text, expected);
}

static void host_expect_silence(const struct host *host)
{
    char text[16];
    assert_int_equal(recv(host->fd, text, sizeof text, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
}

static void deliver_with_port(struct hypefs_mailbox *box, const char *format, uint16_t port)
{
    char payload[512];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(payload, sizeof payload, format, port);
#pragma GCC diagnostic pop
    deliver(box, payload);
}

static void ack_with_a_port_sends_the_datagram(void **state)
{
    (void)state;
    struct host host = host_open();
    struct hypefs_mailbox *box = arm("kernel.identity.v1");

    deliver_with_port(box, "{\"instance_name\":\"web-1\",\"ack_port\":%u}", host.port);
    assert_int_equal(hypefs_mailbox_ack(box, "127.0.0.1"), 0);
    host_expect(&host, "stage=applied mailbox=kernel.identity.v1");
    assert_non_null(hypefs_mailbox_payload(box, NULL));
    hypefs_mailbox_close(box);
    close(host.fd);
}

static void ack_with_a_key_echoes_it(void **state)
{
    (void)state;
    struct host host = host_open();
    struct hypefs_mailbox *box = arm("a");

    deliver_with_port(box, "{\"ack_port\":%u,\"ack_key\":\"" KEY "\"}", host.port);
    assert_int_equal(hypefs_mailbox_ack(box, "127.0.0.1"), 0);
    host_expect(&host, "stage=applied mailbox=a key=" KEY);
    hypefs_mailbox_close(box);
    close(host.fd);
}

static void fail_with_a_key_echoes_it(void **state)
{
    (void)state;
    struct host host = host_open();
    struct hypefs_mailbox *box = arm("a");

    deliver_with_port(box, "{\"ack_port\":%u,\"ack_key\":\"" KEY "\"}", host.port);
    assert_int_equal(hypefs_mailbox_fail(box, "why", "127.0.0.1"), 0);
    host_expect(&host, "stage=failed mailbox=a key=" KEY " reason=why");
    hypefs_mailbox_close(box);
    close(host.fd);
}

/* The host appends its members: what a payload had under these names before does not count. */
static void ack_with_two_keys_echoes_the_last(void **state)
{
    (void)state;
    struct host host = host_open();
    struct hypefs_mailbox *box = arm("a");

    deliver_with_port(box,
                      "{\"ack_key\":\"aa\",\"ack_port\":9,\"in\":{\"ack_key\":\"bb\"},"
                      "\"ack_port\":%u,\"ack_key\":\"" KEY "\"}",
                      host.port);
    assert_int_equal(hypefs_mailbox_ack(box, "127.0.0.1"), 0);
    host_expect(&host, "stage=applied mailbox=a key=" KEY);
    hypefs_mailbox_close(box);
    close(host.fd);
}

static void ack_with_a_key_that_is_none_leaves_it_out(void **state)
{
    (void)state;
    static const char *const payloads[] = {
        "{\"ack_key\":\"\",\"ack_port\":%u}",
        "{\"ack_key\":12,\"ack_port\":%u}",
        "{\"ack_key\":\"0g\",\"ack_port\":%u}",
        "{\"ack_key\":\"0 stage=applied\",\"ack_port\":%u}",
        "{\"ack_key\":[\"00\"],\"ack_port\":%u}",
        "{\"ack_key\":\"0" KEY KEY "\",\"ack_port\":%u}",
    };
    struct host host = host_open();
    struct hypefs_mailbox *box = arm("a");

    for (size_t i = 0; i < sizeof payloads / sizeof payloads[0]; i++) {
        deliver_with_port(box, payloads[i], host.port);
        assert_int_equal(hypefs_mailbox_ack(box, "127.0.0.1"), 0);
        host_expect(&host, "stage=applied mailbox=a");
        hypefs_mailbox_rearm(box);
    }
    hypefs_mailbox_close(box);
    close(host.fd);
}

static void ack_after_a_keyed_delivery_forgets_the_key(void **state)
{
    (void)state;
    struct host host = host_open();
    struct hypefs_mailbox *box = arm("a");

    deliver_with_port(box, "{\"ack_port\":%u,\"ack_key\":\"aa\"}", host.port);
    hypefs_mailbox_rearm(box);
    deliver_with_port(box, "{\"ack_port\":%u}", host.port);
    assert_int_equal(hypefs_mailbox_ack(box, "127.0.0.1"), 0);
    host_expect(&host, "stage=applied mailbox=a");
    hypefs_mailbox_close(box);
    close(host.fd);
}

static void ack_without_a_port_of_its_own_sends_nothing(void **state)
{
    (void)state;
    static const char *const payloads[] = {
        "{\"a\":{\"ack_port\":%u}}",
        "{\"a\":\"\\\"ack_port\\\":%u\"}",
        "{\"ack_port\":\"%u\"}",
        "{\"ack_port\":%u.5}",
        "{\"ack_port\":-%u}",
        "{\"ack_port\":1%05u}",
        "{\"a\":[{\"ack_port\":%u}],\"b\":1}",
        "{\"xack_port\":%u}",
    };
    struct host host = host_open();
    struct hypefs_mailbox *box = arm("a");

    for (size_t i = 0; i < sizeof payloads / sizeof payloads[0]; i++) {
        deliver_with_port(box, payloads[i], host.port);
        /* Not even an address is needed. */
        assert_int_equal(hypefs_mailbox_ack(box, "nowhere"), 0);
        hypefs_mailbox_rearm(box);
    }
    host_expect_silence(&host);
    hypefs_mailbox_close(box);
    close(host.fd);
}

static void ack_when_it_cannot_be_sent_is_einval(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("a");

    assert_int_equal(hypefs_mailbox_ack(box, "127.0.0.1"), -EINVAL);
    assert_int_equal(hypefs_mailbox_fail(box, "why", "127.0.0.1"), -EINVAL);
    deliver_with_port(box, "{\"ack_port\":%u}", 9);
    assert_int_equal(hypefs_mailbox_ack(box, "localhost"), -EINVAL);
    assert_int_equal(hypefs_mailbox_ack(box, "127.0.0.1 "), -EINVAL);
    hypefs_mailbox_close(box);
}

static void fail_leaves_the_reason_and_tells_the_host(void **state)
{
    (void)state;
    struct host host = host_open();
    struct hypefs_mailbox *box = arm("a");
    uint8_t frame[FRAME_SIZE];

    deliver_with_port(box, "{\"secret\":\"s\",\"ack_key\":\"0f\",\"ack_port\":%u}", host.port);
    assert_int_equal(hypefs_mailbox_fail(box, "no such\trole\n", "127.0.0.1"), 0);
    host_expect(&host, "stage=failed mailbox=a key=0f reason=no_such_role");
    look(box, frame);
    assert_int_equal(frame_load_u32(frame + 256), 0);
    assert_int_equal(frame_load_u32(frame + 260), FRAME_REFUSED);
    assert_string_equal((char *)frame + 264, "no such role");
    assert_true(all_zero(frame + 264 + 12, FRAME_FLAGS - 264 - 12));
    assert_null(hypefs_mailbox_payload(box, NULL));
    assert_true(all_zero((uint8_t *)box->payload, sizeof box->payload));
    hypefs_mailbox_close(box);
    close(host.fd);
}

static void fail_with_the_longest_reason_fits_one_datagram(void **state)
{
    (void)state;
    struct host host = host_open();
    struct hypefs_mailbox *box = arm("a");
    char reason[2000], expected[1024] = "stage=failed mailbox=a reason=";

    memset(reason, 'r', sizeof reason - 1);
    reason[sizeof reason - 1] = '\0';
    memset(expected + strlen(expected), 'r', FRAME_REASON_MAX);
    deliver_with_port(box, "{\"ack_port\":%u}", host.port);
    assert_int_equal(hypefs_mailbox_fail(box, reason, "127.0.0.1"), 0);
    host_expect(&host, expected);
    hypefs_mailbox_close(box);
    close(host.fd);
}

static void fail_when_it_cannot_be_sent_still_leaves_the_reason(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("a");
    uint8_t frame[FRAME_SIZE];

    deliver_with_port(box, "{\"ack_port\":%u}", 9);
    assert_int_equal(hypefs_mailbox_fail(box, NULL, "nowhere"), -EINVAL);
    look(box, frame);
    assert_int_equal(frame_load_u32(frame + 260), FRAME_REFUSED);
    assert_string_equal((char *)frame + 264, "unspecified");
    /* A refusal counts as armed: the next delivery is taken. */
    deliver(box, "{\"again\":1}");
    assert_string_equal(hypefs_mailbox_payload(box, NULL), "{\"again\":1}");
    hypefs_mailbox_close(box);
}

static void member_find_looks_at_own_members_only(void **state)
{
    (void)state;
    static const struct {
        const char *text, *value; /* NULL: not found */
    } cases[] = {
        {"{\"k\":1}", "1"},
        {" {\n\"k\" : 12 \t}\n", "12"},
        {"{\"a\":{\"k\":1},\"k\":2}", "2"},
        {"{\"k\":2,\"a\":{\"k\":1}}", "2"},
        {"{\"a\":\"\\\"k\\\":1\",\"k\":2}", "2"},
        {"{\"a\":\"x\\\\\",\"k\":2}", "2"},
        {"{\"a\":[1,{\"k\":3},\"}\"],\"k\":[4,5]}", "[4,5]"},
        {"{\"k\":1,\"k\":2}", "2"},
        {"{\"k\":{\"k\":9} }", "{\"k\":9}"},
        {"{\"k\":\"a,b}\"}", "\"a,b}\""},
        {"{}", NULL},
        {"{\"kk\":1}", NULL},
        {"{\"a\":\"k\"}", NULL},
        {"{\"a\":{\"k\":1}}", NULL},
        {"[{\"k\":1}]", NULL},
        {"", NULL},
        {"{\"k\"", NULL},
        {"{\"a", NULL},
        {"{\"a\\", NULL},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct guest_span value;
        /* On the heap without a NUL, so that a read past the end is seen. */
        size_t size = strlen(cases[i].text);
        char *text = malloc(size ? size : 1);
        assert_non_null(text);
        memcpy(text, cases[i].text, size);
        bool found = guest_member_find(text, size, "k", &value);
        assert_int_equal(found, cases[i].value != NULL);
        if (found) {
            assert_int_equal(value.size, strlen(cases[i].value));
            assert_memory_equal(value.text, cases[i].value, value.size);
        }
        free(text);
    }
}

static void member_find_in_cut_text_stays_inside_it(void **state)
{
    (void)state;
    static const char whole[] = "{\"a\":[1,{\"b\":\"\\\"\\\\\"}],\"k\":{\"c\":[]},\"d\":\"e\"}";

    for (size_t size = 0; size < sizeof whole; size++) {
        struct guest_span value;
        char *text = malloc(size ? size : 1);
        assert_non_null(text);
        memcpy(text, whole, size);
        if (guest_member_find(text, size, "k", &value))
            assert_true(value.text >= text && value.text + value.size <= text + size);
        free(text);
    }
}

static void gateway_read_takes_the_default_route_with_the_lowest_metric(void **state)
{
    (void)state;
    static char routes[] =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "eth1\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
        "eth0\t00000000\t0202000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        "eth2\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth3\t00000000\t0302000A\t0002\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth4\t00000000\t0402000A\t0003\t0\t0\t0\t000000FF\t0\t0\t0\n";
    struct in_addr gateway;
    FILE *file = fmemopen(routes, sizeof routes - 1, "r");

    assert_non_null(file);
    assert_true(guest_gateway_read(file, &gateway));
    fclose(file);
    /* The kernel prints in this machine's order, the sample is of a little-endian one. */
    assert_int_equal(gateway.s_addr, 0x0202000A);
}

static void gateway_read_without_a_default_route_finds_none(void **state)
{
    (void)state;
    static char routes[] = "Iface\tDestination\tGateway\n"
                           "eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    struct in_addr gateway;
    FILE *file = fmemopen(routes, sizeof routes - 1, "r");

    assert_non_null(file);
    assert_false(guest_gateway_read(file, &gateway));
    fclose(file);
}

static void reason_clean_keeps_only_what_a_datagram_may_hold(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"plain", "plain"},
        {"  two words \r\n", "two words"},
        {"a\tb\x01\x7F\x1B[0mc", "a b[0mc"},
        {"\xC3\xA9t\xC3\xA9", "\xC3\xA9t\xC3\xA9"},
        {"\xE2\x82\xAC \xF0\x9F\x98\x80", "\xE2\x82\xAC \xF0\x9F\x98\x80"},
        {"next\xC2\x85line", "nextline"},
        {"\xFF\xC3", "??"},
        {"\xC0\xAF", "??"},
        {"\xED\xA0\x80", "???"},
        {"\xF4\x90\x80\x80", "????"},
        {"\xE2\x82", "??"},
        {"", "unspecified"},
        {NULL, "unspecified"},
        {" \n\x02", "unspecified"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[FRAME_REASON_MAX + 1];
        guest_reason_clean(cases[i].in, out);
        assert_string_equal(out, cases[i].out);
    }
}

static void reason_clean_cuts_between_characters(void **state)
{
    (void)state;
    char in[FRAME_REASON_MAX + 3], out[FRAME_REASON_MAX + 1];

    memset(in, 'a', FRAME_REASON_MAX - 1);
    memcpy(in + FRAME_REASON_MAX - 1, "\xC3\xA9", 3);
    guest_reason_clean(in, out);
    assert_int_equal(strlen(out), FRAME_REASON_MAX - 1);
    memcpy(in + FRAME_REASON_MAX - 2, "\xC3\xA9", 3);
    guest_reason_clean(in, out);
    assert_int_equal(strlen(out), FRAME_REASON_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ack_with_a_port_sends_the_datagram),
        cmocka_unit_test(ack_with_a_key_echoes_it),
        cmocka_unit_test(fail_with_a_key_echoes_it),
        cmocka_unit_test(ack_with_two_keys_echoes_the_last),
        cmocka_unit_test(ack_with_a_key_that_is_none_leaves_it_out),
        cmocka_unit_test(ack_after_a_keyed_delivery_forgets_the_key),
        cmocka_unit_test(ack_without_a_port_of_its_own_sends_nothing),
        cmocka_unit_test(ack_when_it_cannot_be_sent_is_einval),
        cmocka_unit_test(fail_leaves_the_reason_and_tells_the_host),
        cmocka_unit_test(fail_with_the_longest_reason_fits_one_datagram),
        cmocka_unit_test(fail_when_it_cannot_be_sent_still_leaves_the_reason),
        cmocka_unit_test(member_find_looks_at_own_members_only),
        cmocka_unit_test(member_find_in_cut_text_stays_inside_it),
        cmocka_unit_test(gateway_read_takes_the_default_route_with_the_lowest_metric),
        cmocka_unit_test(gateway_read_without_a_default_route_finds_none),
        cmocka_unit_test(reason_clean_keeps_only_what_a_datagram_may_hold),
        cmocka_unit_test(reason_clean_cuts_between_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
