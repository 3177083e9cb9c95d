/* SPDX-License-Identifier: MIT */
/*
 * identity: what makes a clone another than its siblings, as the last member of each payload.
 *
 *     "fork":{"id":"web-1","generation":"<32 hex digits>","seed":"<64 hex digits>","time":NS}
 *
 * Of one fork all payloads say the same. The wall clock is put in just before they are written:
 * until then a 0 stands in its place.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "fork/internal.h"

int identity_check(struct fork *fork, struct error *err)
{
    struct fork_request *request = fork->request;
    for (size_t i = 0; i < request->count; i++) {
        struct fork_mailbox *mailbox = &request->mailboxes[i];
        struct json_span all = {.start = 0, .end = mailbox->payload_size};
        int r = fork_check_payload(mailbox->payload, all, mailbox, true, err);
        if (r < 0) {
            fork->failed_mailbox = mailbox->name;
            return error_prefix(err, r, "mailbox \"%s\"", mailbox->name);
        }
    }
    return 0;
}

void identity_make(struct fork_identity *identity)
{
    store_random_hex(identity->generation, FORK_GENERATION_SIZE / 2);
    store_random_hex(identity->seed, FORK_SEED_SIZE / 2);
}

int identity_append(const struct fork *fork, struct fork_mailbox *mailbox, struct error *err)
{
    char member[FORK_IDENTITY_MAX];
    const struct fork_identity *identity = &fork->identity;
    snprintf(member, sizeof member,
             "\"fork\":{\"id\":\"%s\",\"generation\":\"%s\",\"seed\":\"%s\",\"time\":%*d}",
             fork->request->id, identity->generation, identity->seed, FORK_TIME_SIZE, 0);
    int r = fork_append(mailbox, member, err);
    explicit_bzero(member, sizeof member);
    return r;
}

void identity_set_time(struct fork *fork)
{
    struct timespec now;
    char digits[FORK_TIME_SIZE + 1];
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    snprintf(digits, sizeof digits, "%*" PRId64, FORK_TIME_SIZE, ns);
    for (size_t i = 0; i < fork->request->count; i++) {
        struct fork_mailbox *mailbox = &fork->request->mailboxes[i];
        char *end = mailbox->payload + mailbox->payload_size - (sizeof "}}" - 1);
        memcpy(end - FORK_TIME_SIZE, digits, FORK_TIME_SIZE);
    }
}
