/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "fork/request.h"
#include "test.h"
#include "util/cleanup.h"

static struct fork_options options_of(const char *text)
{
    struct fork_options options = {0};
    struct error err = {0};
    if (fork_parse_options(text, strlen(text), &options, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    return options;
}

static void options_when_not_given_are_the_defaults(void **state)
{
    const char *const texts[] = {"{}", fork_options_default};
    (void)state;
    for (size_t i = 0; i < array_length(texts); i++) {
        struct fork_options options = options_of(texts[i]);
        assert_true(options.wait_for_network && !options.standby && !options.keep);
        assert_null(options.ack_address);
        assert_false(options.keep_reply);
    }
    auto_json cJSON *json = cJSON_Parse(fork_options_default);
    assert_int_equal(cJSON_GetArraySize(json), 10);
    assert_true(fork_options_default[strlen(fork_options_default) - 1] == '\n');
}

static void options_when_given_are_taken(void **state)
{
    (void)state;
    struct fork_options options = options_of(
        "{\"wait_for_network\":false,\"on_ack_failure\":\"keep\",\"ack_address\":\"::1\","
        "\"target_state\":\"running\",\"tap\":null,\"identity\":false}");
    assert_true(!options.wait_for_network && options.keep);
    assert_string_equal(options.ack_address, "::1");
    free(options.ack_address);
    options = options_of("{\"taps\":{\"eth0\":\"t1\",\"eth1\":\"t2\"}}");
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(options.taps, "eth1")), "t2");
    assert_null(options.tap);
    cJSON_Delete(options.taps);
    assert_null(options.tap);
    options = options_of("{\"tap\":\"a-b.C_d01234567\"}");
    assert_string_equal(options.tap, "a-b.C_d01234567");
    free(options.tap);
    assert_true(options_of("{\"keep_reply\":true}").keep_reply);
    options = options_of("{\"ack_address\":\"10.0.0.1\",\"on_ack_failure\":\"destroy\"}");
    assert_false(options.keep);
    free(options.ack_address);
}

static void options_when_wrong_or_not_supported_are_refused(void **state)
{
    static const struct {
        const char *text;
        int code;
        const char *why;
    } refusals[] = {
        {"", EINVAL, "ends too early"},
        {"[]", EINVAL, "line 1"},
        {"{\"target\":\"running\"}", EINVAL, "unknown member \"target\""},
        {"{\"identity\":false,\"identity\":false}", EINVAL, "given twice"},
        {"{\"target_state\":\"paused\"}", EINVAL, "must be one of \"running\", \"standby\""},
        {"{\"on_ack_failure\":\"ignore\"}", EINVAL, "must be one of \"destroy\", \"keep\""},
        {"{\"on_ack_failure\":null}", EINVAL, "\"on_ack_failure\""},
        {"{\"wait_for_network\":0}", EINVAL, "\"wait_for_network\" must be true or false"},
        {"{\"identity\":1}", EINVAL, "\"identity\" must be true or false"},
        {"{\"tap\":\"\"}", EINVAL, "\"tap\" must be the name of the host's interface: 1 to 15"},
        {"{\"tap\":\"t0,script=x\"}", EINVAL, "\"tap\" must be the name"},
        {"{\"tap\":\"..\"}", EINVAL, "\"tap\" must be the name"},
        {"{\"taps\":{}}", EINVAL, "\"taps\" must name interfaces"},
        {"{\"taps\":{\"eth0\":\"\"}}", EINVAL, "taps: \"eth0\" must be the name"},
        {"{\"taps\":{\"eth0\":\"t1\",\"eth1\":7}}", EINVAL, "taps: \"eth1\" must be the name"},
        {"{\"taps\":[\"t1\"]}", EINVAL, "\"taps\" must be an object"},
        {"{\"taps\":{\"eth0\":\"t1\"},\"tap\":\"t1\"}", EINVAL, "not both"},
        {"{\"tap\":\"0123456789abcdef\"}", EINVAL, "\"tap\" must be the name"},
        {"{\"tap\":\"t0\",\"ack_address\":\"x\"}", EINVAL, "\"ack_address\""},
        {"{\"tap\":7}", EINVAL, "\"tap\" must be a string, or null"},
        {"{\"ack_address\":\"localhost\"}", EINVAL, "\"ack_address\" must be an IPv4 or IPv6"},
        {"{\"ack_address\":\"\"}", EINVAL, "\"ack_address\""},
        {"{\"ack_address\":\"10.0.0.1:5\"}", EINVAL, "\"ack_address\""},
        {"{\"ack_address\":\"10.0.0\"}", EINVAL, "\"ack_address\""},
        {"{\"ack_address\":1}", EINVAL, "\"ack_address\""},
        {"{\"ack_address\":\"0.0.0.0\"}", EINVAL, "\"ack_address\" must be the one address"},
        {"{\"ack_address\":\"224.0.0.1\"}", EINVAL, "\"ack_address\" must be the one address"},
    };
    (void)state;
    for (size_t i = 0; i < array_length(refusals); i++) {
        char untouched;
        struct fork_options options = {.ack_address = &untouched};
        struct error err = {0};
        const char *text = refusals[i].text;
        int r = fork_parse_options(text, strlen(text), &options, &err);
        if (r != -refusals[i].code || !strstr(err.text, refusals[i].why))
            fail_msg("%s: %d, %s", text, r, err.text);
        assert_ptr_equal(options.ack_address, &untouched);
        assert_int_equal(fork_parse_options(text, strlen(text), NULL, NULL), r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_when_not_given_are_the_defaults),
        cmocka_unit_test(options_when_given_are_taken),
        cmocka_unit_test(options_when_wrong_or_not_supported_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
