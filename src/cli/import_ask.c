/* SPDX-License-Identifier: MIT */
#include "cli/import_ask.h"

#include <errno.h>
#include <stdlib.h>

#include "util/cleanup.h"

/* What a stranger has saved may be code: it is never loaded by a VMM that sees this host. */
static int shut_in(int directory_fd, struct vmm_confine *ret, struct error *err)
{
    struct error why = {0};
    int r = vmm_confine_find(ret, directory_fd, &why);
    if (r == 0 && ret->no_namespaces)
        r = -EOPNOTSUPP;
    return r < 0 ? error_set(err, -r, "it cannot be shut in on this host: %s", why.text) : 0;
}

int import_ask_in(const struct store *store, const char *hypervisor, const char *program,
                  const struct import_files *files, int cancel_fd, cJSON **ret, struct error *err)
{
    struct store_entry entry = {.fd = -1, .run_fd = -1};
    struct vmm_confine confine = {0};
    struct vmm_context context = {
        .confine = &confine, .binary = program, .cancel_fd = cancel_fd, .directory_fd = -1};
    int r = store_entry_create(store, STORE_INSTANCES, &entry, err);
    if (r == 0)
        r = shut_in(entry.run_fd, &confine, err);
    context.directory_fd = entry.run_fd;
    context.entry_fd = entry.fd;
    if (r == 0)
        r = import_ask(hypervisor, &context, files, ret, err);
    store_entry_discard(&entry);
    return r;
}
