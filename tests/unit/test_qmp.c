/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "hypervisor/qmp.h"
#include "instance/config.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/process.h"

enum { FAR_MS = 20000, SOON_MS = 50 };

#define GREETING                                                                                   \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "             \
    "\"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n"
#define EVENT                                                                                      \
    "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1}, \"data\": {\"return\": 1}}\r\n"
#define DONE "{\"return\": {}}\r\n"

/* The other end of a connection: what QEMU says is put into the socket beforehand. */
struct fixture {
    int client, server;
    int alive[2]; /* readable when the "process" has ended */
    struct process_limits limits;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    int ends[2];
    if (!fixture || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0 ||
        pipe(fixture->alive) < 0)
        return -1;
    fixture->client = ends[0];
    fixture->server = ends[1];
    fixture->limits = (struct process_limits){
        .pidfd = fixture->alive[0], .cancel_fd = -1, .deadline_ms = process_now_ms() + FAR_MS};
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    close(fixture->server);
    close(fixture->alive[0]);
    close(fixture->alive[1]);
    free(fixture);
    return 0;
}

static void say(const struct fixture *fixture, const char *text)
{
    assert_int_equal(write(fixture->server, text, strlen(text)), (ssize_t)strlen(text));
}

static struct qmp *open_greeted(const struct fixture *fixture)
{
    struct qmp *qmp = NULL;
    struct error err = {0};
    say(fixture, GREETING DONE);
    if (qmp_open(fixture->client, &fixture->limits, &qmp, &err) < 0)
        fail_msg("%s", err.text);
    char heard[256] = "";
    assert_true(read(fixture->server, heard, sizeof heard - 1) > 0);
    assert_ptr_equal(strstr(heard, "{\"execute\":\"qmp_capabilities\",\"id\":\""), heard);
    return qmp;
}

/* What execute returns for an answer, with the connection closed after it. */
static int execute(struct fixture *fixture, const char *answer, struct error *err)
{
    struct qmp *qmp = open_greeted(fixture);
    say(fixture, answer);
    int r = qmp_execute(qmp, &fixture->limits, "stop", NULL, -1, NULL, err);
    qmp_close(qmp);
    return r;
}

static void open_when_greeted_knows_the_version(void **state)
{
    struct qmp *qmp = open_greeted(*state);
    assert_string_equal(qmp_version(qmp), "7.2.22");
    qmp_close(qmp);
}

/* What the connection before has left is told between the connect and the greeting. */
static void open_when_something_comes_before_the_greeting_passes_over_it(void **state)
{
    struct fixture *fixture = *state;
    say(fixture, EVENT "{\"return\": {}, \"id\": \"of the connection before\"}\r\n");
    struct qmp *qmp = open_greeted(fixture);
    assert_string_equal(qmp_version(qmp), "7.2.22");
    qmp_close(qmp);
}

static void open_when_the_greeting_is_wrong_is_eio(void **state)
{
    static const char *const greetings[] = {
        DONE,
        "{\"QMP\": {}}\r\n",
        "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": -1, \"minor\": 2, \"major\": 7}}}}\r\n",
        "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": \"1\", \"minor\": 2, \"major\": 7}}}}\r\n",
        "HTTP/1.1 200 OK\r\n",
        "\r\n",
    };

    for (size_t i = 0; i < array_length(greetings); i++) {
        struct qmp *qmp = NULL;
        struct error err = {0};
        void *inner = NULL;
        assert_int_equal(setup(&inner), 0);
        struct fixture *fixture = inner;
        say(fixture, greetings[i]);
        assert_int_equal(qmp_open(fixture->client, &fixture->limits, &qmp, &err), -EIO);
        assert_int_equal(err.code, EIO);
        assert_null(qmp);
        teardown(&inner);
    }
    (void)state;
}

static void open_when_greeted_twice_works(void **state)
{
    struct fixture *fixture = *state;
    say(fixture, GREETING);
    struct qmp *qmp = open_greeted(fixture);
    assert_string_equal(qmp_version(qmp), "7.2.22");
    qmp_close(qmp);
}

/* Then it has forgotten that it had agreed on capabilities. */
static void execute_when_greeted_again_agrees_anew_and_asks_again(void **state)
{
    struct fixture *fixture = *state;
    struct error err = {0};
    auto_json cJSON *answer = NULL;
    char heard[512] = "";
    struct qmp *qmp = open_greeted(fixture);
    say(fixture,
        GREETING "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Expecting capabilities "
                 "negotiation with 'qmp_capabilities'\"}}\r\n" DONE "{\"return\": {\"a\": 1}}\r\n");
    assert_int_equal(qmp_execute(qmp, &fixture->limits, "stop", NULL, -1, &answer, &err), 0);
    assert_non_null(json_get(answer, "a"));
    assert_true(read(fixture->server, heard, sizeof heard - 1) > 0);
    const char *first = strstr(heard, "\"stop\""), *agreed = strstr(heard, "qmp_capabilities");
    assert_true(first && agreed && first < agreed && strstr(agreed, "\"stop\""));
    qmp_close(qmp);
}

