/* SPDX-License-Identifier: MIT */
/*
 * vm_guest: the guest's side of the VM tests. Arms mailboxes and does what each payload tells it.
 *
 * Parameters of the kernel's command line:
 *     hypefs.mailboxes=NAME[=TOKEN],…   what to arm (default: test.mailbox)
 *     hypefs.network[=TOKEN]            arms the resume-network mailbox as well, before them
 *     hypefs.network_deed=DEED          what is done with its payloads (default: apply)
 *     hypefs.disk                       mounts the first disk, an ext4, and writes "half" to it:
 *                                       when all mailboxes are armed, that is in memory still
 *     hypefs.child                      forks, once all are armed, a child that keeps writing
 *                                       memory
 *     hypefs.asleep=NAME                arms that mailbox too, and never looks into it
 *     hypefs.loose=NAME                 does not pin that one of the mailboxes
 *     hypefs.twin                       keeps a copy of the first mailbox's page, as migration
 *                                       leaves them behind, and never looks into it
 *     hypefs.ticks                      prints "vm_guest: tick N" every 100 ms
 *     hypefs.fill=MIB                   writes to as much memory, before all else
 *
 * Prints "vm_guest: ready", and for each delivery one line "vm_guest: NAME payload=…", control
 * characters as \xNN; the network's NAME is "(network)". The payload's member "do" is one of the
 * `deeds` below; without it: ack. An identity in it is taken first. What says "hush" is acked, and
 * what says "reply" is answered with the member of that name, and neither is printed. A network
 * payload says nothing like that.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest/internal.h"
#include "guest/network.h"

enum {
    MAILBOXES_MAX = 32,
    COMMAND_LINE_MAX = 4096,
    CHILD_BYTES = 4 << 20,
    CHILD_PAUSE_MS = 5,
    TICK_MS = 100,
    DEED_MAX = 31,
    TEXT_MAX = 31,
    HALF_BYTES = 1 << 20,
    RANDOM_BYTES = 16,
    LATER_MS = 300,
};

#define DISK "/disk"

static const char host_address[] = "10.0.2.2"; /* of QEMU's user network */

static char *network_deed; /* NULL: apply */
static struct hypefs_mailbox *asleep, *loose;

static void die(const char *what, int error)
{
    printf("vm_guest: %s: %s\n", what, strerror(-error));
    exit(EXIT_FAILURE);
}

/* A datagram that the library would not send. */
static void send_raw(struct hypefs_mailbox *box, const char *format)
{
    char text[1024];
    guest_answer_prepare(box);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(box->ack_port)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int size = snprintf(text, sizeof text, format, hypefs_mailbox_name(box));
#pragma GCC diagnostic pop
    inet_pton(AF_INET, host_address, &to.sin_addr);
    if (sendto(fd, text, (size_t)size, 0, (struct sockaddr *)&to, sizeof to) < 0)
        perror("vm_guest: sendto");
    close(fd);
}

static void ack(struct hypefs_mailbox *box)
{
    int r = hypefs_mailbox_ack(box, NULL);
    if (r < 0)
        printf("vm_guest: ack: %s\n", strerror(-r));
}

static void keep_silent(struct hypefs_mailbox *box)
{
    (void)box;
}

/* Not at once: the mailbox is armed again after a while. */
static void keep_silent_for_a_while(struct hypefs_mailbox *box)
{
    (void)box;
    poll(NULL, 0, LATER_MS);
}

static void ack_longer_name(struct hypefs_mailbox *box)
{
    send_raw(box, "stage=applied mailbox=%sx");
}

static void ack_free_text(struct hypefs_mailbox *box)
{
    send_raw(box, "the stage=applied for mailbox=%s");
}

static void ack_after_progress(struct hypefs_mailbox *box)
{
    send_raw(box, "stage=mailbox_seen mailbox=%s");
    ack(box);
}

/* As soon as the host ends the connection that is made to its port "go". */
static void ack_when_let_go(struct hypefs_mailbox *box)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    struct guest_span port = {.text = "0", .size = 1};
    char byte;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    guest_member_find(box->payload, box->payload_size, "go", &port);
    to.sin_port = htons((uint16_t)strtoul(port.text, NULL, 10));
    inet_pton(AF_INET, host_address, &to.sin_addr);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 || read(fd, &byte, 1) < 0)
        perror("vm_guest: go");
    close(fd);
    ack(box);
}

