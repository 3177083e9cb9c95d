/* SPDX-License-Identifier: MIT */
/*
 * search: frames that are not where their payload was written, because the guest's kernel has moved
 * them (mailbox/moved.h). While an ack is waited for, the pages that the VM has written to are
 * looked through, 0.1 s after the resume, 0.2 s after that, and so on to 10 s; what is found armed
 * gets the payload again. A frame that may be another program's by the time of the write must not
 * be written to, so the VM stands still then.
 */
#include <stdlib.h>

#include "fork/internal.h"
#include "hypervisor/hypervisor.h"

enum { HITS_MAX = 64, FIRST_AFTER_MS = 100, LAST_AFTER_MS = 10000 };

struct hit {
    size_t delivery;
    uint64_t offset;
    enum moved_page page;
};

struct search {
    const struct fork *fork;
    bool wanted[FORK_DELIVERIES_MAX];
    struct hit hits[HITS_MAX];
    size_t count;
};

/* Which deliveries are waited for, and may be elsewhere? False: none. */
static bool choose(struct fork *fork, bool ret[FORK_DELIVERIES_MAX])
{
    bool any = false;
    for (size_t i = 0; i < fork->count; i++) {
        const struct fork_mailbox *mailbox = fork->mailboxes[i];
        ret[i] = mailbox->wait_for_ack && mailbox->ack.state == ACK_WAITING &&
                 moved_is_possible(&fork->deliveries[i]);
        any = any || ret[i];
    }
    return any;
}

static int look_at_pages(void *context, uint64_t offset, const uint8_t *bytes, size_t size,
                         struct error *err)
{
    struct search *search = context;
    (void)err;
    for (size_t at = 0; at + FRAME_SIZE <= size; at += FRAME_SIZE)
        for (size_t i = 0; i < search->fork->count; i++) {
            enum moved_page page = search->wanted[i]
                                       ? moved_judge(&search->fork->deliveries[i], bytes + at)
                                       : MOVED_OTHER;
            if (page != MOVED_OTHER && search->count < HITS_MAX &&
                moved_has_room(&search->fork->deliveries[i], offset + at))
                search->hits[search->count++] =
                    (struct hit){.delivery = i, .offset = offset + at, .page = page};
        }
    return 0;
}

/* To a frame that is armed, if there is room for one more copy: what is written is known, so that a
 * save of the VM wipes it. What is not done the next search finds again. */
static void handle_hit(struct fork *fork, const struct hit *hit)
{
    struct delivery *delivery = &fork->deliveries[hit->delivery];
    bool wanted = hit->page == MOVED_TAKEN;
    /* Those before it in this search may have taken the room. */
    struct found_frame *found =
        moved_has_room(delivery, hit->offset) ? calloc(1, sizeof *found) : NULL;
    if (found && hit->page == MOVED_ARMED)
        moved_write(&fork->watched.io, delivery, hit->offset, &wanted, NULL);
    if (!found || !wanted) {
        free(found);
        return;
    }
    found->next = fork->found;
    fork->found = found;
    memory_watch_add_copy(fork->engine->watch, delivery, &fork->mailboxes[hit->delivery]->consume,
                          hit->offset, &found->candidate);
}

static bool is_armed(const struct search *search)
{
    for (size_t i = 0; i < search->count; i++)
        if (search->hits[i].page == MOVED_ARMED)
            return true;
    return false;
}

/* The VMM's own pause is slow, and its guest's clock stands still; nothing else stops a guest that
 * is not to be written to while it runs. */
static int handle_hits(struct fork *fork, const struct search *search, struct error *err)
{
    struct vmm_context context = fork_vmm_context(fork);
    bool armed = is_armed(search);
    if (search->count == 0)
        return 0;
    if (armed && vmm_pause(&context, fork->vmm, NULL) < 0)
        return vmm_resume(&context, fork->vmm, err); /* it may have been paused nevertheless */
    for (size_t i = 0; i < search->count; i++)
        handle_hit(fork, &search->hits[i]);
    int r = armed ? vmm_resume(&context, fork->vmm, err) : 0;
    if (fork->watched.event_fd >= 0)
        memory_watch_freshen(fork->engine->watch, &fork->watched);
    return r;
}

/* As the time since the resume: it doubles, and then grows by LAST_AFTER_MS. */
static double next_after_ms(double after_ms)
{
    return 2 * after_ms < LAST_AFTER_MS ? 2 * after_ms : after_ms + LAST_AFTER_MS;
}

/* False: there is nothing to look for. */
static bool look_through(struct fork *fork, struct search *ret)
{
    double begun_ms = process_now_ms();
    *ret = (struct search){.fork = fork};
    if (!choose(fork, ret->wanted))
        return false;
    vmm_visit_written(fork->vmm, fork->engine->cancel_fd, look_at_pages, ret, NULL);
    memory_watch_searched(fork->engine->watch, process_now_ms() - begun_ms);
    return true;
}

int search_moved(struct fork *fork, double *deadline_ms, struct error *err)
{
    struct search search = {.fork = fork};
    double now_ms = process_now_ms();
    int r = 0;
    if (!choose(fork, search.wanted))
        return 0;
    if (fork->search_after_ms == 0)
        fork->search_after_ms = FIRST_AFTER_MS;
    if (now_ms >= fork->resumed_at_ms + fork->search_after_ms &&
        now_ms >= memory_watch_search_due(fork->engine->watch)) {
        look_through(fork, &search);
        fork->search_after_ms = next_after_ms(fork->search_after_ms);
        r = handle_hits(fork, &search, err);
    }
    double due_ms = fork->resumed_at_ms + fork->search_after_ms;
    double allowed_ms = memory_watch_search_due(fork->engine->watch);
    due_ms = due_ms > allowed_ms ? due_ms : allowed_ms;
    *deadline_ms = due_ms < *deadline_ms ? due_ms : *deadline_ms;
    return r;
}

void search_last(struct fork *fork)
{
    struct search search;
    if (!look_through(fork, &search))
        return;
    for (size_t i = 0; i < search.count; i++)
        if (search.hits[i].page == MOVED_TAKEN)
            handle_hit(fork, &search.hits[i]);
}

void search_finish(struct fork *fork)
{
    while (fork->found) {
        struct found_frame *found = fork->found;
        fork->found = found->next;
        free(found);
    }
}
