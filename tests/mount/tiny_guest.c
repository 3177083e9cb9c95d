/* SPDX-License-Identifier: MIT */
#include "tiny_guest.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <glob.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "mailbox/frame.h"
#include "util/cleanup.h"

#if defined(__x86_64__)
/*
 * The guest's first page, loaded at 2 MiB: an address in it is `load` and its distance from
 * tiny_guest_page. The timer wakes the guest 100 times a second. The pages with the frames follow;
 * `frames` are their addresses up to a 0, filled in when the image is written.
 */
__asm__(".pushsection .rodata\n"
        ".balign 4096\n"
        ".code32\n"
        ".set load, 0x200000\n"
        ".set magic, 0x1badb002\n"
        ".set flags, 0x00010000\n" /* the addresses below count */
        "tiny_guest_page:\n"
        ".long magic, flags, -(magic + flags)\n"
        ".long load, load, 0, 0\n" /* header, start, end of the file, no bss */
        ".long load + (start - tiny_guest_page)\n"
        "frames: .fill 33, 4, 0\n"

        ".balign 8\n"
        "segments: .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff\n"
        "segments_pointer: .word 23\n"
        ".long load + (segments - tiny_guest_page)\n"
        ".balign 8\n"
        "gates: .fill 32, 8, 0\n"
        ".word tick - tiny_guest_page, 8, 0x8e00, load >> 16\n"
        "gates_pointer: .word 33 * 8 - 1\n"
        ".long load + (gates - tiny_guest_page)\n"
        "greeting: .asciz \"ready\\n\"\n"

        "start:\n"
        "lgdt load + (segments_pointer - tiny_guest_page)\n"
        "lidt load + (gates_pointer - tiny_guest_page)\n"
        "ljmp $8, $load + (1f - tiny_guest_page)\n"
        "1: mov $16, %eax\n"
        "mov %eax, %ds\n"
        "mov %eax, %es\n"
        "mov %eax, %ss\n"
        "mov $load, %esp\n"
        "mov $0xff, %al\n" /* no interrupts but the timer's: there are no gates for others, */
        "out %al, $0x21\n" /* whatever the firmware has left on */
        "out %al, $0xa1\n"
        "movl $0x1ff, 0xfee000f0\n" /* local APIC on; its timer counts ns, */
        "movl $0xb, 0xfee003e0\n"
        "movl $0x20020, 0xfee00320\n" /* again and again, with vector 32 */
        "movl $10000000, 0xfee00380\n"
        "cld\n"
        "mov $load + (greeting - tiny_guest_page), %esi\n"
        "call print\n"

        "look: mov $load + (frames - tiny_guest_page), %ebx\n"
        "next: mov (%ebx), %ebp\n"
        "test %ebp, %ebp\n"
        "jz rest\n"
        "lea 256(%ebp), %edi\n" /* the sequence */
        "lea 24(%ebp), %esi\n"  /* the name */
        "cmpb $'R', 8(%ebp)\n"
        "jne 1f\n"
        "lea 64(%ebp), %edi\n" /* the network's frame: the rest of its magic for the name */
        "lea 8(%ebp), %esi\n"
        "1: cmpl $0, (%edi)\n"
        "je none\n"
        "call take\n"
        "none: add $4, %ebx\n"
        "jmp next\n"
        "rest: sti\n"
        "hlt\n"
        "cli\n"
        "jmp look\n"

        "take: call print\n"
        "mov $' ', %al\n"
        "out %al, %dx\n"
        "lea 8(%edi), %esi\n" /* the payload */
        "mov 4(%edi), %ecx\n"
        "rep outsb\n"
        "mov $'\\n', %al\n"
        "out %al, %dx\n"
        "push %edi\n" /* wiped up to the page's end, then armed again */
        "add $4, %edi\n"
        "mov %edi, %ecx\n"
        "neg %ecx\n"
        "and $4095, %ecx\n"
        "xor %eax, %eax\n"
        "rep stosb\n"
        "pop %edi\n"
        "mov %eax, (%edi)\n"
        "ret\n"

        "print: mov $0x3f8, %edx\n" /* up to the NUL at %esi */
        "1: lodsb\n"
        "test %al, %al\n"
        "jz 2f\n"
        "out %al, %dx\n"
        "jmp 1b\n"
        "2: ret\n"

        "tick: movl $0, 0xfee000b0\n" /* seen */
        "iret\n"
        ".balign 4096\n"
        ".code64\n"
        ".popsection\n");
extern const uint8_t tiny_guest_page[FRAME_SIZE];
enum { FRAMES_OFFSET = 32 };

bool tiny_guest_possible(void)
{
    if (harness_has("qemu-system-x86_64"))
        return true;
    print_message("skipped: qemu-system-x86_64 is not in PATH\n");
    return false;
}

