/* SPDX-License-Identifier: MIT */
#include "guest/exec_request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/internal.h"
#include "util/base64.h"
#include "util/hex.h"
#include "util/json_check.h"

/* What is parsed, and where its strings go. */
struct parse {
    const char *text;
    struct exec_request *request;
    char *next; /* the strings' free end: they are never longer than the text */
    char *reason;
    size_t reason_size;
};

static bool refuse(const struct parse *parse, const char *name, const char *what)
{
    snprintf(parse->reason, parse->reason_size, "\"%s\" must be %s", name, what);
    return false;
}

static size_t put_utf8(uint32_t code, char *ret)
{
    if (code < 0x80) {
        ret[0] = (char)code;
        return 1;
    }
    const size_t size = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const uint8_t leads[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = size - 1; i > 0; i--, code >>= 6)
        ret[i] = (char)(0x80 | (code & 0x3f));
    ret[0] = (char)(leads[size] | code);
    return size;
}

/* The four digits of an escape; the text was checked. */
static uint32_t read_unit(const char *digits)
{
    uint32_t unit = 0;
    for (int i = 0; i < 4; i++)
        unit = unit << 4 | (uint32_t)hex_digit(digits[i]);
    return unit;
}

/* Returns how long the escape is. */
static size_t decode_escape(const char *at, const char *end, char **to)
{
    static const char escapes[] = "b\bf\fn\nr\rt\t";
    if (at[1] != 'u') {
        const char *found = strchr(escapes, at[1]);
        *(*to)++ = found ? found[1] : at[1];
        return 2;
    }
    uint32_t code = read_unit(at + 2);
    const bool high = code >= 0xd800 && code < 0xdc00;
    const bool pair = high && end - at >= 12 && at[6] == '\\' && at[7] == 'u';
    const uint32_t low = pair ? read_unit(at + 8) : 0;
    const bool whole = low >= 0xdc00 && low < 0xe000;
    if (whole)
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    else if (code >= 0xd800 && code < 0xe000)
        code = 0xfffd; /* half of a character */
    *to += put_utf8(code, *to);
    return whole ? 12 : 6;
}

/* Between the quotes; no NUL behind. */
static void decode(struct parse *parse, struct json_span inside)
{
    const char *at = parse->text + inside.start, *end = parse->text + inside.end;
    while (at < end)
        if (*at == '\\')
            at += decode_escape(at, end, &parse->next);
        else
            *parse->next++ = *at++;
}

static bool take_text(struct parse *parse, struct json_span value, const char **ret,
                      size_t *ret_size)
{
    char *start = parse->next;
    if (parse->text[value.start] != '"')
        return false;
    decode(parse, (struct json_span){value.start + 1, value.end - 1});
    *ret_size = (size_t)(parse->next - start);
    *parse->next++ = '\0';
    *ret = start;
    return true;
}

/* A text without a NUL. */
static bool take_word(struct parse *parse, struct json_span value, const char **ret)
{
    size_t size;
    return take_text(parse, value, ret, &size) && strlen(*ret) == size;
}

/* ---- the members ---- */

static bool take_argv(struct parse *parse, struct json_span value)
{
    static const char what[] = "an array of at least one string, without NULs";
    struct json_span item;
    size_t count = 0, at = value.start;
    if (parse->text[value.start] != '[')
        return refuse(parse, "argv", what);
    while (json_next_item(parse->text, value, &at, &item)) {
        const char *word;
        if (!take_word(parse, item, &word))
            return refuse(parse, "argv", what);
        parse->request->argv[count++] = (char *)(uintptr_t)word;
    }
    parse->request->argv[count] = NULL;
    return count > 0 && parse->request->argv[0][0] ? true : refuse(parse, "argv", what);
}

