/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fork/request.h"
#include "test.h"
#include "util/cleanup.h"

#define ADDRESSES "\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:0A\",\"ipv4\":\"10.0.0.7\""

static int parse(const char *text, bool require_token, struct fork_network *ret, struct error *err)
{
    const struct fork_rules rules = {.require_token = require_token};
    return fork_parse_network(text, strlen(text), &rules, ret, err);
}

static void network_when_complete_becomes_a_payload(void **state)
{
    static const struct {
        const char *text, *payload;
    } cases[] = {
        {"{" ADDRESSES ",\"prefix\":24,\"gateway\":\"10.0.0.1\"}",
         "{" ADDRESSES ",\"prefix\":24,\"gateway\":\"10.0.0.1\"}"},
        {" { \"prefix\" : 0 ,\n" ADDRESSES "}\n", "{" ADDRESSES ",\"prefix\":0}"},
        {"{" ADDRESSES ",\"prefix\":32,\"gateway\":null,\"token\":\"t0k3n\"}",
         "{" ADDRESSES ",\"prefix\":32}"},
        /* the gateway need not be in the same network */
        {"{" ADDRESSES ",\"prefix\":31,\"gateway\":\"223.255.255.255\"}",
         "{" ADDRESSES ",\"prefix\":31,\"gateway\":\"223.255.255.255\"}"},
    };
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        struct fork_network network = {0};
        struct error err = {0};
        if (parse(cases[i].text, false, &network, &err) < 0)
            fail_msg("%s: %s", cases[i].text, err.text);
        assert_true(network.staged);
        assert_string_equal(network.mac, "02:00:00:00:00:0A");
        assert_string_equal(network.ipv4, "10.0.0.7");
        assert_int_equal(network.mailbox.payload_size, strlen(cases[i].payload));
        assert_memory_equal(network.mailbox.payload, cases[i].payload, strlen(cases[i].payload));
        free(network.mailbox.payload);
    }
}

static void network_when_a_token_is_given_has_it(void **state)
{
    struct fork_network network = {0};
    (void)state;
    assert_int_equal(
        parse("{" ADDRESSES ",\"prefix\":24,\"token_hex\":\"01FF\"}", true, &network, NULL), 0);
    assert_int_equal(network.mailbox.token_size, 2);
    assert_memory_equal(network.mailbox.token, "\x01\xFF", 2);
    free(network.mailbox.payload);
}

