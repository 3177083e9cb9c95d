/* SPDX-License-Identifier: MIT */
#include "util/arguments.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void arguments_take(struct arguments *arguments, char *item)
{
    char **items = reallocarray(arguments->items, arguments->count + 2, sizeof *items);
    if (items)
        arguments->items = items;
    if (!items || !item) {
        free(item);
        arguments->failed = true;
        return;
    }
    items[arguments->count++] = item;
    items[arguments->count] = NULL;
}

void arguments_add(struct arguments *arguments, const char *item)
{
    arguments_take(arguments, strdup(item));
}

void arguments_add_format(struct arguments *arguments, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *item = NULL;
    if (vasprintf(&item, format, args) < 0)
        item = NULL;
    va_end(args);
    arguments_take(arguments, item);
}

void arguments_finish(struct arguments *arguments)
{
    for (size_t i = 0; i < arguments->count; i++)
        free(arguments->items[i]);
    free(arguments->items);
    *arguments = (struct arguments){0};
}