/* `name` may have "@" and a distance from the page's start behind it, which is returned. */
static size_t put_frame(uint8_t *page, const char *name)
{
    struct frame_marker marker = {.kind = strcmp(name, TINY_GUEST_NETWORK) == 0 ? FRAME_NETWORK
                                                                                : FRAME_FORK};
    char token[FRAME_TOKEN_MAX];
    const char *at = strchr(name, '@');
    size_t offset = at ? strtoul(at + 1, NULL, 10) : 0;
    if (marker.kind == FRAME_FORK)
        snprintf(marker.name, sizeof marker.name, "%.*s", (int)strcspn(name, "@"), name);
    marker.token_size = (size_t)snprintf(token, sizeof token, "token-%s", marker.name);
    memcpy(marker.token, token, marker.token_size);
    assert_true(offset + frame_layouts[FRAME_FORK].payload <= FRAME_SIZE);
    assert_int_not_equal(frame_encode_marker(&marker, page + offset), 0);
    return offset;
}

static char *write_image(struct harness *h, const char *const *names)
{
    uint8_t image[(1 + TINY_GUEST_MAILBOXES_MAX) * FRAME_SIZE] = {0};
    uint32_t count = 0;
    char *path = harness_format(h, "%s/tiny-guest", h->directory);
    memcpy(image, tiny_guest_page, FRAME_SIZE);
    for (; names[count]; count++) {
        assert_true(count < TINY_GUEST_MAILBOXES_MAX);
        size_t start = (1 + count) * FRAME_SIZE;
        size_t offset = put_frame(image + start, names[count]);
        frame_store_u32(image + FRAMES_OFFSET + 4 * count,
                        (uint32_t)(TINY_GUEST_LOAD + start + offset));
    }
    struct harness_steps steps =
        harness_write_steps(path, O_WRONLY | O_CREAT | O_TRUNC, image, (1 + count) * FRAME_SIZE);
    assert_int_equal(steps.open | steps.write | steps.close, 0);
    return path;
}
#else
bool tiny_guest_possible(void)
{
    print_message("skipped: the tiny guest is x86 code\n");
    return false;
}

static char *write_image(struct harness *h, const char *const *names)
{
    (void)h;
    (void)names;
    fail_msg("the tiny guest is x86 code");
    return NULL;
}
#endif

char *tiny_guest_config(struct harness *h, const char *const *names)
{
    return harness_format(h, "{\"kernel\":\"%s\",\"memory_mib\":8}\n", write_image(h, names));
}

void tiny_guest_snapshot(struct harness *h, const char *id, const char *const *names)
{
    assert_return_code(mkdir(harness_path(h, "instances/%s", id), 0755), 0);
    harness_put(harness_path(h, "instances/%s/config", id), tiny_guest_config(h, names));
    harness_put(harness_path(h, "instances/%s/state", id), "running\n");
    harness_await(h, harness_path(h, "instances/%s/console", id), "ready");
    harness_put(harness_path(h, "instances/%s/state", id), "standby\n");
    harness_put(harness_path(h, "instances/%s/snapshot", id), id);
    assert_return_code(rmdir(harness_path(h, "instances/%s", id)), 0);
}

int tiny_guest_setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    harness_mount(*state, NULL);
    tiny_guest_snapshot(*state, "base", (const char *const[]){"m", "a", "b", NULL});
    return 0;
}

struct harness_child tiny_guest_commit(struct harness *h, const char *draft, const char *text)
{
    return harness_start_shell(
        h, "bash", harness_format(h, "echo %s > snapshots/base/forks/%s/commit", text, draft));
}

void tiny_guest_stage(struct harness *h, const char *draft, const char *mailbox,
                      const char *payload, int timeout_ms)
{
    harness_put(harness_path(h, "snapshots/base/forks/%s/mailboxes/%s", draft, mailbox),
                harness_format(h,
                               "{\"payload\":%s,\"wait_for_ack\":true,\"ack\":\"udp\","
                               "\"ack_timeout_ms\":%d}",
                               payload, timeout_ms));
}

struct search {
    struct harness *h;
    char *pattern, *wanted, *found;
};

static bool find_line(void *argument)
{
    struct search *search = argument;
    glob_t paths = {0};
    search->found = NULL; /* the payload may have been a part of it; there may be lines in it */
    if (glob(search->pattern, GLOB_PERIOD, NULL, &paths) == 0)
        for (size_t i = 0; i < paths.gl_pathc && !search->found; i++)
            if (harness_read_errno(paths.gl_pathv[i]) == 0)
                search->found = strstr(harness_get(search->h, paths.gl_pathv[i]), search->wanted);
    globfree(&paths);
    return search->found && strstr(search->found, "}\n");
}

int tiny_guest_port(struct harness *h, const char *mailbox)
{
    static const char member[] = "\"ack_port\":";
    struct search search = {.h = h,
                            .pattern = harness_store_path(h, "instances/.new-*/console.log"),
                            .wanted = harness_format(h, "%s {", mailbox)};
    harness_await_that(find_line, &search, "the guest prints its payload");
    char *at = strstr(search.found, member);
    assert_non_null(at);
    return atoi(at + strlen(member));
}

void tiny_guest_send_to(const char *address, int port, const char *text)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(inet_pton(AF_INET, address, &to.sin_addr), 1);
    assert_int_equal(sendto(fd, text, strlen(text), 0, (const struct sockaddr *)&to, sizeof to),
                     (int)strlen(text));
}

void tiny_guest_send(int port, const char *text)
{
    tiny_guest_send_to("127.0.0.1", port, text);
}