static void network_when_wrong_is_refused_by_the_members_name(void **state)
{
#define REST ",\"ipv4\":\"10.0.0.7\",\"prefix\":24}"
#define MAC(mac) "{\"interface_name\":\"eth0\",\"mac\":\"" mac "\"" REST
#define IPV4(ipv4, prefix, gateway)                                                                \
    "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:01\",\"ipv4\":\"" ipv4 "\","            \
    "\"prefix\":" prefix ",\"gateway\":" gateway "}"
#define NAME(name) "{\"interface_name\":\"" name "\",\"mac\":\"02:00:00:00:00:01\"" REST
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"{}", "interface_name"},
        {"[]", "line 1"},
        {"{" ADDRESSES "}", "prefix"},
        {"{" ADDRESSES ",\"prefix\":33}", "prefix"},
        {"{" ADDRESSES ",\"prefix\":-1}", "prefix"},
        {"{" ADDRESSES ",\"prefix\":24.5}", "prefix"},
        {"{" ADDRESSES ",\"prefix\":\"24\"}", "prefix"},
        {"{" ADDRESSES ",\"prefix\":24,\"gateway\":\"10.0.0\"}", "gateway"},
        {"{" ADDRESSES ",\"prefix\":24,\"gateway\":\"\"}", "gateway"},
        {"{" ADDRESSES ",\"prefix\":24,\"payload\":{}}", "payload"},
        {"{" ADDRESSES ",\"prefix\":24,\"ack_port\":1}", "ack_port"},
        {"{" ADDRESSES ",\"prefix\":24,\"mac\":\"02:00:00:00:00:01\"}", "mac"},
        {"{" ADDRESSES ",\"prefix\":24,\"token\":\"\"}", "token"},
        {"{" ADDRESSES ",\"prefix\":24,\"token\":\"1234567890123456789012345678901\"}", "1 to 30"},
        {"{" ADDRESSES ",\"prefix\":24,\"token\":\"a\",\"token_hex\":\"61\"}", "not both"},
        {"{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:01\",\"ipv4\":\"10.0.0.256\","
         "\"prefix\":24}",
         "ipv4"},
        {"{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:01\",\"ipv4\":\"0.0.0.0\","
         "\"prefix\":24}",
         "ipv4"},
        {IPV4("127.0.0.1", "24", "null"), "\"ipv4\" must be a host's IPv4"},
        {IPV4("224.0.0.1", "24", "null"), "\"ipv4\" must be a host's IPv4"},
        {IPV4("255.255.255.255", "24", "null"), "\"ipv4\" must be a host's IPv4"},
        {IPV4("10.0.0.0", "8", "null"), "with that \"prefix\""},
        {IPV4("10.0.0.255", "24", "null"), "with that \"prefix\""},
        {IPV4("10.0.0.7", "29", "null"), "with that \"prefix\""},
        {IPV4("10.0.0.8", "30", "null"), "with that \"prefix\""},
        {IPV4("10.0.0.7", "24", "\"10.0.0.7\""), "\"gateway\" must be another host"},
        {IPV4("10.0.0.7", "24", "\"0.0.0.0\""), "\"gateway\" must be a host's"},
        {IPV4("10.0.0.7", "24", "\"10.0.0.0\""), "a network's own or its broadcast address"},
        {IPV4("10.0.0.7", "24", "\"10.0.0.255\""), "a network's own or its broadcast address"},
        {IPV4("10.0.0.7", "24", "\"127.0.0.1\""), "\"gateway\" must be a host's"},
        {IPV4("10.0.0.7", "24", "\"224.0.0.1\""), "\"gateway\" must be a host's"},
        {MAC(""), "mac"},
        {MAC("02:00:00:00:00"), "mac"},
        {MAC("02:00:00:00:00:1"), "mac"},
        {MAC("02:00:00:00:00:001"), "mac"},
        {MAC("02-00-00-00-00-01"), "mac"},
        {MAC("0x:00:00:00:00:01"), "mac"},
        {MAC("03:00:00:00:00:01"), "mac"},
        {MAC("00:00:00:00:00:00"), "mac"},
        {MAC("02:00:00:00:0:001"), "mac"},
        {NAME(""), "interface_name"},
        {NAME("."), "interface_name"},
        {NAME("eth 0"), "interface_name"},
        {NAME("eth/0"), "interface_name"},
        {NAME("sixteen-letters-"), "interface_name"},
    };
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        struct fork_network network = {.mac = "before"};
        struct error err = {0};
        int r = parse(cases[i].text, false, &network, &err);
        if (r != -EINVAL || !strstr(err.text, cases[i].why))
            fail_msg("%s: %d, %s", cases[i].text, r, err.text);
        assert_string_equal(network.mac, "before");
        assert_int_equal(parse(cases[i].text, false, NULL, NULL), r);
    }
}

static void network_when_the_mount_wants_tokens_must_have_one(void **state)
{
    struct error err = {0};
    (void)state;
    assert_int_equal(parse("{" ADDRESSES ",\"prefix\":24}", true, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.text, "token"));
    assert_int_equal(parse("{" ADDRESSES ",\"prefix\":24,\"token\":\"t\"}", true, NULL, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(network_when_complete_becomes_a_payload),
        cmocka_unit_test(network_when_a_token_is_given_has_it),
        cmocka_unit_test(network_when_wrong_is_refused_by_the_members_name),
        cmocka_unit_test(network_when_the_mount_wants_tokens_must_have_one),
    };
    return cmocka_run_group_tests_name("request_network", tests, NULL, NULL);
}
