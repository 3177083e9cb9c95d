/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "frames.h"
#include "fork/request.h"
#include "test.h"
#include "util/cleanup.h"

static int parse_sized(const char *text, size_t size, bool require_token, struct fork_mailbox *ret,
                       struct error *err)
{
    struct json_check check;
    if (json_check(text, size, &check) != JSON_COMPLETE)
        fail_msg("not complete: %.*s: %s", (int)size, text, check.why);
    const struct fork_rules rules = {.require_token = require_token};
    return fork_parse_mailbox(text, check.object, &rules, ret, err);
}

static int parse(const char *text, struct fork_mailbox *ret, struct error *err)
{
    return parse_sized(text, strlen(text), false, ret, err);
}

static struct fork_mailbox parsed(const char *text)
{
    struct fork_mailbox mailbox = {.name = "the.name"};
    struct error err = {0};
    if (parse(text, &mailbox, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    assert_string_equal(mailbox.name, "the.name");
    return mailbox;
}

static void assert_payload(struct fork_mailbox mailbox, const char *wanted)
{
    auto_free char *payload = mailbox.payload;
    assert_int_equal(mailbox.payload_size, strlen(wanted));
    assert_memory_equal(payload, wanted, strlen(wanted));
}

static void payload_when_it_stands_alone_is_taken_byte_for_byte(void **state)
{
    static const char *const payloads[] = {
        "{}",
        "{ }",
        "{\n\t \"a\" : 1 ,\r\n \"b\":[ ] }",
        "{\"n\":12345678901234567890,\"f\":1.10,\"e\":1e400,\"m\":-0.0,\"z\":0.00000000001}",
        "{\"a\":1,\"a\":2,\"A\":3}",
        "{\"u\":\"\\u0000\\ud800 \\/ \xC3\xA4 \xF0\x9F\x98\x80\"}",
        "{\"inner\":{\"payload\":{},\"token\":\"x\",\"ack_port\":7}}",
        "{\"Payload\":1,\"TOKEN\":2,\"ack_ports\":3}",
        "{\"}\":\"{\",\"\\\"\":[{}]}",
    };
    (void)state;
    for (size_t i = 0; i < array_length(payloads); i++) {
        auto_free char *spaced = NULL;
        assert_payload(parsed(payloads[i]), payloads[i]);
        assert_true(asprintf(&spaced, " \t\r\n%s\n\n ", payloads[i]) > 0);
        struct fork_mailbox mailbox = parsed(spaced);
        assert_true(!mailbox.wait_for_ack && mailbox.token_size == 0);
        assert_payload(mailbox, payloads[i]);
    }
}

static void payload_when_in_a_request_is_taken_byte_for_byte(void **state)
{
    static const char *const requests[] = {
        "{\"payload\":%s}",
        " { \"payload\" : %s } ",
        "{\"token\":\"t\",\"payload\":%s,\"wait_for_ack\":false}",
        "{\"pay\\u006Coad\":%s}",
        "{\"ack_timeout_ms\":\"not looked at\",\"payload\":\n%s\n}",
    };
    static const char *const payloads[] = {"{}", "{ \"n\": 12345678901234567890.10 }",
                                           "{\"payload\":{\"payload\":{}},\"ack\":0}",
                                           "{\"u\":\"\\u0000\\ud800\"}", "{\"token\":1}"};
    (void)state;
    for (size_t i = 0; i < array_length(requests); i++)
        for (size_t k = 0; k < array_length(payloads); k++) {
            char text[512];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            snprintf(text, sizeof text, requests[i], payloads[k]);
#pragma GCC diagnostic pop
            assert_payload(parsed(text), payloads[k]);
        }
}

struct refusal {
    const char *text;
    int code;
    const char *why;
};

/* What stands for a secret in the texts below; an error must never quote it. */
#define SECRET "s3cr3t-v4lu3"

static void check_refusals(const struct refusal *refusals, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct fork_mailbox mailbox, untouched;
        struct error err = {0};
        memset(&mailbox, 0x5A, sizeof mailbox);
        untouched = mailbox;
        int r = parse(refusals[i].text, &mailbox, &err);
        if (r != -refusals[i].code || !strstr(err.text, refusals[i].why))
            fail_msg("%s: %d, %s", refusals[i].text, r, err.text);
        assert_int_equal(err.code, refusals[i].code);
        assert_memory_equal(&mailbox, &untouched, sizeof mailbox);
        assert_null(strstr(err.text, SECRET));
        assert_int_equal(parse(refusals[i].text, NULL, NULL), r);
    }
}

static void request_when_its_payload_is_missing_or_no_object_is_refused(void **state)
{
    static const struct refusal refusals[] = {
        {"{\"token\":\"" SECRET "\"}", EINVAL, "\"token\" is given without \"payload\""},
        {"{\"token_hex\":\"00\"}", EINVAL, "\"token_hex\" is given without \"payload\""},
        {"{\"wait_for_ack\":true,\"x\":1}", EINVAL, "\"wait_for_ack\" is given without"},
        {"{\"ack\":\"udp\"}", EINVAL, "\"ack\" is given without \"payload\""},
        {"{\"ack_timeout_ms\":1}", EINVAL, "\"ack_timeout_ms\" is given without"},
        {"{\"\\u0061ck\":\"udp\"}", EINVAL, "\"ack\" is given without"},
        {"{\"payload\":null}", EINVAL, "\"payload\" must be an object"},
        {"{\"payload\":[]}", EINVAL, "\"payload\" must be an object"},
        {"{\"payload\":\"{\\\"a\\\":\\\"" SECRET "\\\"}\"}", EINVAL, "\"payload\" must be an"},
        {"{\"payload\":1}", EINVAL, "\"payload\" must be an object"},
        {"{\"payload\":true}", EINVAL, "\"payload\" must be an object"},
    };
    (void)state;
    check_refusals(refusals, array_length(refusals));
}

static void request_when_it_has_strange_members_is_refused(void **state)
{
    static const struct refusal refusals[] = {
        {"{\"payload\":{},\"wait_for_acks\":true}", EINVAL, "unknown member \"wait_for_acks\""},
        {"{\"payload\":{},\"Token\":\"" SECRET "\"}", EINVAL, "unknown member \"Token\""},
        {"{\"payload\":{},\"\":1}", EINVAL, "unknown member \"\""},
        {"{\"payload\":{},\"payload\":{}}", EINVAL, "\"payload\" is given twice"},
        {"{\"payload\":{},\"p\\u0061yload\":{}}", EINVAL, "\"payload\" is given twice"},
        {"{\"payload\":{},\"token\":\"a\",\"token\":\"a\"}", EINVAL, "\"token\" is given twice"},
        {"{\"payload\":{},\"wait_for_ack\":true,\"wait_for_ack\":true}", EINVAL, "given twice"},
        {"{\"payload\":{},\"wait_for_ack\":1}", EINVAL, "\"wait_for_ack\" must be true or false"},
        {"{\"payload\":{},\"wait_for_ack\":null}", EINVAL, "\"wait_for_ack\" must be"},
        {"{\"payload\":{},\"wait_for_ack\":\"true\"}", EINVAL, "\"wait_for_ack\" must be"},
        {"{\"payload\":{},\"ack\":\"tcp\"}", EINVAL,
         "\"ack\" must be one of \"memory\", \"udp\", \"keyed\""},
        {"{\"payload\":{},\"ack\":null}", EINVAL, "\"ack\" must be one of"},
    };
    (void)state;
    check_refusals(refusals, array_length(refusals));
}

/* "ack_timeout_ms": TEXT, with that "ack" or (NULL) none. */
static const char *timeout_request(char text[256], const char *ack, const char *value)
{
    snprintf(text, 256, "{\"payload\":{},\"wait_for_ack\":true,%s%s%s\"ack_timeout_ms\":%s}",
             ack ? "\"ack\":\"" : "", ack ? ack : "", ack ? "\"," : "", value);
    return text;
}

static void timeout_when_not_a_whole_number_in_its_range_is_refused(void **state)
{
    static const char *const bad[] = {"-1",   "-0.5", "86400001", "1.5",   "\"5\"",      "null",
                                      "true", "[]",   "{}",       "1e400", "29999.9999", "-1e-9"};
    static const char *const late[] = {"30001", "1e5", "86400000"};
    static const char *const by_datagram[] = {"udp", "keyed"};
    static const struct {
        const char *text;
        int ms;
    } good[] = {{"0", 5000}, {"-0", 5000},     {"0.0", 5000},  {"1", 1},
                {"1.0", 1},  {"30000", 30000}, {"3e4", 30000}, {"2500", 2500}};
    char text[256];
    (void)state;
    for (size_t i = 0; i < array_length(bad); i++) {
        const struct refusal refusal = {
            timeout_request(text, NULL, bad[i]), EINVAL,
            "\"ack_timeout_ms\" must be a whole number from 0 to 86400000"};
        check_refusals(&refusal, 1);
        snprintf(text, sizeof text, "{\"payload\":{},\"ack_timeout_ms\":%s}", bad[i]);
        assert_payload(parsed(text), "{}"); /* not looked at */
    }
    for (size_t i = 0; i < array_length(late); i++) {
        struct fork_mailbox mailbox = parsed(timeout_request(text, "memory", late[i]));
        assert_true(mailbox.ack_timeout_ms > 30000);
        assert_payload(mailbox, "{}");
        for (size_t k = 0; k < array_length(by_datagram); k++) {
            const struct refusal refusal = {timeout_request(text, by_datagram[k], late[i]), EINVAL,
                                            k == 0 ? "from 0 to 30000 where \"ack\" is \"udp\""
                                                   : "from 0 to 30000 where \"ack\" is \"keyed\""};
            check_refusals(&refusal, 1);
        }
    }
    for (size_t i = 0; i < array_length(good); i++) {
        struct fork_mailbox mailbox = parsed(timeout_request(text, "udp", good[i].text));
        assert_int_equal(mailbox.ack_timeout_ms, good[i].ms);
        assert_payload(mailbox, "{}");
    }
}

static void ack_when_not_given_is_the_mounts(void **state)
{
    static const char text[] = "{\"payload\":{},\"wait_for_ack\":true}";
    struct json_check check;
    (void)state;
    assert_int_equal(json_check(text, strlen(text), &check), JSON_COMPLETE);
    for (enum fork_ack ack = 0; fork_ack_words[ack]; ack++) {
        const struct fork_rules mount = {.ack = ack};
        struct fork_mailbox mailbox = {0};
        assert_int_equal(fork_parse_mailbox(text, check.object, &mount, &mailbox, NULL), 0);
        assert_int_equal(mailbox.how, ack);
        assert_int_equal(mailbox.ack_timeout_ms, 5000);
        assert_payload(mailbox, "{}");
    }
    struct fork_mailbox mailbox = parsed(text);
    assert_int_equal(mailbox.how, FORK_ACK_MEMORY);
    assert_payload(mailbox, "{}");
    mailbox = parsed("{\"payload\":{},\"wait_for_ack\":true,\"ack\":\"udp\"}");
    assert_int_equal(mailbox.how, FORK_ACK_UDP);
    assert_payload(mailbox, "{}");
}

static void token_when_given_is_taken_as_bytes(void **state)
{
    static const struct {
        const char *members;
        const char *bytes;
        size_t size;
    } cases[] = {{"\"token\":\"t\"", "t", 1},
                 {"\"token\":\" a b \"", " a b ", 5},
                 {"\"token\":\"\\u00e4\\n\"", "\xC3\xA4\n", 3},
                 {"\"token_hex\":\"00fF10\"", NULL, 0},
                 {"\"token_hex\":\"ffFE10\"", "\xFF\xFE\x10", 3},
                 {"\"token_hex\":\"41\"", "A", 1}};
    char text[1024];
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        snprintf(text, sizeof text, "{\"payload\":{},%s}", cases[i].members);
        if (!cases[i].bytes) {
            const struct refusal refusal = {text, EINVAL, "\"token_hex\" must be 1 to 128 bytes"};
            check_refusals(&refusal, 1);
            continue;
        }
        struct fork_mailbox mailbox = parsed(text);
        assert_int_equal(mailbox.token_size, cases[i].size);
        assert_memory_equal(mailbox.token, cases[i].bytes, cases[i].size);
        assert_payload(mailbox, "{}");
    }
}

