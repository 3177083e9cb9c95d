/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fork/internal.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"

/* A fork of "base" to "web-1" with two mailboxes; nothing was done yet. */
struct scene {
    struct snapshot snapshot;
    struct fork_source source;
    struct fork_request request;
    struct fork fork;
};

static int setup(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    if (!scene)
        return -1;
    *state = scene;
    memcpy(scene->snapshot.id, "base", 5);
    memcpy(scene->request.id, "web-1", 6);
    scene->request.options_text = strdup("{ \"identity\":false }\n");
    scene->request.count = 2;
    scene->request.mailboxes[0] = (struct fork_mailbox){.name = "box",
                                                        .payload = strdup("{\"s3cr3t\":1}"),
                                                        .payload_size = 12,
                                                        .token = "t0k3n",
                                                        .token_size = 5};
    scene->request.mailboxes[1] = (struct fork_mailbox){.name = "fox",
                                                        .payload = strdup("{}"),
                                                        .payload_size = 2,
                                                        .wait_for_ack = true,
                                                        .how = FORK_ACK_UDP,
                                                        .ack_timeout_ms = 5000};
    scene->source.snapshot = &scene->snapshot;
    scene->fork = (struct fork){.source = &scene->source,
                                .source_id = fork_source_id(&scene->source),
                                .request = &scene->request};
    return 0;
}

static int teardown(void **state)
{
    struct scene *scene = *state;
    fork_request_finish(&scene->request);
    free(scene);
    return 0;
}

static void assert_same(const cJSON *json, const char *wanted)
{
    auto_free char *text = cJSON_PrintUnformatted(json);
    assert_string_equal(text, wanted);
    assert_null(strstr(text, "s3cr3t"));
    assert_null(strstr(text, "t0k3n"));
}

static void result_when_committed_tells_what_was_delivered_and_acked(void **state)
{
    struct scene *scene = *state;
    struct fork_mailbox *box = &scene->request.mailboxes[0], *fox = &scene->request.mailboxes[1];
    box->located = box->delivered = fox->located = fox->delivered = true;
    box->offset = UINT64_C(1) << 40;
    box->copies = 2;
    fox->offset = 4096;
    fox->copies = 1;
    fox->ack.state = ACK_OK;
    fox->ack.ms = 33.12345;
    snprintf(fox->ack.text, sizeof fox->ack.text, "stage=applied mailbox=fox");
    scene->fork.step = FORK_ACK;
    for (int step = 0; step < FORK_PUBLISH; step++)
        scene->fork.step_ms[step] = step * 1.00049;
    scene->fork.total_ms = 83;
    auto_json cJSON *result = fork_result(&scene->fork, NULL);
    assert_same(result,
                "{\"status\":\"committed\",\"source\":\"snapshots/base\",\"instance\":\"web-1\","
                "\"warm\":false,\"error\":null,\"mailboxes\":["
                "{\"name\":\"box\",\"offset\":1099511627776,\"copies\":2,\"payload_bytes\":12,"
                "\"acked\":null,\"ack\":null,\"ack_text\":null,\"ack_ms\":null,\"consumed\":null,"
                "\"reply\":null,\"reply_error\":null},"
                "{\"name\":\"fox\",\"offset\":4096,\"copies\":1,\"payload_bytes\":2,"
                "\"acked\":true,\"ack\":\"udp\",\"ack_text\":\"stage=applied mailbox=fox\","
                "\"ack_ms\":33.123,\"consumed\":null,\"reply\":null,\"reply_error\":null}],"
                "\"network\":null,\"timings_ms\":{\"validate\":0,\"locate\":1,\"queued\":2.001,"
                "\"load\":3.001,"
                "\"patch\":4.002,\"resume\":5.002,\"network\":6.003,\"ack\":7.003,\"total\":83}}");
}

static void result_when_refused_by_the_guest_keeps_its_words(void **state)
{
    struct scene *scene = *state;
    struct fork_mailbox *fox = &scene->request.mailboxes[1];
    struct error err;
    fox->located = fox->delivered = true;
    fox->ack.state = ACK_REFUSED;
    fox->ack.ms = 1;
    snprintf(fox->ack.text, sizeof fox->ack.text, "stage=failed mailbox=fox reason=no");
    scene->fork.step = FORK_ACK;
    scene->fork.failed_mailbox = "fox";
    error_set(&err, EREMOTEIO, "the guest could not apply it");
    auto_json cJSON *result = fork_result(&scene->fork, &err);
    assert_same(cJSON_GetObjectItemCaseSensitive(result, "error"),
                "{\"code\":\"EREMOTEIO\",\"phase\":\"ack\",\"mailbox\":\"fox\","
                "\"message\":\"the guest could not apply it\"}");
    const cJSON *entry =
        cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(result, "mailboxes"), 1);
    assert_true(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(entry, "acked")));
    assert_same(cJSON_GetObjectItemCaseSensitive(entry, "ack_text"),
                "\"stage=failed mailbox=fox reason=no\"");
}