static void execute_when_events_come_first_returns_the_answer(void **state)
{
    struct fixture *fixture = *state;
    struct error err = {0};
    auto_json cJSON *answer = NULL;
    struct qmp *qmp = open_greeted(fixture);

    say(fixture, EVENT EVENT "{\"return\": {\"status\": \"completed\"}}\r\n" EVENT);
    assert_int_equal(qmp_execute(qmp, &fixture->limits, "query-migrate", NULL, -1, &answer, &err),
                     0);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(answer, "status")),
                        "completed");
    say(fixture, DONE);
    assert_int_equal(qmp_execute(qmp, &fixture->limits, "stop", NULL, -1, NULL, &err), 0);
    qmp_close(qmp);
}

/* Says that it is done with what it hears, by its id. */
static void *answer_with_its_id(void *argument)
{
    struct fixture *fixture = argument;
    char heard[256] = "", answer[512];
    assert_true(read(fixture->server, heard, sizeof heard - 1) > 0);
    const char *id = strstr(heard, "\"id\":");
    assert_non_null(id);
    snprintf(answer, sizeof answer, "{\"return\": {}, %s\r\n", id);
    say(fixture, answer);
    return NULL;
}

/* As QEMU does when it was asked by a connection that is closed meanwhile. */
static void execute_when_an_answer_to_another_command_comes_first_passes_over_it(void **state)
{
    struct error err = {0};
    assert_int_equal(execute(*state,
                             "{\"return\": {}, \"id\": \"5f.1\"}\r\n"
                             "{\"error\": {\"desc\": \"of the other\"}, \"id\": 7}\r\n"
                             "{\"error\": {\"desc\": \"of this one\"}}\r\n",
                             &err),
                     -EIO);
    assert_string_equal(err.text, "QEMU refused stop: of this one");
}

static void execute_when_the_answer_has_the_commands_id_takes_it(void **state)
{
    struct fixture *fixture = *state;
    struct error err = {0};
    struct qmp *qmp = open_greeted(fixture);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, answer_with_its_id, fixture), 0);
    assert_int_equal(qmp_execute(qmp, &fixture->limits, "stop", NULL, -1, NULL, &err), 0);
    pthread_join(thread, NULL);
    qmp_close(qmp);
}

static void execute_sends_arguments_and_a_descriptor(void **state)
{
    struct fixture *fixture = *state;
    char heard[256] = "";
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = heard, .iov_len = sizeof heard - 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    struct error err = {0};
    struct qmp *qmp = open_greeted(fixture);

    cJSON *arguments = cJSON_CreateObject();
    cJSON_AddStringToObject(arguments, "fdname", "a,\"b");
    say(fixture, DONE);
    assert_int_equal(
        qmp_execute(qmp, &fixture->limits, "getfd", arguments, fixture->alive[1], NULL, &err), 0);
    assert_true(recvmsg(fixture->server, &message, MSG_CMSG_CLOEXEC) > 0);
    static const char sent_text[] =
        "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"a,\\\"b\"},\"id\":\"";
    assert_memory_equal(heard, sent_text, strlen(sent_text));
    assert_int_equal(control.header.cmsg_len, CMSG_LEN(sizeof(int)));
    assert_int_equal(control.header.cmsg_type, SCM_RIGHTS);
    int fd;
    memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
    struct stat sent, kept;
    assert_int_equal(fstat(fd, &sent), 0);
    assert_int_equal(fstat(fixture->alive[1], &kept), 0);
    assert_true(sent.st_ino == kept.st_ino);
    close(fd);
    qmp_close(qmp);
}

static void execute_when_refused_quotes_a_short_printable_reason(void **state)
{
    char answer[4096], reason[2048];
    struct error err = {0};

    memset(reason, 'x', sizeof reason - 1);
    reason[sizeof reason - 1] = '\0';
    snprintf(answer, sizeof answer,
             "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\\n\\u001b[2J%s\"}}\r\n",
             reason);
    assert_int_equal(execute(*state, answer, &err), -EIO);
    assert_non_null(strstr(err.text, "QEMU refused stop: no  [2Jxxx"));
    assert_true(strlen(err.text) < ERROR_WORDS_MAX + 64);
}

