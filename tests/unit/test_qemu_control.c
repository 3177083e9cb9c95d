/* SPDX-License-Identifier: MIT */
/* Talking to a QEMU that is none: a thread that answers, and a log that somebody wrote. */
#include <pthread.h>
#include <sys/pidfd.h>
#include <sys/socket.h>

#include "hypervisor/qemu_control.h"
#include "hypervisor/vmm_process.h"
#include "util/json.h"
#include "util/unix_socket.h"
#include "util/utf8.h"
#include "vmm_fixture.h"

enum { WORDS_MAX = 400 };

#define GREETING                                                                                   \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "             \
    "\"package\": \"\"}, \"capabilities\": []}}\r\n"
#define DONE "{\"return\": {}}\r\n"

/* A VMM whose process is this one: it runs. */
static struct vmm *running_vmm(void)
{
    struct vmm *vmm = NULL;
    int pidfd = pidfd_open(getpid(), 0);
    assert_true(pidfd >= 0);
    assert_int_equal(vmm_create(hypervisor_find("qemu"), getpid(), pidfd, &vmm, NULL), 0);
    return vmm;
}

/* What is said of a failure "it failed", with that in the log behind `before` bytes of it. */
static struct error explained(struct fixture *fixture, const struct vmm_exit *exit, const void *log,
                              size_t size, off_t before)
{
    struct vmm_context context = fixture_context(fixture, "vm", NULL);
    struct vmm *vmm = running_vmm();
    struct error err = {0};
    if (log)
        fixture_write(context.directory_fd, VMM_LOG_NAME, 0600, log, size);
    assert_int_equal(vmm_log_size(&context), size);
    vmm->exit = *exit;
    int r = error_set(&err, EIO, "it failed");
    assert_int_equal(vmm_explain(&context, vmm, before, r, &err), -EIO);
    assert_int_equal(err.code, EIO);
    assert_true(utf8_valid(err.text, strlen(err.text)));
    vmm_close(vmm);
    assert_int_equal(unlinkat(fixture->base_fd, "vm/" VMM_LOG_NAME, 0), log ? 0 : -1);
    assert_int_equal(unlinkat(fixture->base_fd, "vm", AT_REMOVEDIR), 0);
    close(fixture->directories[--fixture->directory_count]);
    return err;
}

static void explain_tells_how_it_ended_and_what_was_said_since(void **state)
{
    static const struct {
        struct vmm_exit exit;
        const char *log;
        off_t before;
        const char *text;
    } cases[] = {
        {{.ended = false}, NULL, 0, "it failed"},
        {{.ended = false}, "", 0, "it failed"},
        {{.ended = false}, "a word\n", 0, "it failed: a word"},
        {{.ended = true, .code = 3}, "a word", 0, "it failed (status 3): a word"},
        {{.ended = true, .code = 0}, NULL, 0, "it failed (status 0)"},
        {{.ended = true, .code = -1}, "w", 0, "it failed: w"}, /* not our child */
        {{.ended = true, .code = -1, .signal = 11}, "w", 0, "it failed (signal 11): w"},
        {{.ended = false}, "old\nnew\n", 4, "it failed: new"},
        {{.ended = false}, "old\n", 4, "it failed"},
        {{.ended = false}, "cut", 100, "it failed: cut"}, /* it was shortened */
        {{.ended = false}, " \t\r\n \n", 0, "it failed"},
        {{.ended = false}, "two\r\nlines\x1b[2J\x7f!\n", 0, "it failed: two  lines [2J !"},
    };
    for (size_t i = 0; i < array_length(cases); i++) {
        const char *log = cases[i].log;
        struct error err =
            explained(*state, &cases[i].exit, log, log ? strlen(log) : 0, cases[i].before);
        assert_string_equal(err.text, cases[i].text);
    }
}

static void explain_when_much_was_said_keeps_whole_characters_of_the_end(void **state)
{
    static const struct vmm_exit running = {.ended = false};
    static const char *const characters[] = {"x", "\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x90\xA7"};
    for (size_t i = 0; i < array_length(characters); i++) {
        char log[3 * WORDS_MAX + 8] = "first ";
        for (size_t j = 0; j < WORDS_MAX / 2; j++)
            strcat(log, characters[i]);
        strcat(log, "! last\n");
        struct error err = explained(*state, &running, log, strlen(log), 0);
        assert_non_null(strstr(err.text, "! last"));
        assert_non_null(strstr(err.text, characters[i]));
        assert_true(strlen(err.text) <= strlen("it failed: ") + WORDS_MAX);
    }
}

static void explain_when_what_was_said_is_no_text_is_text_all_the_same(void **state)
{
    static const struct vmm_exit running = {.ended = false};
    static const char latin[] = "caf\xE9 \xFF\xC3";
    struct error err = explained(*state, &running, latin, strlen(latin), 0);
    assert_string_equal(err.text, "it failed: caf? ??");
}

static void explain_when_cancelled_or_unasked_adds_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "vm", NULL);
    struct vmm *vmm = running_vmm();
    struct error err = {0};
    fixture_write(context.directory_fd, VMM_LOG_NAME, 0600, "words", 5);
    int r = error_set(&err, ECANCELED, "ended");
    assert_int_equal(vmm_explain(&context, vmm, 0, r, &err), -ECANCELED);
    assert_string_equal(err.text, "ended");
    assert_int_equal(vmm_explain(&context, vmm, 0, -EIO, NULL), -EIO);
    vmm_close(vmm);
}

static void explain_when_the_text_is_full_cuts_it(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "vm", NULL);
    struct vmm *vmm = running_vmm();
    struct error err = {.code = EIO};
    memset(err.text, 'x', sizeof err.text - 5);
    fixture_write(context.directory_fd, VMM_LOG_NAME, 0600, "\xE2\x82\xAC\xE2\x82\xAC", 6);
    assert_int_equal(vmm_explain(&context, vmm, 0, -EIO, &err), -EIO);
    assert_string_equal(err.text + sizeof err.text - 6, "x: ");
    vmm_close(vmm);
}

