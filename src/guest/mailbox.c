/* SPDX-License-Identifier: MIT */
/* The frame in memory: where it lives, and the order in which it is read and written. While the
 * guest runs, only this file writes to it: the host does so while the VM is paused. Still all
 * accesses are volatile or atomic, since no compiler can see that writer. */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>

#include "guest/internal.h"
#include "util/hex.h"

enum {
    /* Between looks: in the first 10 ms after an event, to which the kernel adds 50 us; */
    FRESH_MS = 10,
    REST_FRESH_NS = 50000,
    REST_MIN_NS = 2000000,  /* then, and always before the first payload; */
    REST_MAX_NS = 200000000, /* grows to this in a clone that has had its payload */
    RANDOM_TOKEN_BYTES = 16,
};

/* The layouts' offsets are multiples of 4, and the frame is a page. */
static volatile uint32_t *field(const struct hypefs_mailbox *box, size_t offset)
{
    return (volatile uint32_t *)(volatile void *)(box->frame + offset);
}

static uint32_t load(const struct hypefs_mailbox *box, size_t offset)
{
    return le32toh(__atomic_load_n(field(box, offset), __ATOMIC_ACQUIRE));
}

static void store(struct hypefs_mailbox *box, size_t offset, uint32_t value)
{
    __atomic_store_n(field(box, offset), htole32(value), __ATOMIC_RELEASE);
}

static void zero(volatile uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = 0;
}

/* The tail, which a host that does not know it may have written over. */
static void write_tail(struct hypefs_mailbox *box)
{
    zero(box->frame + FRAME_TAIL, FRAME_TAKEN - FRAME_TAIL);
    box->frame[FRAME_FLAGS] = box->pin.pinned ? FRAME_PINNED : 0;
    store(box, FRAME_TAKEN, box->taken);
}

/* Payload, reply or reason are gone, and these bytes are there instead. */
static void fill(struct hypefs_mailbox *box, const char *text, size_t size)
{
    volatile uint8_t *area = box->frame + box->layout->payload;

    if (box->payload_size > guest_capacity(box))
        write_tail(box);
    for (size_t i = 0; i < size; i++)
        area[i] = (uint8_t)text[i];
    zero(area + size, guest_capacity(box) - size);
}

/* The host sees nothing of what was written before it sees this. */
static void arm_with(struct hypefs_mailbox *box, uint32_t length)
{
    store(box, box->layout->length, length);
    store(box, box->layout->sequence, 0);
    box->happened_ms = guest_now_ms(); /* who has waited for this may deliver the next */
}

/* A page that stays where it is: fork() would leave it to one process and give the other a copy,
 * KSM would merge frames that are alike, and swapped out it would not be in the memory image. */
static int map_page(void **ret)
{
    void *page = mmap(NULL, FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return -errno;
    if (madvise(page, FRAME_SIZE, MADV_DONTFORK) < 0)
        goto failed;
    /* EINVAL: a kernel without core dumps or KSM, and so without the danger. */
    if (madvise(page, FRAME_SIZE, MADV_DONTDUMP) < 0 && errno != EINVAL)
        goto failed;
    if (madvise(page, FRAME_SIZE, MADV_UNMERGEABLE) < 0 && errno != EINVAL)
        goto failed;
    if (mlock(page, FRAME_SIZE) < 0)
        goto failed;
    *ret = page;
    return 0;

failed:;
    int r = -errno;
    munmap(page, FRAME_SIZE);
    return r;
}

/* In hex digits: 128 bits, or as many as the layout has room for. */
static int random_token(struct frame_marker *marker)
{
    uint8_t bytes[RANDOM_TOKEN_BYTES];
    size_t room = frame_layouts[marker->kind].token_max / 2;
    size_t count = room < sizeof bytes ? room : sizeof bytes;
    ssize_t n;

    do
        n = getrandom(bytes, count, 0);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)count)
        return n < 0 ? -errno : -EIO;
    hex_encode(bytes, count, (char *)marker->token);
    marker->token_size = 2 * count;
    explicit_bzero(bytes, sizeof bytes);
    return 0;
}

