/* SPDX-License-Identifier: MIT */
#include "util/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "util/limit.h"
#include "util/text.h"

__attribute__((format(printf, 3, 0))) static void put(struct error *err, int code,
                                                      const char *format, va_list args)
{
    err->code = code;
    vsnprintf(err->text, sizeof err->text, format, args);
    text_make_utf8(err->text); /* it becomes part of JSON */
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
    vsnprintf(err->text + used, sizeof err->text - used, format, args);
    va_end(args);
    text_make_utf8(err->text);
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

int error_prefix(struct error *err, int ret, const char *format, ...)
{
    if (err) {
        char before[ERROR_TEXT_SIZE];
        memcpy(before, err->text, sizeof before);
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        error_append(err, ": %s", before);
    }
    return ret;
}

const char *error_name(int code)
{
    const char *name = strerrorname_np(code);
    return name ? name : "E?";
}