/* The directory is the VMM's, which may have put anything there. */
static void log_when_it_is_no_file_is_not_read(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "vm", NULL);
    struct vmm *vmm = running_vmm();
    struct error err = {0};
    int r = error_set(&err, EIO, "it failed");
    fixture_write(fixture->base_fd, "secret", 0600, "secret", 6);
    assert_int_equal(symlinkat("../secret", context.directory_fd, VMM_LOG_NAME), 0);
    assert_int_equal(vmm_explain(&context, vmm, 0, r, &err), r);
    assert_string_equal(err.text, "it failed");
    assert_int_equal(unlinkat(context.directory_fd, VMM_LOG_NAME, 0), 0);
    assert_int_equal(mkfifoat(context.directory_fd, VMM_LOG_NAME, 0600), 0);
    assert_int_equal(vmm_explain(&context, vmm, 0, r, &err), r);
    assert_string_equal(err.text, "it failed");
    vmm_close(vmm);
}

/* Answers one connection with each of `answers`; a NULL ends it, another one the thread. */
struct server {
    pthread_t thread;
    int listener;
    const char *const *answers;
    char heard[1024]; /* of all connections */
};

static void hear(struct server *server, int fd)
{
    size_t used = strlen(server->heard);
    ssize_t got = recv(fd, server->heard + used, sizeof server->heard - 1 - used, 0);
    server->heard[used + (got > 0 ? (size_t)got : 0)] = '\0';
}

static void *serve(void *argument)
{
    struct server *server = argument;
    for (const char *const *answer = server->answers; *answer; answer++) {
        int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);
        for (bool first = true; *answer; answer++, first = false) {
            if (!first)
                hear(server, fd);
            send(fd, *answer, strlen(*answer), MSG_NOSIGNAL);
        }
        close(fd);
    }
    return NULL;
}

static void start_server(struct server *server, const struct vmm_context *context,
                         const char *const *answers)
{
    *server = (struct server){.answers = answers};
    assert_int_equal(
        unix_socket_listen(context->directory_fd, QEMU_SOCKET_NAME, &server->listener, NULL), 0);
    assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
}

static void end_server(struct server *server)
{
    assert_int_equal(pthread_join(server->thread, NULL), 0);
    close(server->listener);
}

static void command_when_there_is_no_connection_makes_one_and_keeps_it(void **state)
{
    static const char *const answers[] = {GREETING, DONE, DONE, DONE, NULL, NULL};
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "vm", NULL);
    struct vmm *vmm = running_vmm();
    struct server server;
    struct error err = {0};
    start_server(&server, &context, answers);
    assert_int_equal(qemu_control_execute(&context, vmm, "stop", NULL, -1, NULL, &err), 0);
    assert_int_equal(qemu_control_execute_string(&context, vmm, "load", "name", "a\"b", -1, &err),
                     0);
    end_server(&server);
    static const char *const commands[] = {
        "{\"execute\":\"qmp_capabilities\",\"id\":\"", "{\"execute\":\"stop\",\"id\":\"",
        "{\"execute\":\"load\",\"arguments\":{\"name\":\"a\\\"b\"},\"id\":\""};
    const char *rest = server.heard;
    for (size_t i = 0; i < array_length(commands); i++) {
        assert_memory_equal(rest, commands[i], strlen(commands[i]));
        rest = strchr(rest + strlen(commands[i]), '}');
        assert_non_null(rest++);
    }
    assert_string_equal(rest, "");
    qemu_control_release(vmm);
    assert_null(vmm->state);
    qemu_control_release(vmm);
    vmm_close(vmm);
}

static void connection_when_a_command_failed_is_made_anew(void **state)
{
    static const char *const answers[] = {
        GREETING, DONE, "{\"error\": {\"desc\": \"not now\"}}\r\n", NULL, GREETING, DONE, DONE,
        NULL,     NULL,
    };
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "vm", NULL);
    struct vmm *vmm = running_vmm();
    struct server server;
    struct error err = {0};
    start_server(&server, &context, answers);
    assert_int_equal(qemu_control_execute(&context, vmm, "cont", NULL, -1, NULL, &err), -EIO);
    assert_non_null(strstr(err.text, "not now"));
    assert_null(vmm->state);
    assert_int_equal(qemu_control_execute(&context, vmm, "cont", NULL, -1, NULL, &err), 0);
    end_server(&server);
    vmm_close(vmm);
}

static void command_when_nobody_listens_is_eio_and_gives_its_arguments_back(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "vm", NULL);
    struct vmm *vmm = running_vmm();
    struct error err = {0};
    /* valgrind and the sanitizers would see the arguments if they were lost */
    assert_int_equal(
        qemu_control_execute_string(&context, vmm, "getfd", "fdname", "state", -1, &err), -EIO);
    assert_int_equal(err.code, EIO);
    vmm_close(vmm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(explain_tells_how_it_ended_and_what_was_said_since),
        WITH(explain_when_much_was_said_keeps_whole_characters_of_the_end),
        WITH(explain_when_what_was_said_is_no_text_is_text_all_the_same),
        WITH(explain_when_cancelled_or_unasked_adds_nothing),
        WITH(explain_when_the_text_is_full_cuts_it),
        WITH(log_when_it_is_no_file_is_not_read),
        WITH(command_when_there_is_no_connection_makes_one_and_keeps_it),
        WITH(connection_when_a_command_failed_is_made_anew),
        WITH(command_when_nobody_listens_is_eio_and_gives_its_arguments_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