static int fill_token(const void *token, size_t token_size, struct frame_marker *marker)
{
    if (!token)
        return token_size == 0 ? random_token(marker) : -EINVAL;
    if (!frame_token_valid(marker->kind, token, token_size))
        return -EINVAL;
    memcpy(marker->token, token, token_size);
    marker->token_size = token_size;
    return 0;
}

/* `marker`, with kind and name, is wiped. */
static int arm(struct frame_marker *marker, const void *token, size_t token_size,
               struct hypefs_mailbox **ret)
{
    struct hypefs_mailbox *box = NULL;
    void *page = NULL;

    int r = fill_token(token, token_size, marker);
    if (r == 0 && !(box = calloc(1, sizeof *box)))
        r = -ENOMEM;
    if (r == 0)
        r = map_page(&page);
    if (r == 0) {
        memcpy(box->name, marker->name, sizeof box->name);
        box->layout = &frame_layouts[marker->kind];
        box->frame = page;
        /* To pin it may move it, and the page that it leaves must have no marker. */
        guest_pin(page, &box->pin);
        write_tail(box);
        arm_with(box, FRAME_DECLARED);
        /* The marker is put together in the page itself: a copy of it anywhere else would be a
         * second mailbox to the host. */
        frame_encode_marker(marker, page);
        __atomic_thread_fence(__ATOMIC_RELEASE);
        *ret = box;
    } else {
        free(box);
    }
    explicit_bzero(marker, sizeof *marker);
    return r;
}

int hypefs_mailbox_arm(const char *name, const void *token, size_t token_size,
                       struct hypefs_mailbox **ret)
{
    struct frame_marker marker = {.kind = FRAME_FORK};
    size_t name_size = name ? strnlen(name, FRAME_NAME_MAX + 1) : 0;

    if (!ret || !name || !frame_name_valid(name, name_size))
        return -EINVAL;
    memcpy(marker.name, name, name_size);
    return arm(&marker, token, token_size, ret);
}

int hypefs_network_arm(const void *token, size_t token_size, struct hypefs_mailbox **ret)
{
    struct frame_marker marker = {.kind = FRAME_NETWORK};

    if (!ret)
        return -EINVAL;
    return arm(&marker, token, token_size, ret);
}

const char *hypefs_mailbox_name(const struct hypefs_mailbox *box)
{
    return box->name;
}

static void wipe_hand(struct hypefs_mailbox *box)
{
    explicit_bzero(box->payload, sizeof box->payload);
    explicit_bzero(box->ack_key, sizeof box->ack_key);
    explicit_bzero(box->subject, sizeof box->subject);
    box->payload_size = 0;
    box->ack_port = 0;
    box->in_hand = false;
}

void guest_mailbox_refuse(struct hypefs_mailbox *box, const char *reason)
{
    fill(box, reason, strnlen(reason, FRAME_REASON_MAX));
    arm_with(box, FRAME_REFUSED);
    wipe_hand(box);
}

void guest_mailbox_rearm(struct hypefs_mailbox *box, const char *reply, size_t size)
{
    if (box->sequence != 1)
        box->applied = box->sequence;
    fill(box, reply, size);
    arm_with(box, FRAME_DECLARED | (uint32_t)size);
    wipe_hand(box);
}

/* Tells the host that the guest has the payload of that sequence: it does not take it back then.
 * False if it has just done that: another sequence is there. */
static bool claim(struct hypefs_mailbox *box, uint32_t sequence)
{
    store(box, FRAME_TAKEN, box->taken = sequence);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return load(box, box->layout->sequence) == sequence;
}

static bool is_over_tail(const struct hypefs_mailbox *box, uint32_t length)
{
    return length > guest_capacity(box) && length <= guest_plain_capacity(box);
}

/* The sequence of what was delivered, with its length; 0: nothing was. A host that writes 1, or
 * over the tail, does not know what is there. */
static uint32_t look(struct hypefs_mailbox *box, uint32_t *ret_length)
{
    uint32_t sequence;
    do {
        sequence = load(box, box->layout->sequence);
        *ret_length = load(box, box->layout->length);
    } while (sequence > 1 && !is_over_tail(box, *ret_length) && !claim(box, sequence));
    return sequence;
}

