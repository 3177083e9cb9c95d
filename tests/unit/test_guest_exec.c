/* SPDX-License-Identifier: MIT */
/* Commands that the agent runs for a payload, and the replies. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/exec.h"
#include "guest/exec_output.h"
#include "test.h"

enum { REPLY_MAX = 3824 };

struct fixture {
    struct signals signals;
    sigset_t mask;
    char reason[EXEC_REASON_SIZE];
    char *reply; /* owned */
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    *state = f;
    sigprocmask(SIG_SETMASK, NULL, &f->mask);
    signal(SIGPIPE, SIG_IGN);
    return signals_open(&f->signals);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    signals_handle(&f->signals);
    close(f->signals.fd);
    sigprocmask(SIG_SETMASK, &f->mask, NULL);
    free(f->reply);
    free(f);
    return 0;
}

static const char *run(struct fixture *f, const char *payload, size_t max)
{
    free(f->reply);
    f->reply = exec_run(payload, strlen(payload), max, &f->signals, f->reason);
    if (f->reply)
        assert_true(strlen(f->reply) <= max);
    return f->reply ? f->reply : f->reason;
}

#define SH(script) "{\"argv\":[\"sh\",\"-c\",\"" script "\"]"

static void command_has_what_it_was_given_and_answers(void **state)
{
    static const char *const cases[][2] = {
        {"{\"argv\":[\"echo\",\"a\",\"\",\"b c\"]}",
         "{\"exit\":0,\"stdout\":\"a  b c\\n\",\"stderr\":\"\"}"},
        {SH("echo no >&2; exit 3") "}", "{\"exit\":3,\"stdout\":\"\",\"stderr\":\"no\\n\"}"},
        {" { \"argv\" : [ \"cat\" ] , \"stdin\" : "
         "\"\\u0041\\u00e9\\ud83d\\ude00\\ud800\\/\\n\\\"\" } ",
         "{\"exit\":0,\"stdout\":\"Aé😀\xef\xbf\xbd/\\n\\\"\",\"stderr\":\"\"}"},
        {"{\"argv\":[\"cat\"],\"stdin_base64\":\"AP8=\"}",
         "{\"exit\":0,\"stdout_base64\":\"AP8=\",\"stderr\":\"\"}"},
        {SH("echo $A-$B; pwd") ",\"env\":{\"A\":\"1 2\",\"B\":\"\"},\"cwd\":\"/usr\"}",
         "{\"exit\":0,\"stdout\":\"1 2-\\n/usr\\n\",\"stderr\":\"\"}"},
        {SH("kill -KILL $$") "}", "{\"signal\":\"SIGKILL\",\"stdout\":\"\",\"stderr\":\"\"}"},
        {SH("printf '\\\\001\\\\001\\\\001'") "}",
         "{\"exit\":0,\"stdout_base64\":\"AQEB\",\"stderr\":\"\"}"},
        {SH("cat; trap") "}", "{\"exit\":0,\"stdout\":\"\",\"stderr\":\"\"}"},
        {"{\"argv\":[\"true\"],\"fork\":{\"id\":\"a\"},\"ack_port\":9}",
         "{\"exit\":0,\"stdout\":\"\",\"stderr\":\"\"}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(run(*state, cases[i][0], REPLY_MAX), cases[i][1]);
    assert_string_equal(run(*state, SH("printf 'some text, and\\\\000'") "}", REPLY_MAX),
                        "{\"exit\":0,\"stdout_base64\":\"c29tZSB0ZXh0LCBhbmQA\",\"stderr\":\"\"}");
}

static void command_that_cannot_be_run_is_a_reply_as_of_a_shell(void **state)
{
    static const char *const cases[][2] = {
        {"{\"argv\":[\"/none\"]}",
         "{\"exit\":127,\"stdout\":\"\",\"stderr\":\"hypefs-guest: cannot run "
         "/none: No such file or directory\\n\"}"},
        {"{\"argv\":[\"/\"]}",
         "{\"exit\":126,\"stdout\":\"\",\"stderr\":\"hypefs-guest: cannot run /: "
         "Permission denied\\n\"}"},
        {"{\"argv\":[\"true\"],\"cwd\":\"/none\"}",
         "{\"exit\":126,\"stdout\":\"\",\"stderr\":\"hypefs-guest: cannot go to the folder /none: "
         "No such "
         "file or directory\\n\"}"},
        {"{\"argv\":[\"true\"],\"user\":\"no such\"}",
         "{\"exit\":126,\"stdout\":\"\",\"stderr\":\"hypefs-guest: cannot become the user no such: "
         "there "
         "is none of that name\\n\"}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(run(*state, cases[i][0], REPLY_MAX), cases[i][1]);
}

static void payload_that_is_no_request_is_refused_with_the_reason(void **state)
{
    static const char *const cases[][2] = {
        {"[]", "the payload is not a JSON object"},
        {"{}", "\"argv\" must be given"},
        {"{\"argv\":\"ls\"}", "\"argv\" must be an array"},
        {"{\"argv\":[]}", "\"argv\" must be an array"},
        {"{\"argv\":[\"\"]}", "\"argv\" must be an array"},
        {"{\"argv\":[\"a\",1]}", "\"argv\" must be an array"},
        {"{\"argv\":[\"a\\u0000b\"]}", "\"argv\" must be an array"},
        {"{\"argv\":[\"true\"],\"env\":[]}", "\"env\" must be an object"},
        {"{\"argv\":[\"true\"],\"env\":{\"\":\"a\"}}", "\"env\" must be an object"},
        {"{\"argv\":[\"true\"],\"env\":{\"a=b\":\"c\"}}", "\"env\" must be an object"},
        {"{\"argv\":[\"true\"],\"env\":{\"a\":1}}", "\"env\" must be an object"},
        {"{\"argv\":[\"true\"],\"cwd\":1}", "\"cwd\" must be"},
        {"{\"argv\":[\"true\"],\"user\":0}", "\"user\" must be"},
        {"{\"argv\":[\"true\"],\"stdin\":{}}", "\"stdin\" must be a string"},
        {"{\"argv\":[\"true\"],\"stdin\":\"\",\"stdin_base64\":\"\"}",
         "\"stdin\" must be given once"},
        {"{\"argv\":[\"true\"],\"stdin_base64\":\"A\"}", "\"stdin_base64\" must be base64"},
        {"{\"argv\":[\"true\"],\"timeout_ms\":-1}", "\"timeout_ms\" must be"},
        {"{\"argv\":[\"true\"],\"timeout_ms\":86400001}", "\"timeout_ms\" must be"},
        {"{\"argv\":[\"true\"],\"timeout_ms\":\"1\"}", "\"timeout_ms\" must be"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_non_null(strstr(run(*state, cases[i][0], REPLY_MAX), cases[i][1]));
}

static void command_that_takes_too_long_is_ended(void **state)
{
    assert_string_equal(
        run(*state, "{\"argv\":[\"sleep\",\"1000\"],\"timeout_ms\":1}", REPLY_MAX),
        "{\"signal\":\"SIGTERM\",\"timed_out\":true,\"stdout\":\"\",\"stderr\":\"\"}");
    signal(SIGTERM, SIG_IGN); /* for the command, too */
    run(*state, "{\"argv\":[\"sleep\",\"1000\"],\"timeout_ms\":1}", REPLY_MAX);
    signal(SIGTERM, SIG_DFL);
    assert_string_equal(
        ((struct fixture *)*state)->reply,
        "{\"signal\":\"SIGKILL\",\"timed_out\":true,\"stdout\":\"\",\"stderr\":\"\"}");
}

static void what_a_command_leaves_behind_is_not_waited_for(void **state)
{
    int pid = 0;
    assert_int_equal(sscanf(run(*state, SH("sleep 1000 & echo $!") "}", REPLY_MAX),
                            "{\"exit\":0,\"stdout\":\"%d\\n\"", &pid),
                     1);
    assert_int_equal(kill(pid, 0), 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
}

static void input_that_is_not_read_and_that_is_long_is_fed(void **state)
{
    struct fixture *f = *state;
    enum { SIZE = 200000 };
    char *payload = malloc(SIZE + 100);
    int at = sprintf(payload, "{\"argv\":[\"wc\",\"-c\"],\"stdin\":\"");
    memset(payload + at, 'x', SIZE);
    strcpy(payload + at + SIZE, "\"}");
    assert_string_equal(run(f, payload, REPLY_MAX),
                        "{\"exit\":0,\"stdout\":\"200000\\n\",\"stderr\":\"\"}");
    memcpy(payload + 9, "\"true\",\"\"", 9);
    assert_string_equal(run(f, payload, REPLY_MAX), "{\"exit\":0,\"stdout\":\"\",\"stderr\":\"\"}");
    free(payload);
}

static void output_that_has_no_room_loses_its_middle(void **state)
{
    const char *reply = run(*state, SH("seq 100000; seq 3 >&2") "}", REPLY_MAX);
    assert_non_null(strstr(reply, "{\"exit\":0,\"stdout\":\"1\\n2\\n3\\n"));
    assert_non_null(
        strstr(reply, "\\n99999\\n100000\\n\",\"stderr\":\"1\\n2\\n3\\n\",\"dropped\":"));
    assert_true(strlen(reply) > REPLY_MAX - 200);
    assert_true(strlen(run(*state, SH("head -c 9999 /dev/zero; head -c 9999 /dev/zero >&2") "}",
                           EXEC_REPLY_MIN)) > EXEC_REPLY_MIN - 200);
}

/* ---- exec_output ---- */

static const char *print(const char *bytes, size_t size, size_t room, size_t max, uint64_t *dropped)
{
    static char ret[1024];
    struct exec_output output;
    assert_true(exec_output_init(&output, room));
    for (size_t i = 0; i < size; i++)
        exec_output_add(&output, bytes + i, 1);
    *dropped = 0;
    const size_t length = exec_output_print(&output, "o", max, ret, dropped);
    assert_int_equal(length, strlen(ret));
    exec_output_finish(&output);
    return ret;
}

static void output_is_text_or_base64_and_cut_between_characters(void **state)
{
    static const struct {
        const char *bytes;
        size_t room, max;
        const char *ret;
        unsigned dropped;
    } cases[] = {
        {"", 8, 8, "\"o\":\"\"", 0},
        {"abcdefgh", 8, 8, "\"o\":\"abcdefgh\"", 0},
        {"abcdefghij", 8, 8, "\"o\":\"abcdghij\"", 2},
        {"abcdefghijkl", 2, 99, "\"o\":\"abijkl\"", 6},
        {"éééééé", 99, 8, "\"o\":\"éééé\"", 4},
        {"éééééé", 99, 7, "\"o\":\"éé\"", 8},
        {"aéééééé", 99, 8, "\"o\":\"aééé\"", 6},
        {"a\xff", 8, 8, "\"o_base64\":\"Yf8=\"", 0},
        {"\xff\xff\xff\xff\xff\xff\xff", 8, 8, "\"o_base64\":\"////////\"", 1},
        {"ab\n\n", 8, 8, "\"o\":\"ab\\n\\n\"", 0},
        {"\n\n\n\n", 8, 8, "\"o\":\"\\n\\n\\n\\n\"", 0},
        {"\b\t\f\r\"\\aaaaaaaaaaaaaaaaaaaaaa", 99, 99,
         "\"o\":\"\\b\\t\\f\\r\\\"\\\\aaaaaaaaaaaaaaaaaaaaaa\"", 0},
    };
    uint64_t dropped;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *ret =
            print(cases[i].bytes, strlen(cases[i].bytes), cases[i].room, cases[i].max, &dropped);
        if (strcmp(ret, cases[i].ret) != 0 || dropped != cases[i].dropped)
            fail_msg("%zu: %s, %u", i, ret, (unsigned)dropped);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(command_has_what_it_was_given_and_answers),
        TEST(command_that_cannot_be_run_is_a_reply_as_of_a_shell),
        TEST(payload_that_is_no_request_is_refused_with_the_reason),
        TEST(command_that_takes_too_long_is_ended),
        TEST(what_a_command_leaves_behind_is_not_waited_for),
        TEST(input_that_is_not_read_and_that_is_long_is_fed),
        TEST(output_that_has_no_room_loses_its_middle),
        cmocka_unit_test(output_is_text_or_base64_and_cut_between_characters),
    };
    return cmocka_run_group_tests_name("guest_exec", tests, NULL, NULL);
}
