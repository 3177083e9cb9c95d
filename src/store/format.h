/* SPDX-License-Identifier: MIT */
/* format: which hypefs may use a store. STORE/format is { "format": N }; a store without it is one
 * that version 0.1 made, whose format is 1. It grows when what a store has cannot be understood, or
 * would be damaged, by the version before, and with it the `version` of what is in the store: of
 * that alone 0.1 knows. What is there only for moments, or is rare, grows that alone: the version
 * before leaves that entry out, and can read all else. */
#ifndef HYPEFS_STORE_FORMAT_H
#define HYPEFS_STORE_FORMAT_H

#include <cjson/cJSON.h>

#include "util/error.h"

enum { STORE_FORMAT = 1 };

/* EOPNOTSUPP: another format; EINVAL: a bad file. A store (at `path`) without the file is fine. */
int format_check(int store_fd, const char *path, struct error *err)
    __attribute__((warn_unused_result));
/* The same, and then there is one. With the store's lock. */
int format_claim(int store_fd, const char *path, struct error *err)
    __attribute__((warn_unused_result));

/* Is "version" of what was read from the file `name` (of an entry) at most the one that is known?
 * EOPNOTSUPP for a larger number, EINVAL for none. */
int format_check_version(const cJSON *json, const char *name, int known, struct error *err)
    __attribute__((warn_unused_result));

/* "version" of an entry's file. The second has something that 0.1 would ignore, to the harm of the
 * guest, so that 0.1 leaves the entry alone. */
enum { FORMAT_FIRST_VERSION = 1, FORMAT_SECOND_VERSION = 2 };
/* That of an entry whose machine this is (its JSON): the second with a "boot", or with a disk whose
 * "saved_path" is not its "path". */
int format_machine_version(const cJSON *machine);

#endif
