/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mailbox/ack.h"
#include "test.h"
#include "util/cleanup.h"

enum { DEADLINE_MS = 10000, WAITS_MAX = 4 };

static bool parse(const char *text, struct ack_message *ret)
{
    return ack_parse(text, strlen(text), ret);
}

static void assert_field(struct ack_field field, const char *expected)
{
    if (!expected) {
        assert_null(field.text);
        assert_int_equal(field.size, 0);
        return;
    }
    assert_int_equal(field.size, strlen(expected));
    assert_memory_equal(field.text, expected, field.size);
}

static void parse_when_well_formed_gives_stage_and_fields(void **state)
{
    static const struct {
        const char *datagram;
        enum ack_stage stage;
        const char *mailbox, *reason, *mac, *key;
    } good[] = {
        {"stage=applied mailbox=a", ACK_APPLIED, "a", NULL, NULL, NULL},
        {"mailbox=a stage=applied", ACK_APPLIED, "a", NULL, NULL, NULL},
        {" \t\r\n stage=applied \v\f mailbox=a\n", ACK_APPLIED, "a", NULL, NULL, NULL},
        {"STAGE=applied MailBox=a.B", ACK_APPLIED, "a.B", NULL, NULL, NULL},
        {"stage=failed mailbox=a reason=no-such-host", ACK_FAILED, "a", "no-such-host", NULL, NULL},
        {"stage=failed", ACK_FAILED, NULL, NULL, NULL, NULL},
        {"stage=signal_seen mailbox=a", ACK_PROGRESS, "a", NULL, NULL, NULL},
        {"stage=Applied mailbox=a", ACK_PROGRESS, "a", NULL, NULL, NULL},
        {"stage=appliedx", ACK_PROGRESS, NULL, NULL, NULL, NULL},
        {"stage=applie", ACK_PROGRESS, NULL, NULL, NULL, NULL},
        {"stage=applied mac=02:AB ip=10.0.0.7", ACK_APPLIED, NULL, NULL, "02:AB", NULL},
        {"stage=applied mailbox=a key=00ff x=\xC3\xA4 y==b z=", ACK_APPLIED, "a", NULL, NULL,
         "00ff"},
        {"stage=applied mailbox= reason=", ACK_APPLIED, "", "", NULL, NULL},
        {"stage=applied mailboxes=a", ACK_APPLIED, NULL, NULL, NULL, NULL},
        {"stage=applied mailbox=a x=1 x=2", ACK_APPLIED, "a", NULL, NULL, NULL},
    };

    (void)state;
    for (size_t i = 0; i < array_length(good); i++) {
        struct ack_message message;
        assert_true(parse(good[i].datagram, &message));
        assert_int_equal(message.stage, good[i].stage);
        assert_field(message.mailbox, good[i].mailbox);
        assert_field(message.reason, good[i].reason);
        assert_field(message.mac, good[i].mac);
        assert_field(message.key, good[i].key);
    }
}

static void parse_when_not_well_formed_refuses_and_leaves_the_result(void **state)
{
    static const char *const bad[] = {
        "",
        "   \n",
        "stage=applied mailbox",
        "hello stage=applied mailbox=a",
        "the guest said stage=applied mailbox=a and was glad",
        "stage applied",
        "=applied",
        "stage=applied =x",
        "mailbox=a",
        "stage= mailbox=a",
        "stage=applied stage=failed",
        "stage=applied STAGE=applied",
        "stage=applied mailbox=a Mailbox=b",
        "stage=applied ip=1 IP=1",
        "stage=applied mailbox=a\x01",
        "stage=applied\x1B[2J mailbox=a",
        "stage=applied mailbox=a\x7F",
        "stage=applied mailbox=a x=\xC2\x9B",
        "stage=applied mailbox=a x=\xFF",
        "stage=applied mailbox=a x=\xC3",
        "stage=applied mailbox=a x=\xED\xA0\x80",
    };
    struct ack_message message = {.stage = ACK_FAILED};

    (void)state;
    for (size_t i = 0; i < array_length(bad); i++)
        if (parse(bad[i], &message))
            fail_msg("taken: \"%s\"", bad[i]);
    assert_false(ack_parse("stage=applied mailbox=a\0", 24, &message));
    assert_false(ack_parse("\0stage=applied mailbox=a", 24, &message));
    assert_int_equal(message.stage, ACK_FAILED);
}

