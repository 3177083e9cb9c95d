/* SPDX-License-Identifier: MIT */
/* guest: what takes the guest's place: one thread that looks into the mailboxes. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fake.h"
#include "guest/internal.h"
#include "mailbox/frame.h"
#include "util/cleanup.h"

enum { DATAGRAM_SIZE = 512, LOOK_MS = 5, NS_PER_S = 1000 * 1000 * 1000 };

static const char host[] = "127.0.0.1";

/* Its mailboxes, in its own memory. */
struct guest {
    struct fake *fake;
    struct hypefs_mailbox boxes[FAKE_MAILBOXES_MAX], *pointers[FAKE_MAILBOXES_MAX];
    size_t count;
};

/* ---- planting ---- */

/* A mailbox that is planted is that of a guest which knows plain frames only, but for this word in
 * the command line. */
static bool declares(const struct fake *fake)
{
    return strstr(fake->boot_args, "declared") != NULL;
}

static void plant(struct fake *fake, enum frame_kind kind, const char *name, uint64_t offset)
{
    struct frame_marker marker = {.kind = kind};
    uint8_t *page = vm_address(fake, offset);
    char token[FRAME_TOKEN_MAX];
    snprintf(marker.name, sizeof marker.name, "%s", name);
    marker.token_size =
        (size_t)snprintf(token, sizeof token, "token-%s", kind == FRAME_FORK ? name : "network");
    memcpy(marker.token, token, marker.token_size);
    if (!page || frame_encode_marker(&marker, page) == 0)
        fake_log(fake, "the mailbox %s cannot be planted", name);
    else if (declares(fake))
        frame_store_u32(page + frame_layouts[kind].length, FRAME_DECLARED);
}

/* mailboxes=m,a,b in the command line: one in each second page; network: one of the other kind; a
 * name after a '+' lies in the last region. */
void guest_plant(struct fake *fake)
{
    char args[sizeof fake->boot_args], *rest = args, *word;
    uint64_t offset = FAKE_PAGE;
    memcpy(args, fake->boot_args, sizeof args);
    while ((word = strsep(&rest, " "))) {
        if (strcmp(word, "network") == 0)
            plant(fake, FRAME_NETWORK, "", offset += 2 * FAKE_PAGE);
        if (strncmp(word, "mailboxes=", 10) != 0)
            continue;
        word += 10;
        for (char *name; (name = strsep(&word, ","));) {
            size_t last = fake->region_count - 1;
            last -= !fake->regions[last].plugged;
            const struct fake_region *region = &fake->regions[last];
            if (name[0] == '+')
                plant(fake, FRAME_FORK, name + 1, region->offset + region->size - FAKE_PAGE);
            else
                plant(fake, FRAME_FORK, name, offset += 2 * FAKE_PAGE);
        }
    }
}

/* ---- finding ---- */

/* Calls `visit` for each page that begins with a marker. A booted VM has them at the beginning and
 * the end, a loaded one anywhere where its image has data. */
static void walk(const struct fake *fake,
                 void (*visit)(void *context, uint64_t offset, const struct frame_marker *marker),
                 void *context)
{
    uint64_t window = 1 << 20;
    for (uint64_t offset = 0; offset < fake->memory_bytes; offset += FAKE_PAGE) {
        if (fake->memory_fd >= 0) {
            off_t data = lseek(fake->memory_fd, (off_t)offset, SEEK_DATA);
            if (data < 0)
                return;
            offset = (uint64_t)data & ~(uint64_t)(FAKE_PAGE - 1);
        } else if (offset == window && fake->memory_bytes > 3 * window) {
            offset = fake->memory_bytes - window;
        }
        const uint8_t *page = vm_address(fake, offset);
        struct frame_marker marker;
        for (enum frame_kind kind = 0; page && kind < FRAME_KINDS; kind++)
            if (frame_decode_marker(kind, page, FAKE_PAGE, &marker))
                visit(context, offset, &marker);
    }
}

struct pages {
    uint64_t *offsets;
    size_t count;
};

static void add_page(void *context, uint64_t offset, const struct frame_marker *marker)
{
    struct pages *pages = context;
    (void)marker;
    if (pages->count < FAKE_MAILBOXES_MAX)
        pages->offsets[pages->count++] = offset;
}

size_t guest_pages(const struct fake *fake, uint64_t ret[static FAKE_MAILBOXES_MAX])
{
    struct pages pages = {.offsets = ret};
    walk(fake, add_page, &pages);
    return pages.count;
}