static void refuse(struct hypefs_mailbox *box)
{
    int r = hypefs_mailbox_fail(box, "told to fail", NULL);
    if (r < 0)
        printf("vm_guest: fail: %s\n", strerror(-r));
}

/* With its payload's member "reply", whatever that is. */
static void reply(struct hypefs_mailbox *box)
{
    struct guest_span text = {.text = "", .size = 0};
    guest_member_find(box->payload, box->payload_size, "reply", &text);
    int r = hypefs_mailbox_reply(box, text.text, text.size, NULL);
    if (r < 0)
        printf("vm_guest: reply: %s\n", strerror(-r));
}

/* The page of the mailbox that is asleep becomes other memory. */
static void reuse_asleep(struct hypefs_mailbox *box)
{
    (void)box;
    if (asleep)
        hypefs_mailbox_close(asleep);
    asleep = NULL;
}

/* The mailbox that is loose gets another page, as if the kernel had moved it: the one that it had
 * stays with a child as it is. */
static void move_loose(struct hypefs_mailbox *box)
{
    void *page = loose ? (void *)(uintptr_t)loose->frame : NULL;
    (void)box;
    if (!page || madvise(page, FRAME_SIZE, MADV_DOFORK) < 0)
        die("move", -EINVAL);
    pid_t child = fork();
    if (child < 0)
        die("move", -errno);
    while (child == 0)
        pause();
    loose->frame[FRAME_FLAGS] = 0; /* as it was, in a copy */
    madvise(page, FRAME_SIZE, MADV_DONTFORK);
}

/* What programs of two clones must not have in common, and what they should. */
static void print_random(struct hypefs_mailbox *box)
{
    unsigned char bytes[RANDOM_BYTES] = {0};
    FILE *file = fopen("/dev/urandom", "re");
    if (!file || fread(bytes, sizeof bytes, 1, file) != 1)
        perror("vm_guest: /dev/urandom");
    if (file)
        fclose(file);
    printf("vm_guest: random=");
    for (size_t i = 0; i < sizeof bytes; i++)
        printf("%02x", bytes[i]);
    printf(" time=%lld\n", (long long)time(NULL));
    ack(box);
}

static void reboot_now(struct hypefs_mailbox *box)
{
    (void)box;
    reboot(RB_AUTOBOOT);
}

/* As hypefs-guest does. */
static void apply_network(struct hypefs_mailbox *box)
{
    struct network_result result;
    size_t size;
    const char *payload = hypefs_mailbox_payload(box, &size);

    network_apply(payload, size, &result);
    const char *address = result.gateway[0] ? result.gateway : NULL;
    int r = result.applied ? network_ack(box, address)
                           : hypefs_mailbox_fail(box, result.reason, address);
    if (!result.applied)
        printf("vm_guest: apply: %s\n", result.reason);
    if (r < 0)
        printf("vm_guest: apply: the host was not told: %s\n", strerror(-r));
}

/* Appends the payload's "text" to the file "own" of the disk, for good. */
static void write_own(struct hypefs_mailbox *box)
{
    char text[TEXT_MAX + 1] = "";
    guest_member_word(box->payload, box->payload_size, "text", text, TEXT_MAX);
    FILE *file = fopen(DISK "/own", "ae");
    if (!file || fprintf(file, "%s\n", text) < 0 || fflush(file) != 0 || fsync(fileno(file)) < 0)
        perror("vm_guest: own");
    if (file)
        fclose(file);
}

static void write_disk(struct hypefs_mailbox *box)
{
    write_own(box);
    ack(box);
}

/* And leaves the disk as it should be left. */
static void finish_disk(struct hypefs_mailbox *box)
{
    write_own(box);
    if (umount(DISK) < 0)
        perror("vm_guest: umount");
    ack(box);
}