static void token_when_it_cannot_be_one_is_refused(void **state)
{
    static const struct refusal refusals[] = {
        {"{\"payload\":{},\"token\":\"\"}", EINVAL, "\"token\" must be 1 to 128 bytes"},
        {"{\"payload\":{},\"token\":\" \\t\\n\"}", EINVAL, "not all white space"},
        {"{\"payload\":{},\"token\":\"" SECRET "\\u0000\"}", EINVAL, "\\u0000 is not allowed"},
        {"{\"payload\":{},\"token\":null}", EINVAL, "\"token\" must be a string"},
        {"{\"payload\":{},\"token\":1}", EINVAL, "\"token\" must be a string"},
        {"{\"payload\":{},\"token\":\"a\",\"token_hex\":\"61\"}", EINVAL, "not both"},
        {"{\"payload\":{},\"token_hex\":\"\"}", EINVAL, "\"token_hex\" must be 1 to 128 bytes"},
        {"{\"payload\":{},\"token_hex\":\"6\"}", EINVAL, "in hex digits"},
        {"{\"payload\":{},\"token_hex\":\"6g\"}", EINVAL, "in hex digits"},
        {"{\"payload\":{},\"token_hex\":\" 61\"}", EINVAL, "in hex digits"},
        {"{\"payload\":{},\"token_hex\":\"2009\"}", EINVAL, "not all white space"},
    };
    char token[2 * FRAME_TOKEN_MAX + 3], text[512];
    (void)state;
    check_refusals(refusals, array_length(refusals));
    for (size_t size = FRAME_TOKEN_MAX; size <= FRAME_TOKEN_MAX + 1; size++) {
        bool fits = size == FRAME_TOKEN_MAX;
        memset(token, 'a', sizeof token);
        token[size] = 0;
        snprintf(text, sizeof text, "{\"payload\":{},\"token\":\"%s\"}", token);
        struct fork_mailbox mailbox = {0};
        assert_int_equal(parse(text, &mailbox, NULL), fits ? 0 : -EINVAL);
        free(mailbox.payload);
        memset(token, 'a', sizeof token);
        token[2 * size] = 0;
        snprintf(text, sizeof text, "{\"payload\":{},\"token_hex\":\"%s\"}", token);
        mailbox = (struct fork_mailbox){0};
        assert_int_equal(parse(text, &mailbox, NULL), fits ? 0 : -EINVAL);
        free(mailbox.payload);
    }
}