/* The network's comes first, as in a real guest. */
static void add_mailbox(void *context, uint64_t offset, const struct frame_marker *marker)
{
    struct guest *guest = context;
    if (guest->count == FAKE_MAILBOXES_MAX)
        return;
    struct hypefs_mailbox *box = &guest->boxes[guest->count];
    box->frame = vm_address(guest->fake, offset);
    box->layout = &frame_layouts[marker->kind];
    snprintf(box->name, sizeof box->name, "%s", marker->name);
    guest->pointers[guest->count++] = box;
    if (marker->kind == FRAME_NETWORK) {
        guest->pointers[guest->count - 1] = guest->pointers[0];
        guest->pointers[0] = box;
    }
}

/* ---- answering ---- */

static void send_to(int port, const char *text)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, host, &to.sin_addr);
    if (port > 0)
        sendto(fd, text, strlen(text), 0, (struct sockaddr *)&to, sizeof to);
}

static bool behaves(const char *how)
{
    const char *told = getenv("FAKE_VMM_GUEST");
    return strcmp(told ? told : "ack", how) == 0;
}

/* Another mailbox's name, and its own with another key. */
static void lie(const struct hypefs_mailbox *box)
{
    char text[DATAGRAM_SIZE];
    if (!box->name[0]) {
        send_to(box->ack_port, "stage=applied mac=02:09:09:09:09:09 ip=10.9.9.9");
        return;
    }
    snprintf(text, sizeof text, "stage=applied mailbox=%s-not%s%s", box->name,
             box->ack_key[0] ? " key=" : "", box->ack_key);
    send_to(box->ack_port, text);
    if (!box->ack_key[0])
        return;
    snprintf(text, sizeof text, "stage=applied mailbox=%s key=00000000000000000000000000000000",
             box->name);
    send_to(box->ack_port, text);
    snprintf(text, sizeof text, "stage=applied mailbox=%s", box->name);
    send_to(box->ack_port, text);
}

/* The library declares each frame that it arms. */
static void stay_plain(struct hypefs_mailbox *box)
{
    uint8_t *length = (uint8_t *)box->frame + box->layout->length;
    if (frame_load_u32(length) == FRAME_DECLARED)
        frame_store_u32(length, 0);
}

/* What FAKE_VMM_REPLY says, which need not be a reply. */
static void reply(struct hypefs_mailbox *box)
{
    const char *text = getenv("FAKE_VMM_REPLY");
    guest_mailbox_rearm(box, text ? text : "", text ? strlen(text) : 0);
}

static void take(struct hypefs_mailbox *box)
{
    bool plain = box->sequence == 1;
    printf("%s %s\n", box->name[0] ? box->name : "network", hypefs_mailbox_payload(box, NULL));
    fflush(stdout);
    if (behaves("ack"))
        hypefs_mailbox_ack(box, host);
    else if (behaves("refuse"))
        hypefs_mailbox_fail(box, box->name[0] ? "the disk is full" : "no such interface", host);
    else if (behaves("lie"))
        lie(box);
    else if (behaves("reply") || behaves("move") || behaves("carry"))
        reply(box);
    hypefs_mailbox_rearm(box);
    if (plain)
        stay_plain(box);
}

/* Its pages are another program's now. */
static void reuse(const struct guest *guest)
{
    for (size_t i = 0; i < guest->count; i++)
        memset((void *)(uintptr_t)guest->boxes[i].frame, 0, FAKE_PAGE);
}

/* Its kernel moves its declared frames, and leaves the old pages as they are: before something was
 * delivered into them, or with that. */
static void move_all(struct guest *guest, bool with_payloads)
{
    for (size_t i = 0; i < guest->count; i++) {
        struct hypefs_mailbox *box = &guest->boxes[i];
        uint8_t *from = (uint8_t *)(uintptr_t)box->frame, *to = from + FAKE_PAGE;
        memset(to, 0, FAKE_PAGE);
        memcpy(to, from, with_payloads ? FAKE_PAGE : box->layout->sequence);
        if (!with_payloads)
            frame_store_u32(to + box->layout->length, FRAME_DECLARED);
        box->frame = to;
    }
}

/* What a guest does to its disk, for a test to see whose it was. */
static void write_drives(struct fake *fake)
{
    const size_t size = strlen(fake->id);
    for (size_t i = 0; i < fake->drive_count; i++) {
        struct fake_drive *drive = &fake->drives[i];
        if (!drive->readonly && (drive->lower_fd ? overlay_write(drive, fake->id, size) < 0
                                                 : pwrite(drive->fd, fake->id, size, 0) < 0))
            fake_log(fake, "the drive %s cannot be written to", drive->id);
    }
}

