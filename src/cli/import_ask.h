/* SPDX-License-Identifier: MIT */
/* import_ask: has a VMM load what is to be imported, to ask it what nobody has said of the machine.
 */
#ifndef HYPEFS_CLI_IMPORT_ASK_H
#define HYPEFS_CLI_IMPORT_ASK_H

#include "hypervisor/import.h"
#include "store/store.h"

/* In an entry of the store, which goes again. `program`: NULL: that of PATH. ECANCELED when
 * `cancel_fd` becomes readable. `ret` as that of import_ask(); any other failure: what the machine
 * has cannot be known so. */
int import_ask_in(const struct store *store, const char *hypervisor, const char *program,
                  const struct import_files *files, int cancel_fd, cJSON **ret, struct error *err);

#endif
