/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdio.h>

#include "instance/instance.h"
#include "util/cleanup.h"

void instances_warn(const struct instances *instances, const char *format, ...)
{
    va_list arguments;
    auto_free char *text = NULL;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0)
        text = NULL;
    va_end(arguments);
    instances->setup.warn(instances->setup.context, text ? text : "out of memory");
}