static void execute_when_refused_without_a_reason_is_eio(void **state)
{
    struct error err = {0};
    assert_int_equal(execute(*state, "{\"error\": 7}\r\n", &err), -EIO);
    assert_non_null(strstr(err.text, "no reason given"));
}

static void execute_when_the_answer_is_a_greeting_is_eio(void **state)
{
    struct error err = {0};
    assert_int_equal(execute(*state, GREETING, &err), -EIO);
}

static void execute_when_the_answer_is_nonsense_is_eio(void **state)
{
    struct error err = {0};
    assert_int_equal(execute(*state, "{\"return\": }\r\n", &err), -EIO);
    assert_non_null(strstr(err.text, "stop: QEMU's message is no JSON object"));
}

static void execute_when_the_connection_closes_is_eio(void **state)
{
    struct fixture *fixture = *state;
    struct error err = {0};
    struct qmp *qmp = open_greeted(fixture);

    say(fixture, "{\"retu");
    shutdown(fixture->server, SHUT_WR);
    assert_int_equal(write(fixture->alive[1], "x", 1), 1);
    assert_int_equal(qmp_execute(qmp, &fixture->limits, "stop", NULL, -1, NULL, &err), -EIO);
    assert_string_equal(err.text, "stop: QEMU has ended");
    qmp_close(qmp);
}

static void execute_when_nobody_reads_any_more_is_eio(void **state)
{
    struct fixture *fixture = *state;
    struct error err = {0};
    struct qmp *qmp = open_greeted(fixture);

    shutdown(fixture->server, SHUT_RDWR);
    assert_int_equal(write(fixture->alive[1], "x", 1), 1);
    assert_int_equal(qmp_execute(qmp, &fixture->limits, "stop", NULL, -1, NULL, &err), -EIO);
    assert_string_equal(err.text, "stop: QEMU has ended");
    qmp_close(qmp);
}

static void execute_when_qemu_ends_without_a_word_is_eio(void **state)
{
    struct fixture *fixture = *state;
    struct error err = {0};
    struct qmp *qmp = open_greeted(fixture);

    assert_int_equal(write(fixture->alive[1], "x", 1), 1);
    assert_int_equal(qmp_execute(qmp, &fixture->limits, "stop", NULL, -1, NULL, &err), -EIO);
    assert_string_equal(err.text, "stop: QEMU has ended");
    qmp_close(qmp);
}

static void execute_when_cancelled_is_ecanceled_at_once(void **state)
{
    struct fixture *fixture = *state;
    struct error err = {0};
    struct qmp *qmp = open_greeted(fixture);

    fixture->limits.cancel_fd = fixture->alive[0];
    fixture->limits.pidfd = -1;
    assert_int_equal(write(fixture->alive[1], "x", 1), 1);
    assert_int_equal(qmp_execute(qmp, &fixture->limits, "stop", NULL, -1, NULL, &err), -ECANCELED);
    assert_int_equal(err.code, ECANCELED);
    qmp_close(qmp);
}

static void execute_when_nothing_comes_ends_at_the_deadline(void **state)
{
    struct fixture *fixture = *state;
    struct error err = {0};
    struct qmp *qmp = open_greeted(fixture);

    fixture->limits.deadline_ms = process_now_ms() + SOON_MS;
    say(fixture, EVENT "{\"return\": ");
    assert_int_equal(qmp_execute(qmp, &fixture->limits, "stop", NULL, -1, NULL, &err), -EIO);
    assert_string_equal(err.text, "stop: QEMU does not answer");
    qmp_close(qmp);
}

/* Says a long text from a thread, in small pieces. */
struct speech {
    int fd;
    const char *text;
    size_t size, step;
};

static void *speak(void *context)
{
    const struct speech *speech = context;
    for (size_t done = 0; done < speech->size;) {
        size_t left = speech->size - done, step = left < speech->step ? left : speech->step;
        ssize_t put = send(speech->fd, speech->text + done, step, MSG_NOSIGNAL);
        if (put < 0)
            break;
        done += (size_t)put;
    }
    return NULL;
}

static int execute_speech(struct fixture *fixture, const char *text, size_t size, size_t step,
                          cJSON **ret, struct error *err)
{
    struct speech speech = {.fd = fixture->server, .text = text, .size = size, .step = step};
    pthread_t thread;
    struct qmp *qmp = open_greeted(fixture);
    assert_int_equal(pthread_create(&thread, NULL, speak, &speech), 0);
    int r = qmp_execute(qmp, &fixture->limits, "stop", NULL, -1, ret, err);
    qmp_close(qmp); /* a writer that still writes fails now */
    assert_int_equal(pthread_join(thread, NULL), 0);
    return r;
}