static bool take(struct hypefs_mailbox *box)
{
    const volatile uint8_t *area = box->frame + box->layout->payload;
    uint32_t length = 0;

    uint32_t sequence = box->in_hand ? 0 : look(box, &length);
    if (sequence == 0)
        return false;
    box->sequence = sequence;
    box->payload_size = length;
    if (length == 0 || length > guest_plain_capacity(box)) {
        guest_mailbox_refuse(box, "the payload's length is not valid");
        return false;
    }
    if (sequence > 1 && sequence == box->applied) {
        guest_mailbox_rearm(box, "", 0);
        return false;
    }
    for (size_t i = 0; i < length; i++)
        box->payload[i] = (char)area[i];
    box->payload[length] = '\0';
    box->in_hand = true;
    return true;
}

static bool is_fresh(const struct hypefs_mailbox *box, int64_t now)
{
    return box->rest_ns > 0 && now - box->happened_ms < FRESH_MS;
}

/* A template is looked at often, for its clones look as it did. One that has had a payload is a
 * clone: it may get the next one at once, or not for days; were it looked at so often for ever, a
 * host could do nothing else than that for some dozens of them where the processor is emulated.
 * Until `deadline` at most, if it is not negative. */
static int rest(struct hypefs_mailbox *const *boxes, size_t count, int64_t deadline_ms)
{
    long ns = REST_MIN_NS;
    int64_t now = guest_now_ms();
    bool fresh = false;
    for (size_t i = 0; i < count; i++) {
        long *own = &boxes[i]->rest_ns;
        fresh = fresh || is_fresh(boxes[i], now);
        ns = *own > ns ? *own : ns;
    }
    for (size_t i = 0; i < count && !fresh; i++) {
        long *own = &boxes[i]->rest_ns;
        *own = *own + *own / 8 < REST_MAX_NS ? *own + *own / 8 : REST_MAX_NS;
    }
    if (fresh)
        ns = REST_FRESH_NS;
    int64_t left_ms = deadline_ms < 0 ? REST_MAX_NS / 1000000 : deadline_ms - now;
    if (ns > left_ms * 1000000)
        ns = left_ms > 0 ? (long)left_ms * 1000000 : 0;
    const struct timespec interval = {.tv_nsec = ns};
    return nanosleep(&interval, NULL) < 0 ? -errno : 0;
}

/* A payload has come: perhaps there is another one, of this mailbox or of the next. */
static void look_often(struct hypefs_mailbox *const *boxes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        boxes[i]->happened_ms = guest_now_ms();
        boxes[i]->rest_ns = REST_MIN_NS;
    }
}

static bool all_in_hand(struct hypefs_mailbox *const *boxes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!boxes[i]->in_hand)
            return false;
    return true;
}

int hypefs_mailbox_wait(struct hypefs_mailbox *const *boxes, size_t count, int timeout_ms,
                        struct hypefs_mailbox **ret)
{
    int64_t deadline_ms = timeout_ms < 0 ? -1 : guest_now_ms() + timeout_ms;
    int r = 0;

    if (!boxes || !ret || all_in_hand(boxes, count))
        return -EINVAL;
    while (r == 0) {
        for (size_t i = 0; i < count; i++)
            if (take(boxes[i])) {
                look_often(boxes, count);
                *ret = boxes[i];
                return 0;
            }
        r = deadline_ms >= 0 && guest_now_ms() >= deadline_ms ? -ETIMEDOUT
                                                              : rest(boxes, count, deadline_ms);
    }
    return r;
}

const char *hypefs_mailbox_payload(const struct hypefs_mailbox *box, size_t *ret_size)
{
    if (!box->in_hand)
        return NULL;
    if (ret_size)
        *ret_size = box->payload_size;
    return box->payload;
}

void hypefs_mailbox_rearm(struct hypefs_mailbox *box)
{
    if (box->in_hand)
        guest_mailbox_rearm(box, "", 0);
}

void hypefs_mailbox_close(struct hypefs_mailbox *box)
{
    if (!box)
        return;
    zero(box->frame, FRAME_SIZE);
    guest_unpin(&box->pin);
    munmap((void *)box->frame, FRAME_SIZE);
    wipe_hand(box);
    free(box);
}
