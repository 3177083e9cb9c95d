/* SPDX-License-Identifier: MIT */
#include "hypervisor/firecracker_program.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hypervisor/firecracker_control.h"
#include "hypervisor/firecracker_format.h"
#include "util/cleanup.h"
#include "util/plain_file.h"
#include "util/process.h"

enum { PROBE_MS = 10000, PROBE_OUTPUT_MAX = 4096 };

static const char program_name[] = "firecracker";

/* It is no failure if it does not know the option. */
static int ask_format(int cancel_fd, struct program *ret, struct error *err)
{
    const char *const arguments[] = {ret->path, "--snapshot-version", NULL};
    auto_free char *text = NULL;
    struct error why;
    int r = process_output(-1, arguments, PROBE_OUTPUT_MAX, PROBE_MS, cancel_fd, &text, &why);
    if (r == 0)
        snprintf(ret->format, sizeof ret->format, "%.*s", (int)strcspn(text, "\r\n"), text);
    return r == 0 || r == -EIO ? 0 : error_set(err, -r, "%s", why.text);
}

static int probe(int cancel_fd, struct program *ret, struct error *err)
{
    const char *const arguments[] = {ret->path, "--version", NULL};
    auto_free char *text = NULL;
    struct firecracker firecracker;
    int r = process_output(-1, arguments, PROBE_OUTPUT_MAX, PROBE_MS, cancel_fd, &text, err);
    if (r < 0)
        return r;
    static const char before[] = "Firecracker ";
    const char *found = strstr(text, before);
    if (found)
        text[found - text + (ptrdiff_t)strcspn(found, "\r\n")] = '\0';
    if (!found || !firecracker_parse_version(found + strlen(before), &firecracker))
        return error_set(err, EIO, "%s --version does not print a version of Firecracker",
                         ret->path);
    snprintf(ret->version, sizeof ret->version, "%s", firecracker.version);
    return ask_format(cancel_fd, ret, err);
}

int firecracker_find_program(const struct vmm_context *context, struct program *ret,
                             struct error *err)
{
    return programs_find(context->programs, context->binary ? context->binary : program_name, probe,
                         context->cancel_fd, ret, err);
}

/* Firecracker's own words would not say which one can. */
int firecracker_check_format(const struct vmm_context *context, const char *path,
                             const struct program *program, struct error *err)
{
    uint8_t bytes[FIRECRACKER_HEAD_SIZE];
    struct firecracker_head head;
    auto_close int fd = -1;
    int r = plain_file_open(context->directory_fd, path, O_RDONLY, path, &fd, err);
    if (r < 0)
        return r;
    ssize_t got = pread(fd, bytes, sizeof bytes, 0);
    if (got < 0)
        return error_io(err, errno, "%s cannot be read", path);
    if (!firecracker_head_read(bytes, (size_t)got, &head) ||
        firecracker_format_fits(head.format, firecracker_format_parse(program->format)))
        return 0;
    const char *releases = firecracker_format_releases(head.format);
    return error_set(err, EOPNOTSUPP,
                     "the saved state has the format %u.%u, which Firecracker %s writes, and the "
                     "program here, Firecracker %s, loads %s: give hypefs another one with "
                     "--firecracker",
                     head.format.major, head.format.minor,
                     releases ? releases : "of another release", program->version, program->format);
}