static void execute_when_the_answer_comes_byte_by_byte_puts_it_together(void **state)
{
    static const char text[] = EVENT "{\"return\": {\"a\": 1}}\r\n";
    struct error err = {0};
    auto_json cJSON *answer = NULL;

    assert_int_equal(execute_speech(*state, text, strlen(text), 1, &answer, &err), 0);
    assert_true(cJSON_IsNumber(cJSON_GetObjectItemCaseSensitive(answer, "a")));
}

static void execute_when_the_answer_is_long_but_allowed_takes_it(void **state)
{
    /* What tells of all that disks can be. */
    enum { SIZE = CONFIG_DISKS_MAX * (DISK_LAYERS_MAX + 2) * 2 * 2048 };
    static const char start[] = "{\"return\": \"", end[] = "\"}\r\n";
    struct error err = {0};
    auto_json cJSON *answer = NULL;
    auto_free char *text = malloc(SIZE);

    assert_non_null(text);
    memset(text, 'y', SIZE);
    memcpy(text, start, strlen(start));
    memcpy(text + SIZE - strlen(end), end, strlen(end));
    assert_int_equal(execute_speech(*state, text, SIZE, SIZE, &answer, &err), 0);
    assert_int_equal(strlen(cJSON_GetStringValue(answer)), SIZE - strlen(start) - strlen(end));
}

static void execute_when_a_line_never_ends_is_eio(void **state)
{
    enum { SIZE = QMP_LINE_MAX * 2 };
    struct error err = {0};
    auto_free char *text = malloc(SIZE);

    assert_non_null(text);
    memset(text, ' ', SIZE);
    assert_int_equal(execute_speech(*state, text, SIZE, SIZE, NULL, &err), -EIO);
    assert_non_null(strstr(err.text, "longer than"));
}

static void parse_tells_the_kinds_apart(void **state)
{
    static const struct {
        const char *line;
        int kind; /* or -1 */
    } cases[] = {
        {GREETING, QMP_GREETING},
        {DONE, QMP_RETURN},
        {"{\"return\":null}", QMP_RETURN},
        {"{\"error\":{}}", QMP_ERROR},
        {"{\"event\":\"X\"}", QMP_EVENT},
        {"{}", -1},
        {"[]", -1},
        {"", -1},
        {"{\"return\":{}} x", -1},
        {"{\"RETURN\":{}}", -1},
        {"{\"return\":", -1},
    };

    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        struct qmp_message message;
        struct error err = {0};
        int r = qmp_parse(cases[i].line, strlen(cases[i].line), &message, &err);
        if (r != (cases[i].kind < 0 ? -EIO : 0))
            fail_msg("%s: %d", cases[i].line, r);
        if (r == 0) {
            assert_int_equal(message.kind, cases[i].kind);
            assert_non_null(message.body);
            qmp_message_finish(&message);
        }
    }
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(open_when_greeted_twice_works),
        WITH(execute_when_greeted_again_agrees_anew_and_asks_again),
        WITH(open_when_greeted_knows_the_version),
        WITH(open_when_something_comes_before_the_greeting_passes_over_it),
        cmocka_unit_test(open_when_the_greeting_is_wrong_is_eio),
        WITH(execute_when_events_come_first_returns_the_answer),
        WITH(execute_when_an_answer_to_another_command_comes_first_passes_over_it),
        WITH(execute_when_the_answer_has_the_commands_id_takes_it),
        WITH(execute_sends_arguments_and_a_descriptor),
        WITH(execute_when_refused_quotes_a_short_printable_reason),
        WITH(execute_when_refused_without_a_reason_is_eio),
        WITH(execute_when_the_answer_is_a_greeting_is_eio),
        WITH(execute_when_the_answer_is_nonsense_is_eio),
        WITH(execute_when_the_connection_closes_is_eio),
        WITH(execute_when_nobody_reads_any_more_is_eio),
        WITH(execute_when_qemu_ends_without_a_word_is_eio),
        WITH(execute_when_cancelled_is_ecanceled_at_once),
        WITH(execute_when_nothing_comes_ends_at_the_deadline),
        WITH(execute_when_the_answer_comes_byte_by_byte_puts_it_together),
        WITH(execute_when_the_answer_is_long_but_allowed_takes_it),
        WITH(execute_when_a_line_never_ends_is_eio),
        cmocka_unit_test(parse_tells_the_kinds_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