static void token_when_the_mount_wants_one_must_be_given(void **state)
{
    static const struct {
        const char *text;
        int code;
    } cases[] = {{"{}", EINVAL},
                 {"{\"payload\":{}}", EINVAL},
                 {"{\"payload\":{},\"token\":\"t\"}", 0},
                 {"{\"payload\":{},\"token_hex\":\"41\"}", 0}};
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        struct error err = {0};
        assert_int_equal(parse_sized(cases[i].text, strlen(cases[i].text), true, NULL, &err),
                         -cases[i].code);
        if (cases[i].code)
            assert_non_null(strstr(err.text, "this mount requires tokens"));
    }
}

static void payload_when_larger_than_the_mailbox_is_refused(void **state)
{
    static const struct {
        const char *format;
        size_t size;
        int code;
    } cases[] = {{"  %s\n", 3832, 0},
                 {"%s", 3833, EFBIG},
                 {"{\"payload\": %s }", 3832, 0},
                 {"{\"payload\":%s}", 3833, EFBIG},
                 {"{\"payload\":%s,\"wait_for_ack\":false}", 3832, 0},
                 {"{\"payload\":%s,\"wait_for_ack\":true,\"ack\":\"udp\"}", 3815, 0},
                 {"{\"payload\":%s,\"wait_for_ack\":true,\"ack\":\"udp\"}", 3816, EFBIG},
                 {"{\"payload\":%s,\"wait_for_ack\":true,\"ack\":\"udp\"}", 3832, EFBIG},
                 {"{\"payload\":%s,\"wait_for_ack\":true}", 3832, 0},
                 {"{\"payload\":%s,\"wait_for_ack\":true,\"ack\":\"memory\"}", 3832, 0}};
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        auto_free char *payload = frames_payload(cases[i].size), *text = NULL;
        struct fork_mailbox mailbox = {0};
        struct error err = {0};
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        assert_true(asprintf(&text, cases[i].format, payload) > 0);
#pragma GCC diagnostic pop
        assert_int_equal(parse(text, &mailbox, &err), -cases[i].code);
        if (cases[i].code == 0) {
            assert_payload(mailbox, payload);
            continue;
        }
        char bytes[32];
        snprintf(bytes, sizeof bytes, "%zu bytes", cases[i].size);
        assert_non_null(strstr(err.text, bytes));
        assert_non_null(strstr(err.text, "3832"));
        assert_null(strstr(err.text, "aaa"));
    }
}