static void parse_when_there_is_white_space_around_keeps_the_text_without_it(void **state)
{
    struct ack_message message;

    (void)state;
    assert_true(parse("\n stage=applied  mailbox=a \r\n", &message));
    assert_field(message.text, "stage=applied  mailbox=a");
    assert_field(message.stage_text, "applied");
}

static void parse_when_over_1024_bytes_refuses(void **state)
{
    char datagram[ACK_DATAGRAM_MAX + 1];
    struct ack_message message;

    (void)state;
    memset(datagram, 'x', sizeof datagram);
    memcpy(datagram, "stage=applied x=", 16);
    assert_true(ack_parse(datagram, ACK_DATAGRAM_MAX, &message));
    assert_false(ack_parse(datagram, ACK_DATAGRAM_MAX + 1, &message));
}

static void address_check_takes_one_hosts_in_numbers(void **state)
{
    static const char *const good[] = {"127.0.0.1", "::1", "fe80::1", "192.168.100.1",
                                       "::ffff:127.0.0.1"};
    static const char *const bad[] = {"",          "localhost", "127.1",      "127.0.0.1:80",
                                      "1.2.3.4.5", "256.0.0.1", "fe80::1%lo", " 127.0.0.1"};
    static const char *const many[] = {
        "0.0.0.0", "255.255.255.255", "224.0.0.1",      "239.255.255.255",
        "::",      "ff02::1",         "::ffff:0.0.0.0", "::ffff:224.0.0.1"};
    struct error err = {0};

    (void)state;
    for (size_t i = 0; i < array_length(good); i++)
        assert_int_equal(ack_address_check("it", good[i], NULL), 0);
    for (size_t i = 0; i < array_length(bad); i++) {
        assert_int_equal(ack_address_check("it", bad[i], &err), -EINVAL);
        assert_string_equal(err.text, "it must be an IPv4 or IPv6 address in numbers");
    }
    for (size_t i = 0; i < array_length(many); i++) {
        assert_int_equal(ack_address_check("it", many[i], &err), -EINVAL);
        assert_non_null(strstr(err.text, "it must be the one address of this host"));
    }
}

/* A socket that acks come to, and one that a guest would send from. */
struct pair {
    struct ack_socket host;
    int guest;
    unsigned ignored;
};

static int setup(void **state)
{
    struct pair *pair = calloc(1, sizeof *pair);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    if (!pair)
        return -1;
    pair->host.fd = -1;
    pair->guest = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    *state = pair;
    if (pair->guest < 0 || ack_socket_open("127.0.0.1", NULL, &pair->host, NULL) < 0)
        return -1;
    to.sin_port = htons(pair->host.port);
    return connect(pair->guest, (struct sockaddr *)&to, sizeof to);
}

static int teardown(void **state)
{
    struct pair *pair = *state;
    ack_socket_close(&pair->host);
    cleanup_close(&pair->guest);
    free(pair);
    return 0;
}

static void say(const struct pair *pair, const char *text)
{
    assert_int_equal(send(pair->guest, text, strlen(text), 0), strlen(text));
}

static void receive(struct pair *pair, struct ack_wait *waits, size_t count, double ms)
{
    struct pollfd ready = {pair->host.fd, POLLIN, 0};
    assert_int_equal(poll(&ready, 1, DEADLINE_MS), 1);
    struct ack_wait *each[WAITS_MAX];
    for (size_t i = 0; i < count; i++)
        each[i] = &waits[i];
    ack_receive(&pair->host, each, count, ms, &pair->ignored);
}

