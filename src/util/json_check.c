/* SPDX-License-Identifier: MIT */
#include "util/json_check.h"

#include <stdint.h>
#include <string.h>

#include "util/hex.h"
#include "util/utf8.h"

/* What may stand next between tokens. */
enum expect { TOP, VALUE, VALUE_OR_END, NAME, NAME_OR_END, COLON, COMMA_OR_END, NOTHING };

struct scanner {
    const uint8_t *text;
    size_t size, at;
    const char *why;
    unsigned depth;
    bool in_array[JSON_DEPTH_MAX + 1]; /* by depth; 0 is outside of everything */
};

static enum json_status wrong(struct scanner *s, const char *why)
{
    s->why = why;
    return JSON_INVALID;
}

static bool is_space(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static enum json_status scan_escape(struct scanner *s)
{
    if (++s->at == s->size)
        return JSON_INCOMPLETE;
    uint8_t c = s->text[s->at];
    if (c == 0 || !strchr("\"\\/bfnrtu", c))
        return wrong(s, "no such escape in a string");
    s->at++;
    for (int i = 0; c == 'u' && i < 4; i++, s->at++) {
        if (s->at == s->size)
            return JSON_INCOMPLETE;
        if (hex_digit((char)s->text[s->at]) < 0)
            return wrong(s, "\\u must be followed by four hex digits");
    }
    return JSON_COMPLETE;
}

static enum json_status scan_string(struct scanner *s)
{
    static const enum json_status of_utf8[] = {
        [UTF8_WHOLE] = JSON_COMPLETE, [UTF8_CUT] = JSON_INCOMPLETE, [UTF8_WRONG] = JSON_INVALID};
    enum json_status status = JSON_COMPLETE;
    for (s->at++; s->at < s->size && status == JSON_COMPLETE;) {
        uint8_t c = s->text[s->at];
        if (c == '"') {
            s->at++;
            return JSON_COMPLETE;
        }
        if (c < 0x20)
            return wrong(s, c ? "a control character in a string must be escaped" : "a NUL byte");
        if (c == '\\')
            status = scan_escape(s);
        else
            status = of_utf8[utf8_step(s->text, s->size, &s->at)];
    }
    if (status == JSON_INVALID)
        return s->why ? JSON_INVALID : wrong(s, "not UTF-8");
    return JSON_INCOMPLETE;
}

static enum json_status scan_digits(struct scanner *s)
{
    if (s->at == s->size)
        return JSON_INCOMPLETE;
    if (!is_digit(s->text[s->at]))
        return wrong(s, "a digit is missing in a number");
    while (s->at < s->size && is_digit(s->text[s->at]))
        s->at++;
    return JSON_COMPLETE;
}

static bool next_is(const struct scanner *s, const char *any)
{
    return s->at < s->size && s->text[s->at] != 0 && strchr(any, s->text[s->at]);
}

static enum json_status scan_number(struct scanner *s)
{
    enum json_status status = JSON_COMPLETE;
    s->at += next_is(s, "-");
    if (next_is(s, "0")) {
        s->at++;
    } else {
        status = scan_digits(s);
    }
    if (status == JSON_COMPLETE && next_is(s, ".")) {
        s->at++;
        status = scan_digits(s);
    }
    if (status == JSON_COMPLETE && next_is(s, "eE")) {
        s->at++;
        s->at += next_is(s, "+-");
        status = scan_digits(s);
    }
    return status;
}

static enum json_status scan_literal(struct scanner *s, const char *word)
{
    for (; *word; word++, s->at++) {
        if (s->at == s->size)
            return JSON_INCOMPLETE;
        if (s->text[s->at] != (uint8_t)*word)
            return wrong(s, "a value is expected here");
    }
    return JSON_COMPLETE;
}

static enum json_status enter(struct scanner *s, bool array, enum expect *next)
{
    if (s->depth == JSON_DEPTH_MAX)
        return wrong(s, "nested too deeply (128 levels are allowed)");
    s->in_array[++s->depth] = array;
    s->at++;
    *next = array ? VALUE_OR_END : NAME_OR_END;
    return JSON_COMPLETE;
}

static enum json_status leave(struct scanner *s, enum expect *next)
{
    s->depth--;
    s->at++;
    *next = s->depth ? COMMA_OR_END : NOTHING;
    return JSON_COMPLETE;
}

static enum json_status scan_value(struct scanner *s, enum expect *next)
{
    uint8_t c = s->text[s->at];
    *next = COMMA_OR_END;
    if (c == '{' || c == '[')
        return enter(s, c == '[', next);
    if (c == '"')
        return scan_string(s);
    if (c == '-' || is_digit(c))
        return scan_number(s);
    if (c == 't')
        return scan_literal(s, "true");
    if (c == 'f')
        return scan_literal(s, "false");
    if (c == 'n')
        return scan_literal(s, "null");
    return wrong(s, c ? "a value is expected here" : "a NUL byte");
}

static enum json_status scan_comma_or_end(struct scanner *s, enum expect *next)
{
    bool array = s->in_array[s->depth];
    if (next_is(s, array ? "]" : "}"))
        return leave(s, next);
    if (!next_is(s, ","))
        return wrong(s, array ? "a , or ] is expected here" : "a , or } is expected here");
    s->at++;
    *next = array ? VALUE : NAME;
    return JSON_COMPLETE;
}

/* One token; the scanner stands on its first byte, which is no white space. */
static enum json_status scan_token(struct scanner *s, enum expect *next)
{
    switch (*next) {
    case TOP:
        if (!next_is(s, "{"))
            return wrong(s, "a JSON object must begin with {");
        return enter(s, false, next);
    case VALUE_OR_END:
        if (next_is(s, "]"))
            return leave(s, next);
        return scan_value(s, next);
    case VALUE:
        return scan_value(s, next);
    case NAME_OR_END:
        if (next_is(s, "}"))
            return leave(s, next);
        __attribute__((fallthrough));
    case NAME:
        if (!next_is(s, "\""))
            return wrong(s, "a member's name in double quotes is expected here");
        *next = COLON;
        return scan_string(s);
    case COLON:
        if (!next_is(s, ":"))
            return wrong(s, "a : is expected here");
        s->at++;
        *next = VALUE;
        return JSON_COMPLETE;
    case COMMA_OR_END:
        return scan_comma_or_end(s, next);
    case NOTHING:
        break;
    }
    return wrong(s, "nothing may follow the object");
}

void json_check_place(const char *text, struct json_check *check)
{
    check->line = check->column = 1;
    for (size_t i = 0; i < check->offset; i++) {
        check->column++;
        if (text[i] == '\n') {
            check->line++;
            check->column = 1;
        }
    }
}

enum json_status json_check(const char *text, size_t size, struct json_check *ret)
{
    struct scanner s = {.text = (const uint8_t *)text, .size = size};
    enum json_status status = JSON_COMPLETE;
    enum expect next = TOP;

    *ret = (struct json_check){0};
    while (status == JSON_COMPLETE) {
        while (s.at < size && is_space(s.text[s.at]))
            s.at++;
        if (s.at == size)
            break;
        if (next == TOP)
            ret->object.start = s.at;
        status = scan_token(&s, &next);
        if (next == NOTHING && !ret->object.end)
            ret->object.end = s.at;
    }
    if (status == JSON_COMPLETE && next != NOTHING)
        status = JSON_INCOMPLETE;
    ret->offset = s.at;
    ret->why = s.why ? s.why : "";
    json_check_place(text, ret);
    return status;
}