static void members_when_appended_stand_last(void **state)
{
    static const struct {
        const char *payload, *delivered;
    } cases[] = {
        {"{}", "{\"ack_port\":7}"},
        {"{ \n\t\r }", "{ \n\t\r \"ack_port\":7}"},
        {"{\"a\":1}", "{\"a\":1,\"ack_port\":7}"},
        {"{\"a\":{} }", "{\"a\":{} ,\"ack_port\":7}"},
        {"{\"a\":\"}\"\n}", "{\"a\":\"}\"\n,\"ack_port\":7}"},
        {"{\"inner\":{\"ack_port\":5}}", "{\"inner\":{\"ack_port\":5},\"ack_port\":7}"},
    };
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        auto_free char *text = NULL;
        struct error err = {0};
        assert_true(asprintf(&text, "{\"payload\":%s,\"wait_for_ack\":true,\"ack\":\"udp\"}",
                             cases[i].payload) > 0);
        struct fork_mailbox mailbox = parsed(text);
        assert_int_equal(fork_append(&mailbox, "\"ack_port\":7", &err), 0);
        assert_payload(mailbox, cases[i].delivered);
    }
}

static void port_when_the_payload_is_as_large_as_allowed_fits(void **state)
{
    static const struct {
        size_t size;
        const char *how, *members;
        enum fork_ack ack;
    } cases[] = {
        {3815, "udp", "\"ack_port\":65535", FORK_ACK_UDP},
        {3770, "keyed", "\"ack_port\":65535,\"ack_key\":\"00112233445566778899aabbccddeeff\"",
         FORK_ACK_KEYED},
    };
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        auto_free char *payload = frames_payload(cases[i].size), *text = NULL;
        struct json_check check;
        assert_true(asprintf(&text, "{\"payload\":%s,\"wait_for_ack\":true,\"ack\":\"%s\"}",
                             payload, cases[i].how) > 0);
        struct fork_mailbox mailbox = parsed(text);
        assert_int_equal(mailbox.how, cases[i].ack);
        assert_int_equal(fork_append(&mailbox, cases[i].members, NULL), 0);
        assert_int_equal(mailbox.payload_size, FRAME_CAPACITY);
        assert_int_equal(json_check(mailbox.payload, mailbox.payload_size, &check), JSON_COMPLETE);
        free(mailbox.payload);
    }
}

