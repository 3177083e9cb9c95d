/* SPDX-License-Identifier: MIT */
#include "guest/exec_output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/base64.h"
#include "util/utf8.h"

bool exec_output_init(struct exec_output *ret, size_t room)
{
    *ret = (struct exec_output){.bytes = malloc(3 * room), .room = room};
    return ret->bytes;
}

void exec_output_finish(struct exec_output *output)
{
    if (output->bytes)
        explicit_bzero(output->bytes, 3 * output->room);
    free(output->bytes);
    *output = (struct exec_output){0};
}

void exec_output_add(struct exec_output *output, const char *bytes, size_t size)
{
    const size_t room = output->room;
    while (size > 0) {
        if (output->kept == 3 * room) {
            memcpy(output->bytes + room, output->bytes + 2 * room, room);
            output->kept -= room;
            output->dropped += room;
        }
        const size_t part = size < 3 * room - output->kept ? size : 3 * room - output->kept;
        memcpy(output->bytes + output->kept, bytes, part);
        output->kept += part;
        bytes += part;
        size -= part;
    }
}

/* ---- what is shown: a beginning and an end, with something left out between them or not ---- */

struct part {
    const char *bytes;
    size_t size;
};

struct shown {
    struct part head, tail;
    bool text; /* UTF-8 without NULs, and not more than twice as long with its escapes: no control
                  characters */
};

static bool is_inside_character(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* The edges at which something was left out lie between characters. */
static void align(struct shown *shown)
{
    struct part *tail = &shown->tail;
    for (int i = 1; i < UTF8_MAX && tail->size > 0 && is_inside_character(tail->bytes[0]); i++)
        tail->bytes++, tail->size--;
    const size_t whole = utf8_length(shown->head.bytes, shown->head.size);
    if (shown->head.size - whole < UTF8_MAX)
        shown->head.size = whole;
}

static size_t escaped(char c)
{
    return c == '"' || c == '\\' || (c >= '\b' && c <= '\r' && c != '\v') ? 2
           : (unsigned char)c < ' '                                       ? 6
                                                                          : 1;
}

static size_t escaped_length(struct part part)
{
    size_t ret = 0;
    for (size_t i = 0; i < part.size; i++)
        ret += escaped(part.bytes[i]);
    return ret;
}

static bool is_text(const struct shown *shown)
{
    const bool has_nul = memchr(shown->head.bytes, '\0', shown->head.size) ||
                         memchr(shown->tail.bytes, '\0', shown->tail.size);
    return !has_nul && utf8_valid(shown->head.bytes, shown->head.size) &&
           utf8_valid(shown->tail.bytes, shown->tail.size) &&
           escaped_length(shown->head) + escaped_length(shown->tail) <=
               2 * (shown->head.size + shown->tail.size);
}

static struct shown whole(const struct exec_output *output)
{
    const size_t head = output->dropped > 0 ? output->room : output->kept;
    const struct shown all = {
        {output->bytes, head}, {output->bytes + head, output->kept - head}, false};
    struct shown ret = all;
    if (output->dropped > 0)
        align(&ret);
    ret.text = is_text(&ret);
    return ret.text ? ret : all;
}

static size_t length(const struct shown *shown)
{
    return shown->text ? escaped_length(shown->head) + escaped_length(shown->tail)
                       : base64_length(shown->head.size + shown->tail.size);
}

size_t exec_output_length(const struct exec_output *output)
{
    const struct shown shown = whole(output);
    return length(&shown);
}

/* As much of it as has room, half of that for each. */
static struct shown cut(const struct exec_output *output, size_t max)
{
    struct shown ret = whole(output);
    const size_t room = ret.text ? max / 2 : max / 4 * 3 / 2;
    size_t head = 0, tail = 0;
    if (output->dropped == 0) {
        const size_t middle = output->kept / 2;
        ret.head = (struct part){output->bytes, middle};
        ret.tail = (struct part){output->bytes + middle, output->kept - middle};
    }
    const char *end = ret.tail.bytes + ret.tail.size;
    for (size_t used = 0; head < ret.head.size; head++) {
        used += ret.text ? escaped(ret.head.bytes[head]) : 1;
        if (used > room)
            break;
    }
    for (size_t used = 0; tail < ret.tail.size; tail++) {
        used += ret.text ? escaped(end[-1 - (ptrdiff_t)tail]) : 1;
        if (used > room)
            break;
    }
    ret.head.size = head;
    ret.tail = (struct part){end - tail, tail};
    if (ret.text)
        align(&ret);
    return ret;
}

/* ---- writing it ---- */

static char *put_text(struct part part, char *to)
{
    static const char short_ones[] = "btn?fr";
    for (size_t i = 0; i < part.size; i++) {
        const char c = part.bytes[i];
        const size_t size = escaped(c);
        if (size == 6)
            to += sprintf(to, "\\u%04x", (unsigned)c);
        else if (size == 2)
            *to++ = '\\', *to++ = c < ' ' ? short_ones[c - '\b'] : c;
        else
            *to++ = c;
    }
    return to;
}

/* The end is moved to the beginning. */
static char *put_base64(struct exec_output *output, const struct shown *shown, char *to)
{
    const size_t size = shown->head.size + shown->tail.size;
    memmove(output->bytes + shown->head.size, shown->tail.bytes, shown->tail.size);
    base64_encode((const uint8_t *)output->bytes, size, to);
    return to + base64_length(size);
}

size_t exec_output_print(struct exec_output *output, const char *name, size_t max, char *ret,
                         uint64_t *dropped)
{
    struct shown shown = whole(output);
    if (length(&shown) > max)
        shown = cut(output, max);
    const size_t size = shown.head.size + shown.tail.size;
    char *to = ret + sprintf(ret, "\"%s%s\":\"", name, shown.text ? "" : "_base64");
    to = shown.text ? put_text(shown.tail, put_text(shown.head, to))
                    : put_base64(output, &shown, to);
    *dropped += output->dropped + output->kept - size;
    return (size_t)(to + sprintf(to, "\"") - ret);
}
