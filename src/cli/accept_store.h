/* SPDX-License-Identifier: MIT */
/* accept_store: hypefs accept without a mount. */
#ifndef HYPEFS_CLI_ACCEPT_STORE_H
#define HYPEFS_CLI_ACCEPT_STORE_H

#include <cjson/cJSON.h>
#include <stdbool.h>

/*
 * Vouches for the entries "snapshots/ID" and "instances/ID" of a store that no daemon has open; its
 * lock is held meanwhile. Prints what had changed, and why one cannot be vouched for. Returns the
 * exit status.
 */
int accept_store(const char *path, bool insecure, char *const *names, int count);
/* Prints what was accepted of that name: `accepted` as an index has it, or NULL. */
void accept_print(const char *name, const cJSON *accepted);

#endif
