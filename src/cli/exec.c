/* SPDX-License-Identifier: MIT */
/* exec: has the agent in a guest run a command (docs/mailbox.md), and passes on what it printed. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/input.h"
#include "cli/talk.h"
#include "util/base64.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/utf8.h"

/* Exit statuses, as of env(1), timeout(1) and a shell. */
enum { EXIT_TIMED_OUT = 124, EXIT_OWN = 125, EXIT_SIGNAL = 128 };

enum { ENV_MAX = 256, GRACE_MS = 5000 /* in which the agent ends a command, and answers */ };

static const char help[] =
    "Usage: hypefs exec [OPTION]… INSTANCE -- COMMAND [ARGUMENT]…\n"
    "Run a command in a VM that runs. Its guest has hypefs-guest --exec. It gets standard input, "
    "and\n"
    "what it prints is passed on when it has ended. It has no terminal.\n"
    "\n"
    "INSTANCE is the id of an instance, or the path of its directory in the tree.\n"
    "\n"
    "  --mount DIR        the tree is mounted there (default: the mounted tree that has INSTANCE)\n"
    "  --env NAME=VALUE   a variable of its environment; may be given several times\n"
    "  --cwd DIR          the directory in which it starts (default: the agent's)\n"
    "  --user USER        a user of the guest, by name or number (default: the agent's)\n"
    "  --timeout-ms N     then it is ended (default: 30000; 1 to 86400000). The time that it waits "
    "for\n"
    "                     input, or for four others to end, does not count\n"
    "  -n, --no-stdin     it gets no input; so does a command when standard input is a terminal\n"
    "  -h, --help         print this\n"
    "\n"
    "Command, environment and input together have room in a mailbox: 3.7 KiB as JSON, 2.7 KiB of\n"
    "binary input. So has all of its output: what has no room is left out in the middle, and a "
    "line on\n"
    "stderr says so. A command whose hypefs exec is ended goes on until --timeout-ms.\n"
    "\n"
    "Exit status: that of the command; 128 and its number if a signal ended it, 124 if that was "
    "for\n"
    "--timeout-ms, 126 if it cannot be run, 127 if there is none, 125 if hypefs itself failed "
    "(one\n"
    "line on stderr says why), 2 wrong usage.\n";

static const struct cli_command command = {"hypefs exec", help, .has_command = true};

struct arguments {
    const char *mount, *cwd, *user, *timeout;
    const char *env[ENV_MAX];
    size_t env_count;
    bool no_stdin;
    int64_t timeout_ms;
};

static int add_env(void *arguments, const char *value)
{
    struct arguments *ret = arguments;
    if (value[0] == '=' || !strchr(value, '='))
        return cli_misuse(&command, "--env needs NAME=VALUE");
    if (ret->env_count == ENV_MAX)
        return cli_misuse(&command, "--env is given too often");
    ret->env[ret->env_count++] = value;
    return CLI_GO_ON;
}

/* ---- the request ---- */

static int add_text(cJSON *json, const char *name, const char *text, struct error *err)
{
    cJSON *value = utf8_valid(text, strlen(text)) ? cJSON_CreateString(text) : NULL;
    if (!value)
        return error_set(err, EINVAL, "\"%s\" is not UTF-8", text);
    if (name)
        json_add(json, name, value);
    else
        json_append(json, value);
    return 0;
}

static int add_env_to(cJSON *json, const struct arguments *arguments, struct error *err)
{
    cJSON *env = arguments->env_count > 0 ? json_add_object(json, "env") : NULL;
    int r = 0;
    for (size_t i = 0; i < arguments->env_count && r == 0; i++) {
        const char *value = strchr(arguments->env[i], '=');
        auto_free char *name = strndup(arguments->env[i], (size_t)(value - arguments->env[i]));
        if (!name || !utf8_valid(name, strlen(name)))
            return error_set(err, EINVAL, "\"%s\" is not UTF-8", arguments->env[i]);
        r = add_text(env, name, value + 1, err);
    }
    return r;
}

static int add_input(cJSON *json, struct error *err)
{
    auto_free char *input = NULL;
    auto_free char *text = NULL;
    size_t size = 0;
    int r = input_read(NULL, INPUT_MAX, &input, &size, err);
    if (r < 0 || size == 0)
        return r;
    if (utf8_valid(input, size) && strlen(input) == size)
        return add_text(json, "stdin", input, err);
    text = malloc(base64_length(size) + 1);
    if (!text)
        return error_set(err, ENOMEM, "out of memory");
    base64_encode((const uint8_t *)input, size, text);
    return add_text(json, "stdin_base64", text, err);
}

static int make_payload(const struct arguments *arguments, char **argv, char **ret,
                        struct error *err)
{
    auto_json cJSON *json = cJSON_CreateObject();
    cJSON *words = json_add_array(json, "argv");
    int r = 0;
    for (size_t i = 0; argv[i] && r == 0; i++)
        r = add_text(words, NULL, argv[i], err);
    if (r == 0)
        r = add_env_to(json, arguments, err);
    if (r == 0 && arguments->cwd)
        r = add_text(json, "cwd", arguments->cwd, err);
    if (r == 0 && arguments->user)
        r = add_text(json, "user", arguments->user, err);
    json_add_number(json, "timeout_ms", (double)arguments->timeout_ms);
    if (r == 0 && isatty(STDIN_FILENO) && !arguments->no_stdin)
        cli_say(stderr, "%s: the command has no terminal, and gets no input (-n: say nothing)",
                command.name);
    else if (r == 0 && !arguments->no_stdin)
        r = add_input(json, err);
    if (r < 0)
        return r;
    *ret = json_print(json);
    return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}

/* ---- the reply ---- */

