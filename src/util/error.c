/* SPDX-License-Identifier: MIT */
#include "util/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "util/limit.h"
#include "util/text.h"

/* Names of files, words of guests and VMMs may be in it: it is one line, and fit for a terminal. */
static void put_behind(struct error *err, size_t used, char *raw)
{
    text_make_utf8(raw);
    text_escape(raw, strlen(raw), "", err->text + used, sizeof err->text - used);
}

__attribute__((format(printf, 3, 0))) static void write_from(struct error *err, size_t used,
                                                             const char *format, va_list args)
{
    char raw[ERROR_TEXT_SIZE];
    vsnprintf(raw, sizeof raw, format, args);
    put_behind(err, used, raw);
}

__attribute__((format(printf, 3, 0))) static void put(struct error *err, int code,
                                                      const char *format, va_list args)
{
    err->code = code;
    write_from(err, 0, format, args);
}

/* Once, however often the text is handed on. */
static void explain(struct error *err)
{
    char text[LIMIT_TEXT_SIZE];
    limit_explain(err->code, text);
    if (text[0] && !strstr(err->text, text))
        error_append(err, " (%s)", text);
}

int error_set(struct error *err, int code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        put(err, code, format, args);
        va_end(args);
        if (code == ENOMEM)
            explain(err);
    }
    return -code;
}

void error_append(struct error *err, const char *format, ...)
{
    if (!err)
        return;
    size_t used = strlen(err->text);
    va_list args;
    va_start(args, format);
    write_from(err, used, format, args);
    va_end(args);
}

__attribute__((format(printf, 3, 0))) static void put_errno(struct error *err, int code,
                                                            const char *format, va_list args)
{
    put(err, code, format, args);
    error_append(err, ": %s", strerrordesc_np(code));
    explain(err);
}

int error_errno(struct error *err, int code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        put_errno(err, code, format, args);
        va_end(args);
    }
    return -code;
}

int error_io(struct error *err, int code, const char *format, ...)
{
    const int r = limit_or_io(-code);
    if (err) {
        va_list args;
        va_start(args, format);
        put_errno(err, code, format, args);
        va_end(args);
        err->code = -r;
    }
    return r;
}

/* The beginning of a program's words, without the end of their last line. */
static void put_words(struct error *err, const char *words)
{
    char line[ERROR_WORDS_MAX + 1];
    size_t size = (size_t)snprintf(line, sizeof line, "%s", words);
    size = size < sizeof line ? size : sizeof line - 1;
    while (size > 0 && (unsigned char)line[size - 1] <= ' ')
        size--;
    line[size] = '\0';
    text_make_utf8(line);
    text_make_printable(line, strlen(line), ' ');
    error_append(err, ": %s", line);
}

int error_words(struct error *err, const char *words, const char *format, ...)
{
    const int limit = limit_named(words), code = limit ? limit : EIO;
    if (err) {
        va_list args;
        va_start(args, format);
        put(err, code, format, args);
        va_end(args);
        put_words(err, words);
        explain(err);
    }
    return -code;
}

int error_prefix(struct error *err, int ret, const char *format, ...)
{
    if (err) {
        char raw[2 * ERROR_TEXT_SIZE];
        va_list args;
        va_start(args, format);
        vsnprintf(raw, ERROR_TEXT_SIZE, format, args);
        va_end(args);
        size_t used = strlen(raw);
        snprintf(raw + used, sizeof raw - used, ": %s", err->text);
        put_behind(err, 0, raw);
    }
    return ret;
}

const char *error_name(int code)
{
    const char *name = strerrorname_np(code);
    return name ? name : "E?";
}
