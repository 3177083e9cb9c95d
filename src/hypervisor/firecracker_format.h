/* SPDX-License-Identifier: MIT */
/* firecracker_format: how a state that Firecracker has saved begins: for which processors it is,
 * and in which version of the format, which tells which Firecrackers load it. The bytes are
 * untrusted. No state; any thread. */
#ifndef HYPEFS_HYPERVISOR_FIRECRACKER_FORMAT_H
#define HYPEFS_HYPERVISOR_FIRECRACKER_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FIRECRACKER_HEAD_SIZE = 48 }; /* bytes, more than the head ever has */

struct firecracker_version {
    unsigned major, minor; /* both 0: not known */
};

struct firecracker_head {
    const char *architecture; /* "x86-64", "arm64" */
    bool native;              /* that is this host's */
    bool old;                 /* saved before 1.7 */
    struct firecracker_version format;
};

/* False: it is no head of such a state. */
bool firecracker_head_read(const uint8_t *bytes, size_t size, struct firecracker_head *ret);

extern const char firecracker_host_architecture[];

/* What `firecracker --snapshot-version` prints: "v10.0.0". */
struct firecracker_version firecracker_format_parse(const char *text);

/* Does a Firecracker that writes `own` load what was saved in `format`? True also where one is not
 * known: Firecracker itself says. */
bool firecracker_format_fits(struct firecracker_version format, struct firecracker_version own);

/* The releases that write it, in words: "1.13 or 1.14"; NULL: not known. */
const char *firecracker_format_releases(struct firecracker_version format);

#endif
