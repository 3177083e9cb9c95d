/* SPDX-License-Identifier: MIT */
#include "hypervisor/qemu_readonly.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/libexec.h"

static const char library_name[] = "hypefs-readonly.so";

bool qemu_readonly_is_option(const struct program *program)
{
    unsigned major = 0, minor = 0;
    return sscanf(program->version, "%4u.%4u", &major, &minor) == 2 &&
           (major > 8 || (major == 8 && minor >= 2));
}

/* The loader of the other program takes a path with neither ':' nor ' ' in it. */
static int find_library(char ret[static PATH_MAX], struct error *err)
{
    int r = libexec_find("preload", library_name, ret, err);
    if (r < 0)
        return error_prefix(err, r, "a QEMU older than 8.2 needs a library of hypefs's");
    return strpbrk(ret, ": ") ? error_set(err, EIO,
                                          "%s: the path must have no colon and no blank in it: "
                                          "install hypefs elsewhere",
                                          ret)
                              : 0;
}

int qemu_readonly_prepare(const char *image, struct qemu_readonly *ret, struct error *err)
{
    const char *before = getenv("LD_PRELOAD");
    bool others = before && before[0];
    *ret = (struct qemu_readonly){0};
    int r = find_library(ret->library, err);
    if (r < 0)
        return r;
    if (asprintf(&ret->preload, "LD_PRELOAD=%s%s%s", ret->library, others ? ":" : "",
                 others ? before : "") < 0)
        ret->preload = NULL;
    if (asprintf(&ret->image, "HYPEFS_READONLY=%s", image) < 0)
        ret->image = NULL;
    if (!ret->preload || !ret->image)
        return error_set(err, ENOMEM, "no memory for QEMU's environment");
    ret->environment[0] = ret->preload;
    ret->environment[1] = ret->image;
    return 0;
}

void qemu_readonly_finish(struct qemu_readonly *readonly)
{
    free(readonly->preload);
    free(readonly->image);
    *readonly = (struct qemu_readonly){0};
}