static bool take_env(struct parse *parse, struct json_span value)
{
    static const char what[] = "an object of strings, without NULs; no name is \"\" or has \"=\"";
    struct json_member member;
    size_t count = 0, at = value.start;
    if (parse->text[value.start] != '{')
        return refuse(parse, "env", what);
    while (json_next_member(parse->text, value, &at, &member)) {
        char *pair = parse->next;
        const char *text;
        decode(parse, member.name);
        const size_t size = (size_t)(parse->next - pair);
        if (size == 0 || memchr(pair, '=', size) || memchr(pair, '\0', size))
            return refuse(parse, "env", what);
        *parse->next++ = '=';
        if (!take_word(parse, member.value, &text))
            return refuse(parse, "env", what);
        parse->request->env[count++] = pair;
    }
    parse->request->env[count] = NULL;
    return true;
}

static bool take_cwd(struct parse *parse, struct json_span value)
{
    return take_word(parse, value, &parse->request->cwd) ? true : refuse(parse, "cwd", "a string");
}

static bool take_user(struct parse *parse, struct json_span value)
{
    return take_word(parse, value, &parse->request->user) && parse->request->user[0]
               ? true
               : refuse(parse, "user", "a name or a number, as a string");
}

static bool take_stdin(struct parse *parse, struct json_span value)
{
    struct exec_request *request = parse->request;
    if (request->input)
        return refuse(parse, "stdin", "given once, as it is or as stdin_base64");
    return take_text(parse, value, &request->input, &request->input_size)
               ? true
               : refuse(parse, "stdin", "a string");
}

static bool take_stdin_base64(struct parse *parse, struct json_span value)
{
    struct exec_request *request = parse->request;
    if (!take_stdin(parse, value))
        return false;
    return base64_decode(request->input, request->input_size, (uint8_t *)(uintptr_t)request->input,
                         &request->input_size)
               ? true
               : refuse(parse, "stdin_base64", "base64, with its padding");
}

static bool take_timeout(struct parse *parse, struct json_span value)
{
    const struct guest_span span = {parse->text + value.start, value.end - value.start};
    return guest_number(span, EXEC_TIMEOUT_MAX, &parse->request->timeout_ms)
               ? true
               : refuse(parse, "timeout_ms", "a number from 0 to 86400000");
}

static const struct {
    const char *name;
    bool (*take)(struct parse *parse, struct json_span value);
} members[] = {
    {"argv", take_argv},          {"env", take_env},     {"cwd", take_cwd},
    {"user", take_user},          {"stdin", take_stdin}, {"stdin_base64", take_stdin_base64},
    {"timeout_ms", take_timeout},
};

static bool take_member(struct parse *parse, const struct json_member *member)
{
    const char *name = parse->text + member->name.start;
    const size_t size = member->name.end - member->name.start;
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        if (strlen(members[i].name) == size && memcmp(members[i].name, name, size) == 0)
            return members[i].take(parse, member->value);
    return true; /* what the host has added, say */
}

static bool has_memory(struct exec_request *request, size_t size)
{
    /* Each item is at least "" and a comma, or its bracket. */
    request->strings = malloc(size + 1);
    request->size = size + 1;
    request->argv = calloc(size / 3 + 2, sizeof *request->argv);
    request->env = calloc(size / 3 + 2, sizeof *request->env);
    return request->strings && request->argv && request->env;
}

bool exec_request_parse(const char *payload, size_t size, struct exec_request *ret, char *reason,
                        size_t reason_size)
{
    struct parse parse = {payload, ret, NULL, reason, reason_size};
    struct json_check check;
    struct json_member member;
    *ret = (struct exec_request){0};
    if (json_check(payload, size, &check) != JSON_COMPLETE) {
        snprintf(reason, reason_size, "the payload is not a JSON object");
        return false;
    }
    if (!has_memory(ret, size)) {
        snprintf(reason, reason_size, "out of memory");
        return false;
    }
    parse.next = ret->strings;
    for (size_t at = check.object.start; json_next_member(payload, check.object, &at, &member);)
        if (!take_member(&parse, &member))
            return false;
    return ret->argv[0] ? true : refuse(&parse, "argv", "given: the command and its arguments");
}

void exec_request_finish(struct exec_request *request)
{
    if (request->strings)
        explicit_bzero(request->strings, request->size);
    free(request->strings);
    free(request->argv);
    free(request->env);
    *request = (struct exec_request){0};
}