/* Pages of which no two are equal, and none is of zeros. */
static void fill(const char *mib)
{
    size_t size = strtoul(mib, NULL, 10) << 20;
    unsigned char *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die("fill", -errno);
    for (size_t at = 0; at < size; at += FRAME_SIZE) {
        memset(memory + at, 0xa5, FRAME_SIZE);
        memcpy(memory + at, &at, sizeof at);
    }
}

/* As much more as its member "text" says. */
static void fill_more(struct hypefs_mailbox *box)
{
    char mib[TEXT_MAX + 1] = "0";
    size_t size;
    const char *payload = hypefs_mailbox_payload(box, &size);
    guest_member_word(payload, size, "text", mib, TEXT_MAX);
    fill(mib);
    ack(box);
}

static void mount_disk(void)
{
    static char half[HALF_BYTES];
    memset(half, 'h', sizeof half);
    mkdir(DISK, 0755);
    if (mount("/dev/vda", DISK, "ext4", 0, NULL) < 0)
        die("/dev/vda", -errno);
    FILE *file = fopen(DISK "/half", "we");
    if (!file || fwrite(half, sizeof half, 1, file) != 1 || fclose(file) != 0)
        die("half", -errno);
}

static const struct {
    const char *name;
    void (*run)(struct hypefs_mailbox *box);
} deeds[] = {
    {"ack", ack},
    {"hush", ack},
    {"apply", apply_network},
    {"silent", keep_silent},
    {"later", keep_silent_for_a_while},
    {"longer-name", ack_longer_name},
    {"free-text", ack_free_text},
    {"progress", ack_after_progress},
    {"hold", ack_when_let_go},
    {"fail", refuse},
    {"reply", reply},
    {"reuse", reuse_asleep},
    {"move", move_loose},
    {"random", print_random},
    {"reboot", reboot_now},
    {"write", write_disk},
    {"finish", finish_disk},
    {"fill", fill_more},
};

static void print_payload(const char *name, const char *payload, size_t size)
{
    printf("vm_guest: %s payload=", name);
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)payload[i] < 0x20 || payload[i] == 0x7F)
            printf("\\x%02x", (unsigned char)payload[i]);
        else
            putchar(payload[i]);
    putchar('\n');
}

static void obey(struct hypefs_mailbox *box)
{
    size_t size;
    const char *payload = hypefs_mailbox_payload(box, &size);
    const char *name = hypefs_mailbox_name(box);
    char told[DEED_MAX + 1] = "ack";

    if (!name[0]) {
        name = "(network)";
        snprintf(told, sizeof told, "%s", network_deed ? network_deed : "apply");
    } else {
        struct guest_span any;
        if (guest_member_find(payload, size, "do", &any))
            guest_member_word(payload, size, "do", told, DEED_MAX);
    }
    struct hypefs_identity identity;
    int r = hypefs_identity_read(box, &identity);
    if (r == 0)
        r = hypefs_identity_apply(&identity);
    if (r < 0 && r != -ENOENT)
        printf("vm_guest: identity: %s\n", strerror(-r));
    if (strcmp(told, "hush") != 0 && strcmp(told, "reply") != 0)
        print_payload(name, payload, size);
    for (size_t i = 0; i < sizeof deeds / sizeof deeds[0]; i++)
        if (strcmp(told, deeds[i].name) == 0)
            deeds[i].run(box);
    hypefs_mailbox_rearm(box);
    printf("vm_guest: %s is armed again\n", name);
}

/* Keeps the guest's memory in motion. */
static _Noreturn void run_child(void)
{
    char *memory = malloc(CHILD_BYTES);
    if (!memory)
        _exit(EXIT_FAILURE);
    for (int i = 0;; i++) {
        memset(memory, i, CHILD_BYTES);
        poll(NULL, 0, CHILD_PAUSE_MS);
    }
}

static void keep_twin(const struct hypefs_mailbox *box)
{
    void *page = mmap(NULL, FRAME_SIZE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
    if (page == MAP_FAILED)
        die("hypefs.twin", -errno);
    memcpy(page, (const void *)(uintptr_t)box->frame, FRAME_SIZE);
}

static void arm_asleep(const char *name)
{
    int r = hypefs_mailbox_arm(name, NULL, 0, &asleep);
    if (r < 0)
        die(name, r);
}

static void let_loose(struct hypefs_mailbox *const *boxes, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(hypefs_mailbox_name(boxes[i]), name) == 0)
            loose = boxes[i];
    if (!loose)
        die(name, -ENOENT);
    guest_unpin(&loose->pin);
    loose->frame[FRAME_FLAGS] = 0;
}

