/* SPDX-License-Identifier: MIT */
/* internal: a fork under way, shared by the files of fork/ and nobody else. */
#ifndef HYPEFS_FORK_INTERNAL_H
#define HYPEFS_FORK_INTERNAL_H

#include "fork/engine.h"

enum fork_phase {
    FORK_VALIDATE,
    FORK_LOCATE,
    FORK_LOAD,
    FORK_PATCH,
    FORK_RESUME,
    FORK_NETWORK,
    FORK_ACK,
    FORK_PHASES
};
extern const char *const fork_phase_names[FORK_PHASES];

struct fork {
    const struct fork_engine *engine;
    struct snapshot *source;
    struct fork_request *request;

    bool using_source; /* snapshot_use() is to be undone */
    struct instance *instance;
    struct machine machine;
    struct image_index *index;
    struct ack_socket socket;
    struct delivery deliveries[DELIVER_MAILBOXES_MAX];
    struct store_entry entry;
    struct vmm *vmm;
    double resumed_at_ms; /* process_now_ms() */
    unsigned ignored;     /* datagrams */

    enum fork_phase phase;
    double phase_ms[FORK_PHASES], total_ms;
    const char *failed_mailbox; /* whose fault the failure is, or NULL */
};

/* record.c. `err` NULL: it succeeded. Returns owned. */
cJSON *fork_result(const struct fork *fork, const struct error *err);
cJSON *fork_record(const struct fork *fork, const cJSON *result);

#endif