static void result_when_it_failed_early_says_null_to_what_is_not_known(void **state)
{
    struct scene *scene = *state;
    struct error err;
    scene->request.id[0] = 0;
    scene->fork.step = FORK_VALIDATE;
    error_set(&err, EINVAL, "mailboxes/fox is unfinished");
    auto_json cJSON *result = fork_result(&scene->fork, &err);
    assert_same(cJSON_GetObjectItemCaseSensitive(result, "status"), "\"failed\"");
    assert_same(cJSON_GetObjectItemCaseSensitive(result, "instance"), "null");
    assert_same(cJSON_GetObjectItemCaseSensitive(result, "error"),
                "{\"code\":\"EINVAL\",\"phase\":\"validate\",\"mailbox\":null,"
                "\"message\":\"mailboxes/fox is unfinished\"}");
    assert_same(cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(result, "mailboxes"), 1),
                "{\"name\":\"fox\",\"offset\":null,\"copies\":null,\"payload_bytes\":null,"
                "\"acked\":false,\"ack\":\"udp\",\"ack_text\":null,\"ack_ms\":null,"
                "\"consumed\":null,\"reply\":null,\"reply_error\":null}");
}

static void record_when_made_holds_the_options_and_the_result(void **state)
{
    struct scene *scene = *state;
    auto_json cJSON *result = fork_result(&scene->fork, NULL);
    auto_json cJSON *record = fork_record(&scene->fork, result);
    assert_int_equal(cJSON_GetArraySize(record), 4);
    assert_same(cJSON_GetObjectItemCaseSensitive(record, "delivered"), "[]");
    assert_same(cJSON_GetObjectItemCaseSensitive(record, "version"), "1");
    assert_same(cJSON_GetObjectItemCaseSensitive(record, "options"),
                "\"{ \\\"identity\\\":false }\\n\"");
    assert_true(cJSON_Compare(cJSON_GetObjectItemCaseSensitive(record, "result"), result, true));
}

static const char reply[] = "{ \"n\":1.50,\t\"s\":\"\\u00e9\" }";

static cJSON *result_with_replies(struct scene *scene)
{
    struct fork_network *network = &scene->request.network;
    network->staged = true;
    scene->request.mailboxes[0].consume.reply = strdup(reply);
    network->mailbox.consume.reply = strdup("{\"net\":1}");
    snprintf(scene->request.mailboxes[1].consume.reply_error, CONSUME_ERROR_MAX, "why");
    return fork_result(&scene->fork, NULL);
}

static const char *reply_of(const cJSON *result, int mailbox)
{
    const cJSON *found = mailbox < 0 ? json_get(result, "network")
                                     : cJSON_GetArrayItem(json_get(result, "mailboxes"), mailbox);
    const cJSON *item = json_get(found, "reply");
    assert_non_null(item);
    return cJSON_IsRaw(item) ? item->valuestring : cJSON_IsNull(item) ? NULL : "neither";
}

static void result_when_printed_has_replies_byte_for_byte(void **state)
{
    auto_json cJSON *result = result_with_replies(*state);
    auto_free char *text = json_print(result);
    auto_free char *line = json_print_line(result);
    assert_non_null(strstr(text, "\"reply\": { \"n\":1.50,\t\"s\":\"\\u00e9\" },\n"));
    assert_non_null(strstr(text, "\"reply\": {\"net\":1},\n"));
    assert_non_null(strstr(text, "\"reply\": null,\n      \"reply_error\": \"why\""));
    assert_non_null(strstr(line, "\"reply\":{ \"n\":1.50,\t\"s\":\"\\u00e9\" },"));
}

static void record_has_no_replies_unless_they_are_to_be_kept(void **state)
{
    struct scene *scene = *state;
    auto_json cJSON *result = result_with_replies(scene);
    auto_json cJSON *without = fork_record(&scene->fork, result);
    scene->request.options.keep_reply = true;
    auto_json cJSON *with = fork_record(&scene->fork, result);
    auto_free char *text = json_print(without);
    auto_free char *kept = json_print(with);
    assert_null(strstr(text, "net\\\""));
    assert_null(strstr(text, "1.50"));
    assert_non_null(strstr(text, "\"why\""));
    /* And back, as from the store. */
    auto_json cJSON *stored = cJSON_Parse(kept), *shown = fork_recorded_result(stored);
    assert_string_equal(reply_of(shown, 0), reply);
    assert_null(reply_of(shown, 1));
    assert_string_equal(reply_of(shown, -1), "{\"net\":1}");
    assert_string_equal(reply_of(result, 0), reply); /* which is as it was */
}

static void recorded_reply_that_is_none_is_not_shown(void **state)
{
    static const char *const records[] = {"{\"result\":{\"mailboxes\":[{\"reply\":\"1\"}]}}",
                                          "{\"result\":{\"mailboxes\":[{\"reply\":{\"a\":1}}]}}",
                                          "{\"result\":{\"mailboxes\":[{\"reply\":\"{}{}\"}]}}",
                                          "{\"result\":{\"mailboxes\":[{\"reply\":7}]}}"};
    (void)state;
    for (size_t i = 0; i < array_length(records); i++) {
        auto_json cJSON *record = cJSON_Parse(records[i]);
        auto_json cJSON *shown = fork_recorded_result(record);
        assert_null(reply_of(shown, 0));
    }
    auto_json cJSON *empty = cJSON_Parse("{\"result\":{\"mailboxes\":[{}],\"network\":null}}");
    auto_json cJSON *shown = fork_recorded_result(empty);
    assert_true(cJSON_Compare(shown, json_get(empty, "result"), true));
}

#define SCENE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE(result_when_committed_tells_what_was_delivered_and_acked),
        SCENE(result_when_refused_by_the_guest_keeps_its_words),
        SCENE(result_when_it_failed_early_says_null_to_what_is_not_known),
        SCENE(record_when_made_holds_the_options_and_the_result),
        SCENE(result_when_printed_has_replies_byte_for_byte),
        SCENE(record_has_no_replies_unless_they_are_to_be_kept),
        SCENE(recorded_reply_that_is_none_is_not_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
