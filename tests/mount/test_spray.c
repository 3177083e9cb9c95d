/* SPDX-License-Identifier: MIT */
/* Somebody on the host who sends to every port, in a network namespace of the program's own: the
 * other tests' sockets must not be hit. */
#include "fixture.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "taps.h"
#include "tiny_guest.h"
#include "util/cleanup.h"

static void spray(const char *text)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    for (int port = 1; port <= UINT16_MAX; port++) {
        to.sin_port = htons((uint16_t)port);
        sendto(fd, text, strlen(text), 0, (const struct sockaddr *)&to, sizeof to);
    }
}

static void stage(struct harness *h, const char *ack)
{
    assert_works(mkdir(harness_path(h, "snapshots/base/forks/f"), 0755));
    harness_put(harness_path(h, "snapshots/base/forks/f/mailboxes/m"),
                harness_format(h,
                               "{\"payload\":{},\"wait_for_ack\":true,\"ack\":\"%s\","
                               "\"ack_timeout_ms\":30000}",
                               ack));
}

static void keyed_ack_when_every_port_is_sprayed_is_the_guests(void **state)
{
    static const char member[] = "\"ack_key\":\"";
    struct harness *h = *state;
    stage(h, "keyed");
    struct harness_child commit = tiny_guest_commit(h, "f", "1");
    int port = tiny_guest_port(h, "m");
    char *text = assert_shell("bash", "cat $S/instances/.new-*/console.log", 0).out;
    char *key = strstr(text, member);
    assert_non_null(key);
    spray("stage=failed mailbox=m reason=forged");
    spray("stage=applied mailbox=m key=00000000000000000000000000000000 forged=yes");
    tiny_guest_send(
        port, harness_format(h, "stage=applied mailbox=m n=1 key=%.32s", key + strlen(member)));
    assert_int_equal(harness_finish(h, &commit).status, 0);
    char *result = harness_get(h, harness_path(h, "snapshots/base/forks/f/result"));
    assert_string_equal(harness_json(h, result, "mailboxes.0.ack_text"),
                        "stage=applied mailbox=m n=1");
}

/* The other way round: that the spray does reach the socket. */
static void plain_ack_when_every_port_is_sprayed_is_whoevers(void **state)
{
    struct harness *h = *state;
    stage(h, "udp");
    struct harness_child commit = tiny_guest_commit(h, "f", "1");
    tiny_guest_port(h, "m");
    spray("stage=failed mailbox=m reason=forged");
    assert_int_equal(harness_finish(h, &commit).status, 1);
    assert_file_contains(harness_path(h, "snapshots/base/forks/f/error"), "forged");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        guest_test(keyed_ack_when_every_port_is_sprayed_is_the_guests),
        guest_test(plain_ack_when_every_port_is_sprayed_is_whoevers),
    };
    harness_enter_with(taps_make);
    return tiny_guest_possible() ? cmocka_run_group_tests_name("spray", tests, NULL, NULL)
                                 : HARNESS_SKIPPED;
}