/* False: it cannot be written. */
static bool pass_on(const cJSON *reply, const char *name, FILE *to)
{
    char encoded[32];
    const char *text = json_get_text(reply, name);
    snprintf(encoded, sizeof encoded, "%s_base64", name);
    const char *base64 = text ? NULL : json_get_text(reply, encoded);
    auto_free uint8_t *bytes = base64 ? malloc(strlen(base64) + 1) : NULL;
    size_t size = 0;
    if (text)
        return fputs(text, to) >= 0 && fflush(to) == 0;
    if (!bytes || !base64_decode(base64, strlen(base64), bytes, &size))
        return !base64;
    return fwrite(bytes, 1, size, to) == size && fflush(to) == 0;
}

static int signal_number(const char *name)
{
    for (int i = 1; i < NSIG; i++)
        if (sigabbrev_np(i) && strncmp(name, "SIG", 3) == 0 &&
            strcmp(name + 3, sigabbrev_np(i)) == 0)
            return i;
    return 0;
}

static int status_of(const cJSON *reply)
{
    const cJSON *status = json_get(reply, "exit");
    const char *name = json_get_text(reply, "signal");
    if (cJSON_IsTrue(json_get(reply, "timed_out")))
        return EXIT_TIMED_OUT;
    if (name)
        return EXIT_SIGNAL + signal_number(name);
    return cJSON_IsNumber(status) && status->valuedouble >= 0 && status->valuedouble < 256
               ? (int)status->valuedouble
               : EXIT_OWN;
}

static int own_failure(const char *text)
{
    cli_fail(&command, text);
    return EXIT_OWN;
}

static int finish(const char *text)
{
    auto_json cJSON *reply = NULL;
    struct error err;
    if (text && json_parse(text, strlen(text), &reply, &err) < 0) {
        error_prefix(&err, 0, "the guest's reply");
        return own_failure(err.text);
    }
    const cJSON *dropped = json_get(reply, "dropped");
    if (!reply)
        return own_failure("the guest took the command, and gave no answer: is that mailbox of "
                           "hypefs-guest --exec?");
    if (!pass_on(reply, "stdout", stdout))
        return own_failure("standard output cannot be written");
    if (!pass_on(reply, "stderr", stderr))
        return EXIT_OWN;
    if (cJSON_IsTrue(json_get(reply, "timed_out")))
        cli_say(stderr, "%s: it was ended, because --timeout-ms were over", command.name);
    if (cJSON_IsNumber(dropped))
        cli_say(stderr, "%s: %.0f bytes of what it printed had no room, and are left out",
                command.name, dropped->valuedouble);
    return status_of(reply);
}

/* ---- the whole ---- */

/* Another payload is in it, waited for or not; or the agent has fewer of them. */
static bool is_taken(int r)
{
    return r == -EAGAIN || r == -EBUSY || r == -ENOENT;
}

/* To the first mailbox that is free; none is: to one of them, where it is waited for. */
static int deliver(const struct talk *talk, const char *payload, int64_t timeout_ms,
                   char **ret_reply, struct error *err)
{
    static const char *const names[] = {"hypefs.exec", "hypefs.exec.2", "hypefs.exec.3",
                                        "hypefs.exec.4"};
    int r = -EAGAIN;
    for (size_t i = 0; i < array_length(names) && is_taken(r); i++)
        r = talk_deliver(talk, names[i], payload, timeout_ms, false, ret_reply, err);
    const char *some = names[(unsigned)getpid() % array_length(names)];
    return is_taken(r) ? talk_deliver(talk, some, payload, timeout_ms, true, ret_reply, err) : r;
}

static int run(const struct arguments *arguments, const char *instance, char **argv,
               char **ret_reply, struct error *err)
{
    struct talk talk;
    auto_free char *payload = NULL;
    int r = talk_open(arguments->mount, instance, &talk, err);
    if (r < 0)
        return r;
    r = talk_check(&talk, "hypefs.exec", err);
    if (r == -ENOENT)
        error_append(err, " (run hypefs-guest --exec in it)");
    if (r == 0)
        r = make_payload(arguments, argv, &payload, err);
    const int64_t most = arguments->timeout_ms + GRACE_MS;
    if (r == 0)
        r = deliver(&talk, payload, most < TALK_TIMEOUT_MAX ? most : TALK_TIMEOUT_MAX, ret_reply,
                    err);
    talk_close(&talk);
    return r;
}

int cli_exec(int argc, char **argv)
{
    struct arguments arguments = {.timeout_ms = TALK_TIMEOUT_MS};
    const struct cli_option options[] = {
        {"mount", .text = &arguments.mount},        {"cwd", .text = &arguments.cwd},
        {"user", .text = &arguments.user},          {"env", .read = add_env},
        {"timeout-ms", .text = &arguments.timeout}, {"no-stdin", 'n', .flag = &arguments.no_stdin},
    };
    auto_free char *reply = NULL;
    struct error err;
    int status = cli_read_options(&command, argc, argv, options, array_length(options), &arguments);
    if (status != CLI_GO_ON)
        return status;
    if (arguments.timeout && !talk_parse_timeout(arguments.timeout, &arguments.timeout_ms))
        return cli_misuse(&command, "--timeout-ms must be a number from 1 to 86400000");
    const char *instance = argv[optind];
    char **words = instance ? argv + optind + 1 : NULL;
    if (words && words[0] && strcmp(words[0], "--") == 0)
        words++;
    if (!words || !words[0])
        return cli_misuse(&command, "it takes INSTANCE and COMMAND");
    signal(SIGPIPE, SIG_IGN);
    if (run(&arguments, instance, words, &reply, &err) < 0)
        return own_failure(err.text);
    return finish(reply);
}
