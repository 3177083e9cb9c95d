/* SPDX-License-Identifier: MIT */
#include "qemu_fixture.h"

/* A multiboot image, linked to 1 MiB. */
static const unsigned char guest[] = {
    0x02, 0xb0, 0xad, 0x1b,                   /* magic */
    0x00, 0x00, 0x01, 0x00,                   /* flags: the addresses below are valid */
    0xfe, 0x4f, 0x51, 0xe4,                   /* checksum of both */
    0x00, 0x00, 0x10, 0x00,                   /* address of this header */
    0x00, 0x00, 0x10, 0x00,                   /* and of the image's start */
    0x00, 0x10, 0x10, 0x00,                   /* end of what is loaded */
    0x00, 0x00, 0x00, 0x00,                   /* nothing to be zeroed */
    0x20, 0x00, 0x10, 0x00,                   /* entry */
    0xba, 0xf8, 0x03, 0x00, 0x00,             /*       mov $0x3f8, %edx: the serial port */
    0xb0, 0x41,                               /*       mov $'A', %al */
    0xee,                                     /*       out %al, (%dx) */
    0xa0, 0x00, 0x00, 0x20, 0x00,             /* wait: mov LETTER, %al */
    0x84, 0xc0,                               /*       test %al, %al */
    0x74, 0xf7,                               /*       jz wait */
    0x3c, 0x54,                               /*       cmp $'T', %al */
    0x74, 0x10,                               /*       je trap */
    0xee,                                     /*       out %al, (%dx) */
    0xff, 0x05, 0x04, 0x00, 0x20, 0x00,       /*       incl COUNTER */
    0xc6, 0x05, 0x00, 0x00, 0x20, 0x00, 0x00, /*       movb $0, LETTER */
    0xeb, 0xe3,                               /*       jmp wait */
    0x0f, 0x01, 0x1d, 0x10, 0x00, 0x20, 0x00, /* trap: lidt of zeros */
    0xcc,                                     /*       int3: a triple fault, which resets */
};

static char kernel_path[PATH_MAX];

struct machine small_machine(const struct fixture *fixture, enum machine_board board)
{
    char page[0x1000] = {0};
    memcpy(page, guest, sizeof guest);
    fixture_write(fixture->base_fd, "guest,x", 0600, page, sizeof page);
    snprintf(kernel_path, sizeof kernel_path, "%s/guest,x", fixture->base);
    return (struct machine){.hypervisor = fixture->qemu,
                            .memory_bytes = MEMORY_BYTES,
                            .vcpus = 1,
                            .board = board,
                            .accel = ACCEL_TCG,
                            .network = NETWORK_USER,
                            .kernel = strdup(kernel_path)};
}

void await_console(const struct vmm_context *context, const char *text)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d/console.log", context->directory_fd);
    auto_close int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    assert_true(inotify_add_watch(watch, path, IN_MODIFY) >= 0);
    double deadline_ms = process_now_ms() + FAR_MS;
    for (;;) {
        auto_free char *console = fixture_read(context->directory_fd, "console.log", NULL);
        assert_non_null(console);
        if (strcmp(console, text) == 0)
            return;
        if (process_poll(&watch, 1, deadline_ms) <= 0)
            fail_msg("the console has '%s' instead of '%s'", console, text);
        char events[4096];
        while (read(watch, events, sizeof events) > 0)
            ;
    }
}

struct vmm *boot(const struct vmm_context *context, struct machine *machine)
{
    struct vmm *vmm = NULL;
    MUST(vmm_boot(context, machine, &vmm, why));
    await_console(context, "A");
    return vmm;
}

static int qemu_no_probe(int cancel_fd, struct program *ret, struct error *err)
{
    (void)cancel_fd;
    (void)ret;
    (void)err;
    return 0;
}

bool qemu_is_there(void)
{
    struct program program;
    struct error err = {0};
    if (programs_find(NULL, "qemu-system-x86_64", qemu_no_probe, -1, &program, &err) == 0)
        return true;
    printf("skipped: %s\n", err.text);
    return false;
}