static void socket_when_opened_is_cloexec_non_blocking_and_bound(void **state)
{
    struct pair *pair = *state;

    assert_int_not_equal(pair->host.port, 0);
    assert_true(fcntl(pair->host.fd, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(pair->host.fd, F_GETFL) & O_NONBLOCK);
}

static void socket_when_the_address_is_wrong_or_not_ours_fails(void **state)
{
    struct ack_socket socket = {.fd = -7, .port = 7};
    struct error err = {0};

    (void)state;
    assert_int_equal(ack_socket_open("localhost", NULL, &socket, &err), -EINVAL);
    assert_int_equal(ack_socket_open("192.0.2.1", NULL, &socket, &err), -EINVAL);
    assert_non_null(strstr(err.text, "192.0.2.1, which is no address of this host"));
    assert_int_equal(ack_socket_open("2001:db8::1", NULL, &socket, &err), -EINVAL);
    assert_non_null(strstr(err.text, "2001:db8::1, which is no address of this host"));
    assert_int_equal(ack_socket_open("0.0.0.0", NULL, &socket, &err), -EINVAL);
    assert_int_equal(ack_socket_open("127.255.255.255", NULL, &socket, &err), -EINVAL);
    assert_non_null(strstr(err.text, "127.255.255.255, which is for all hosts of a network"));
    assert_int_equal(socket.fd, -7);
    assert_int_equal(socket.port, 7);
}

static void socket_close_takes_null_and_a_closed_one(void **state)
{
    struct ack_socket socket = {.fd = -1};

    (void)state;
    ack_socket_close(NULL);
    ack_socket_close(&socket);
    assert_int_equal(ack_socket_open("127.0.0.1", NULL, &socket, NULL), 0);
    int fd = socket.fd;
    ack_socket_close(&socket);
    assert_int_equal(socket.fd, -1);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
}

static void receive_when_nothing_came_returns_at_once(void **state)
{
    struct pair *pair = *state;
    struct ack_wait wait = {.mailbox = "a"};

    struct ack_wait *waits[] = {&wait};
    ack_receive(&pair->host, waits, 1, 5, &pair->ignored);
    assert_int_equal(wait.state, ACK_WAITING);
    assert_int_equal(pair->ignored, 0);
}

static void receive_when_applied_answers_the_wait_of_that_mailbox_only(void **state)
{
    struct pair *pair = *state;
    struct ack_wait waits[] = {{.mailbox = "foo"}, {.mailbox = "foobar"}};

    say(pair, " stage=applied mailbox=foobar reason=none\n");
    receive(pair, waits, 2, 33.5);
    assert_int_equal(waits[0].state, ACK_WAITING);
    assert_int_equal(waits[1].state, ACK_OK);
    assert_true(waits[1].ms > 33.4 && waits[1].ms < 33.6);
    assert_string_equal(waits[1].text, "stage=applied mailbox=foobar reason=none");
    assert_string_equal(waits[1].reason, "");
    assert_int_equal(pair->ignored, 0);
}

static void receive_when_failed_refuses_with_the_reason(void **state)
{
    struct pair *pair = *state;
    struct ack_wait wait = {.mailbox = "a"};

    say(pair, "stage=failed mailbox=a reason=disk-full");
    receive(pair, &wait, 1, 1);
    assert_int_equal(wait.state, ACK_REFUSED);
    assert_string_equal(wait.reason, "disk-full");
    assert_string_equal(wait.text, "stage=failed mailbox=a reason=disk-full");
}

static void receive_when_failed_without_a_reason_leaves_it_empty(void **state)
{
    struct pair *pair = *state;
    struct ack_wait wait = {.mailbox = "a"};

    strcpy(wait.reason, "before");
    say(pair, "stage=failed mailbox=a");
    receive(pair, &wait, 1, 1);
    assert_int_equal(wait.state, ACK_REFUSED);
    assert_string_equal(wait.reason, "");
}

static void receive_when_it_is_progress_goes_on_waiting(void **state)
{
    struct pair *pair = *state;
    struct ack_wait wait = {.mailbox = "a"};

    say(pair, "stage=signal_seen mailbox=a");
    say(pair, "stage=mailbox_seen mailbox=a");
    receive(pair, &wait, 1, 1);
    assert_int_equal(wait.state, ACK_WAITING);
    assert_string_equal(wait.text, "stage=mailbox_seen mailbox=a");
    assert_int_equal(pair->ignored, 0);
}

static void receive_when_several_came_the_first_ack_of_a_mailbox_wins(void **state)
{
    struct pair *pair = *state;
    struct ack_wait waits[] = {{.mailbox = "a"}, {.mailbox = "b"}};

    say(pair, "stage=applied mailbox=a n=1");
    say(pair, "stage=failed mailbox=a n=2");
    say(pair, "stage=applied mailbox=b n=3");
    receive(pair, waits, 2, 1);
    say(pair, "stage=applied mailbox=a n=4");
    receive(pair, waits, 2, 2);
    assert_int_equal(waits[0].state, ACK_OK);
    assert_string_equal(waits[0].text, "stage=applied mailbox=a n=1");
    assert_true(waits[0].ms < 1.5);
    assert_int_equal(waits[1].state, ACK_OK);
    assert_int_equal(pair->ignored, 0);
}

static void receive_when_a_datagram_is_invalid_or_for_nobody_counts_it(void **state)
{
    struct pair *pair = *state;
    struct ack_wait wait = {.mailbox = "foo"};
    char longer[ACK_DATAGRAM_MAX + 2];

    memset(longer, ' ', sizeof longer);
    memcpy(longer, "stage=applied mailbox=foo", 25);
    longer[ACK_DATAGRAM_MAX + 1] = 0;
    say(pair, "");
    say(pair, "free text with stage=applied mailbox=foo in it");
    say(pair, "stage=applied mailbox=foobar");
    say(pair, "stage=applied mailbox=fo");
    say(pair, "stage=applied mailbox=FOO");
    say(pair, "stage=applied mac=02:00:00:00:00:01 ip=10.0.0.7");
    say(pair, longer);
    receive(pair, &wait, 1, 1);
    assert_int_equal(wait.state, ACK_WAITING);
    assert_int_equal(pair->ignored, 7);
    longer[ACK_DATAGRAM_MAX] = 0;
    say(pair, longer);
    receive(pair, &wait, 1, 1);
    assert_int_equal(wait.state, ACK_OK);
    assert_string_equal(wait.text, "stage=applied mailbox=foo");
}

#define KEY "00112233445566778899aabbccddeeff"

static void receive_when_the_wait_has_a_key_takes_only_what_has_it(void **state)
{
    static const char *const forged[] = {
        "stage=applied mailbox=a",
        "stage=failed mailbox=a reason=x",
        "stage=applied mailbox=a key=",
        "stage=applied mailbox=a key=00112233445566778899aabbccddeefe",
        "stage=applied mailbox=a key=00112233445566778899AABBCCDDEEFF",
        "stage=applied mailbox=a keys=" KEY,
        "stage=applied mailbox=a reason=" KEY,
        "stage=applied mailbox=a key=" KEY "0",
        "stage=applied mailbox=b key=" KEY,
        "stage=signal_seen mailbox=a key=x",
    };
    struct pair *pair = *state;
    struct ack_wait wait = {.mailbox = "a", .key = KEY};

    for (size_t i = 0; i < array_length(forged); i++)
        say(pair, forged[i]);
    receive(pair, &wait, 1, 1);
    assert_int_equal(wait.state, ACK_WAITING);
    assert_string_equal(wait.text, "");
    assert_int_equal(pair->ignored, array_length(forged));
    say(pair, "stage=applied mailbox=a key=" KEY " n=1");
    receive(pair, &wait, 1, 1);
    assert_int_equal(wait.state, ACK_OK);
    assert_string_equal(wait.text, "stage=applied mailbox=a n=1");
}

static void receive_when_it_has_a_key_keeps_it_out_of_the_text(void **state)
{
    static const struct {
        const char *datagram, *text;
    } cases[] = {
        {"key=" KEY "  stage=applied mailbox=a", "stage=applied mailbox=a"},
        {"stage=applied key=" KEY " mailbox=a", "stage=applied mailbox=a"},
        {"stage=applied mailbox=a KEY=" KEY, "stage=applied mailbox=a"},
        {"stage=applied\nmailbox=a\tx=1\v\r\ny=2", "stage=applied mailbox=a x=1   y=2"},
    };
    struct pair *pair = *state;

    for (size_t i = 0; i < array_length(cases); i++) {
        struct ack_wait wait = {.mailbox = "a"};
        say(pair, cases[i].datagram);
        receive(pair, &wait, 1, 1);
        assert_int_equal(wait.state, ACK_OK);
        assert_string_equal(wait.text, cases[i].text);
    }
}

static void receive_when_it_is_the_networks_wants_its_addresses(void **state)
{
    static const char *const others[] = {
        "stage=applied",
        "stage=applied mac=02:00:00:00:00:0a",
        "stage=applied ip=10.0.0.7",
        "stage=applied mac=02:00:00:00:00:0b ip=10.0.0.7",
        "stage=applied mac=02:00:00:00:00:0a ip=10.0.0.70",
        "stage=applied mac=02:00:00:00:00:0a ip=10.0.0.7 mailbox=a",
    };
    struct pair *pair = *state;
    struct ack_wait waits[] = {{.mac = "02:00:00:00:00:0a", .ip = "10.0.0.7"}, {.mailbox = "b"}};

    for (size_t i = 0; i < array_length(others); i++)
        say(pair, others[i]);
    receive(pair, waits, 2, 1);
    assert_int_equal(waits[0].state, ACK_WAITING);
    assert_int_equal(pair->ignored, array_length(others));
    say(pair, "stage=applied mac=02:00:00:00:00:0A ip=10.0.0.7");
    receive(pair, waits, 2, 1);
    assert_int_equal(waits[0].state, ACK_OK);
    assert_int_equal(waits[1].state, ACK_WAITING);
}

/* As many as a full buffer, each wrong in another way, and then the right one. */
static void receive_when_flooded_still_finds_the_right_one(void **state)
{
    enum { FLOOD = 100000, ROUND = 200 };
    struct pair *pair = *state;
    struct ack_wait wait = {.mailbox = "a", .key = KEY};
    char text[ACK_DATAGRAM_MAX];

    for (unsigned i = 0; i < FLOOD; i++) {
        snprintf(text, sizeof text, "stage=applied mailbox=a key=%032x", i);
        say(pair, text);
        if (i % ROUND == 0)
            receive(pair, &wait, 1, 1);
    }
    say(pair, "stage=applied mailbox=a key=" KEY);
    while (wait.state == ACK_WAITING)
        receive(pair, &wait, 1, 1);
    assert_int_equal(wait.state, ACK_OK);
    assert_int_equal(pair->ignored, FLOOD);
}

static void socket_when_its_port_was_used_lately_gets_another(void **state)
{
    enum { SOCKETS = 64 };
    struct ack_ports *ports;
    struct ack_socket socket;
    bool used[UINT16_MAX + 1] = {false};

    (void)state;
    assert_int_equal(ack_ports_create(&ports, NULL), 0);
    for (int i = 0; i < SOCKETS; i++) {
        assert_int_equal(ack_socket_open("127.0.0.1", ports, &socket, NULL), 0);
        assert_false(used[socket.port]);
        used[socket.port] = true;
        ack_socket_close(&socket);
    }
    ack_ports_destroy(ports);
    ack_ports_destroy(NULL);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parse_when_well_formed_gives_stage_and_fields),
        cmocka_unit_test(parse_when_not_well_formed_refuses_and_leaves_the_result),
        cmocka_unit_test(parse_when_there_is_white_space_around_keeps_the_text_without_it),
        cmocka_unit_test(parse_when_over_1024_bytes_refuses),
        cmocka_unit_test(address_check_takes_one_hosts_in_numbers),
        TEST(socket_when_opened_is_cloexec_non_blocking_and_bound),
        cmocka_unit_test(socket_when_the_address_is_wrong_or_not_ours_fails),
        cmocka_unit_test(socket_close_takes_null_and_a_closed_one),
        TEST(receive_when_nothing_came_returns_at_once),
        TEST(receive_when_applied_answers_the_wait_of_that_mailbox_only),
        TEST(receive_when_failed_refuses_with_the_reason),
        TEST(receive_when_failed_without_a_reason_leaves_it_empty),
        TEST(receive_when_it_is_progress_goes_on_waiting),
        TEST(receive_when_several_came_the_first_ack_of_a_mailbox_wins),
        TEST(receive_when_a_datagram_is_invalid_or_for_nobody_counts_it),
        TEST(receive_when_the_wait_has_a_key_takes_only_what_has_it),
        TEST(receive_when_it_has_a_key_keeps_it_out_of_the_text),
        TEST(receive_when_it_is_the_networks_wants_its_addresses),
        TEST(receive_when_flooded_still_finds_the_right_one),
        cmocka_unit_test(socket_when_its_port_was_used_lately_gets_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