static void port_when_the_payload_has_one_already_is_refused(void **state)
{
    static const struct refusal refusals[] = {
        {"{\"payload\":{\"ack_port\":1},\"wait_for_ack\":true,\"ack\":\"udp\"}", EINVAL,
         "has a member \"ack_port\""},
        {"{\"payload\":{\"a\":\"" SECRET
         "\",\"ack\\u005fport\":1},\"ack\":\"udp\",\"wait_for_ack\":true}",
         EINVAL, "leave it out"},
        {"{\"payload\":{\"ack_key\":1},\"wait_for_ack\":true,\"ack\":\"keyed\"}", EINVAL,
         "has a member \"ack_key\""},
    };
    (void)state;
    check_refusals(refusals, array_length(refusals));
    assert_payload(parsed("{\"payload\":{\"ack_port\":1}}"), "{\"ack_port\":1}");
    assert_payload(parsed("{\"ack_port\":1}"), "{\"ack_port\":1}");
    assert_payload(parsed("{\"payload\":{\"ack_key\":1},\"wait_for_ack\":true,\"ack\":\"udp\"}"),
                   "{\"ack_key\":1}");
    assert_payload(parsed("{\"payload\":{\"ack_port\":1},\"wait_for_ack\":true}"),
                   "{\"ack_port\":1}");
    assert_payload(
        parsed("{\"payload\":{\"x\":{\"ack_port\":1}},\"ack\":\"udp\",\"wait_for_ack\":true}"),
        "{\"x\":{\"ack_port\":1}}");
}

static void request_when_finished_is_empty(void **state)
{
    struct fork_request request = {.count = 2, .id = "web-1"};
    (void)state;
    request.mailboxes[0] = parsed("{\"payload\":{\"a\":1},\"token\":\"t\"}");
    request.mailboxes[1] = (struct fork_mailbox){.name = "no.payload"};
    request.options.ack_address = strdup("::1");
    request.options_text = strdup("{}");
    fork_request_finish(&request);
    fork_request_finish(&request);
    assert_int_equal(request.count, 0);
    assert_true(!request.options_text && !request.options.ack_address);
    assert_true(!request.mailboxes[0].payload && request.mailboxes[0].token[0] == 0);
    assert_string_equal(request.id, "web-1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(payload_when_it_stands_alone_is_taken_byte_for_byte),
        cmocka_unit_test(payload_when_in_a_request_is_taken_byte_for_byte),
        cmocka_unit_test(request_when_its_payload_is_missing_or_no_object_is_refused),
        cmocka_unit_test(request_when_it_has_strange_members_is_refused),
        cmocka_unit_test(timeout_when_not_a_whole_number_in_its_range_is_refused),
        cmocka_unit_test(ack_when_not_given_is_the_mounts),
        cmocka_unit_test(token_when_given_is_taken_as_bytes),
        cmocka_unit_test(token_when_it_cannot_be_one_is_refused),
        cmocka_unit_test(token_when_the_mount_wants_one_must_be_given),
        cmocka_unit_test(payload_when_larger_than_the_mailbox_is_refused),
        cmocka_unit_test(members_when_appended_stand_last),
        cmocka_unit_test(port_when_the_payload_is_as_large_as_allowed_fits),
        cmocka_unit_test(port_when_the_payload_has_one_already_is_refused),
        cmocka_unit_test(request_when_finished_is_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