/* Takes nothing until somebody writes to that pipe. */
static void wait_at_gate(const struct fake *fake)
{
    const char *path = getenv("FAKE_VMM_GATE");
    char byte;
    puts("waits");
    fflush(stdout);
    auto_close int fd = open(path ? path : "", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, &byte, 1) < 0)
        fake_log(fake, "FAKE_VMM_GATE cannot be read");
}

static void *spin(void *nothing)
{
    for (volatile bool on = true; on;)
        ;
    return nothing;
}

/* Computes for ever, with four threads on one processor, so that three of them wait for it. It may
 * be paused meanwhile. */
static void work(struct fake *fake)
{
    pthread_t thread;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one); /* theirs, too */
    pthread_mutex_unlock(&fake->running);
    for (int i = 0; i < 3; i++)
        if (pthread_create(&thread, NULL, spin, NULL) != 0)
            abort();
    spin(NULL);
}

/* Where the next mailbox is planted that a payload asks for. */
static uint64_t free_page = UINT64_C(512) * 1024;

/* {"arm":NAME}: another program arms a mailbox, too. */
static void arm(struct guest *guest, const char *name)
{
    const struct frame_marker marker = {.kind = FRAME_FORK};
    struct frame_marker named = marker;
    plant(guest->fake, FRAME_FORK, name, free_page);
    snprintf(named.name, sizeof named.name, "%s", name);
    add_mailbox(guest, free_page, &named);
    free_page += 2 * FAKE_PAGE;
}

/* {"move":true}: as a kernel does, which leaves the old page behind. */
static void move(struct guest *guest, struct hypefs_mailbox *box)
{
    uint8_t *page = vm_address(guest->fake, free_page);
    free_page += 2 * FAKE_PAGE;
    memcpy(page, (const void *)(uintptr_t)box->frame, FAKE_PAGE);
    box->frame = page;
}

static void do_more(struct guest *guest, struct hypefs_mailbox *box, const char *payload)
{
    char name[FRAME_NAME_MAX + 1];
    if (sscanf(payload, "{\"arm\":\"%64[^\"]", name) == 1)
        arm(guest, name);
    if (strcmp(payload, "{\"move\":true}") == 0)
        move(guest, box);
}

/* Takes what there is. */
static void look(struct guest *guest)
{
    struct hypefs_mailbox *full;
    while (!behaves("absent") && guest->count > 0 &&
           hypefs_mailbox_wait(guest->pointers, guest->count, 0, &full) == 0) {
        char payload[FAKE_PAGE];
        if (behaves("mover") && full->name[0])
            move(guest, full);
        snprintf(payload, sizeof payload, "%s", hypefs_mailbox_payload(full, NULL));
        take(full);
        do_more(guest, full, payload);
    }
}

/* Looks now and then, for payloads may come at any time, until it was paused and goes on. */
static void look_until_resumed(struct guest *guest)
{
    struct fake *fake = guest->fake;
    const unsigned resumes = fake->resumes;
    while (fake->resumes == resumes) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += LOOK_MS * 1000 * 1000;
        until.tv_sec += until.tv_nsec / NS_PER_S;
        until.tv_nsec %= NS_PER_S;
        look(guest);
        pthread_cond_timedwait(&fake->resumed, &fake->running, &until);
    }
}

static void *run(void *argument)
{
    struct fake *fake = argument;
    static struct guest guest;
    bool moved = false;
    guest.fake = fake;
    pthread_mutex_lock(&fake->running);
    walk(fake, add_mailbox, &guest);
    write_drives(fake);
    if (!fake->loaded) {
        puts("ready");
        fflush(stdout);
    }
    for (;;) {
        if (behaves("reuse"))
            reuse(&guest);
        if ((behaves("move") || behaves("carry")) && fake->loaded && !moved)
            move_all(&guest, behaves("carry"));
        moved = true;
        if (behaves("late") && fake->loaded)
            wait_at_gate(fake);
        if (behaves("busy") && fake->loaded)
            work(fake);
        look_until_resumed(&guest);
    }
    return NULL; /* never: with sanitizers gcc asks for it */
}

void guest_start(struct fake *fake)
{
    pthread_t thread;
    if (fake->guest_started)
        return;
    fake->guest_started = true;
    if (pthread_create(&thread, NULL, run, fake) != 0)
        abort();
}