/* Never returns. */
static void serve(struct hypefs_mailbox *const *boxes, size_t count, bool ticks)
{
    for (unsigned tick = 1;;) {
        struct hypefs_mailbox *full;
        int r = hypefs_mailbox_wait(boxes, count, ticks ? TICK_MS : -1, &full);
        if (r == -ETIMEDOUT)
            printf("vm_guest: tick %u\n", tick++);
        else if (r < 0)
            die("wait", r);
        else
            obey(full);
    }
}

/* `network_token` is NULL without the network's mailbox, and "" for a random one. */
static size_t arm_all(const char *network_token, char *names, struct hypefs_mailbox **boxes)
{
    size_t count = 0;

    if (network_token) {
        size_t size = strlen(network_token);
        int r = hypefs_network_arm(size > 0 ? network_token : NULL, size, &boxes[count++]);
        if (r < 0)
            die("hypefs.network", r);
    }
    for (char *name = strtok(names, ","); name; name = strtok(NULL, ",")) {
        char *token = strchr(name, '=');
        if (token)
            *token++ = '\0';
        if (count == MAILBOXES_MAX)
            die(name, -E2BIG);
        int r = hypefs_mailbox_arm(name, token, token ? strlen(token) : 0, &boxes[count]);
        if (r < 0)
            die(name, r);
        count++;
    }
    return count;
}

/* The value of NAME=VALUE among the words of the kernel's command line, "" for NAME alone; NULL if
 * it is not there. Returns owned. */
static char *parameter(const char *line, const char *name)
{
    size_t size = strlen(name);
    for (const char *word = line; *word; word += strcspn(word, " \n")) {
        word += strspn(word, " \n");
        const char *value = word + size;
        if (strncmp(word, name, size) == 0 && *value == '=')
            return strndup(value + 1, strcspn(value + 1, " \n"));
        if (strncmp(word, name, size) == 0 && strchr(" \n", *value))
            return strdup("");
    }
    return NULL;
}

static bool has_parameter(const char *line, const char *name)
{
    char *value = parameter(line, name);
    if (!value)
        return false;
    free(value);
    return true;
}

int main(void)
{
    char line[COMMAND_LINE_MAX], default_names[] = "test.mailbox";
    struct hypefs_mailbox *boxes[MAILBOXES_MAX];

    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    FILE *file = fopen("/proc/cmdline", "re");
    if (!file || !fgets(line, sizeof line, file))
        die("/proc/cmdline", -EIO);
    fclose(file);
    char *filled = parameter(line, "hypefs.fill");
    if (filled)
        fill(filled);
    free(filled);
    char *child = parameter(line, "hypefs.child");
    char *disk = parameter(line, "hypefs.disk");
    char *names = parameter(line, "hypefs.mailboxes");
    char *network_token = parameter(line, "hypefs.network");
    network_deed = parameter(line, "hypefs.network_deed");
    size_t count = arm_all(network_token, names ? names : default_names, boxes);
    free(names);
    free(network_token);
    if (disk)
        mount_disk();
    free(disk);
    if (child && fork() == 0)
        run_child();
    /* Were they still shared with the child, this would leave copies of them behind. */
    for (size_t i = 0; i < count; i++)
        boxes[i]->frame[boxes[i]->layout->length] = 0;
    free(child);
    char *asleep_name = parameter(line, "hypefs.asleep");
    if (asleep_name)
        arm_asleep(asleep_name);
    free(asleep_name);
    char *loose_name = parameter(line, "hypefs.loose");
    if (loose_name)
        let_loose(boxes, count, loose_name);
    free(loose_name);
    if (has_parameter(line, "hypefs.twin"))
        keep_twin(boxes[0]);
    puts("vm_guest: ready");
    serve(boxes, count, has_parameter(line, "hypefs.ticks"));
}
