/* SPDX-License-Identifier: MIT */
/* The backend for QEMU. Its files in an instance's directory: qmp.sock, *.log, memory, base. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "hypervisor/confine.h"
#include "hypervisor/guest_memory.h"
#include "hypervisor/machine.h"
#include "hypervisor/memory.h"
#include "hypervisor/opened.h"
#include "hypervisor/programs.h"
#include "hypervisor/qemu_arguments.h"
#include "hypervisor/qemu_control.h"
#include "hypervisor/qemu_disks.h"
#include "hypervisor/qemu_readonly.h"
#include "hypervisor/qemu_record.h"
#include "hypervisor/vmm_process.h"
#include "hypervisor/tap.h"
#include "hypervisor/vmm_spawn.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/plain_file.h"
#include "util/process.h"
#include "util/unix_socket.h"

enum {
    PROBE_MS = 10000,
    LOAD_MS = 60000,
    LOAD_POLL_MIN_MS = 1,
    LOAD_POLL_MAX_MS = 16,
    PROBE_OUTPUT_MAX = 4096,
};

static const char program_name[] = "qemu-system-x86_64";
static const char lean_name[] = "qemu-system-x86_64-microvm";
static const char memory_name[] = "memory";
static const char state_name[] = "state";
static const char incoming_name[] = "state", incoming_uri[] = "fd:state";

/* ---- the program ---- */

static int ask_version(const char *path, int cancel_fd, char ret[static PROGRAM_VERSION_SIZE],
                       struct error *err)
{
    const char *const arguments[] = {path, "--version", NULL};
    auto_free char *text = NULL;
    int r = process_output(-1, arguments, PROBE_OUTPUT_MAX, PROBE_MS, cancel_fd, &text, err);
    if (r < 0)
        return r;
    static const char before[] = "version ";
    const char *found = strstr(text, before);
    unsigned major, minor, micro;
    if (!found || sscanf(found + strlen(before), "%4u.%4u.%4u", &major, &minor, &micro) != 3)
        return error_set(err, EIO, "%s --version does not print a version of QEMU", path);
    snprintf(ret, PROGRAM_VERSION_SIZE, "%u.%u.%u", major, minor, micro);
    return 0;
}

static int probe(int cancel_fd, struct program *ret, struct error *err)
{
    int r = ask_version(ret->path, cancel_fd, ret->version, err);
    if (r < 0)
        return r;
    const char *const arguments[] = {ret->path, "-sandbox", QEMU_SANDBOX, "--version", NULL};
    auto_free char *text = NULL;
    struct error why;
    r = process_output(-1, arguments, PROBE_OUTPUT_MAX, PROBE_MS, cancel_fd, &text, &why);
    ret->sandbox = r == 0;
    return r == -ECANCELED ? error_set(err, ECANCELED, "%s", why.text) : 0;
}

/* Debian has a QEMU with little in it but what microvms on KVM need, which starts in half the time
 * and has less memory of its own. Either loads what the other has saved. */
static bool may_be_lean(const struct vmm_context *context, const struct machine *machine)
{
    return !context->binary && machine->board == MACHINE_MICROVM &&
           machine->network != NETWORK_USER && machine_resolve_accel(machine->accel) == ACCEL_KVM;
}

static int find_program(const struct vmm_context *context, const struct machine *machine,
                        struct program *ret, struct error *err)
{
    struct program lean;
    struct error why;
    int r = programs_find(context->programs, context->binary ? context->binary : program_name,
                          probe, context->cancel_fd, ret, err);
    if (r == 0 && may_be_lean(context, machine) &&
        programs_find(context->programs, lean_name, probe, context->cancel_fd, &lean, &why) == 0 &&
        strcmp(lean.version, ret->version) == 0)
        *ret = lean;
    return r;
}

/* ---- starting ---- */

/* A machine that is loaded from its firmware boots once more. */
static void confine(const struct vmm_context *context, const struct machine *machine,
                    const struct qemu_readonly *readonly, const struct qemu_start *start,
                    struct arguments *ret)
{
    if (!context->confine)
        return;
    confine_begin(ret, context, machine, start->image, start->program->path);
    if (readonly->library[0])
        confine_add(ret, "--ro", readonly->library);
}

static int spawn(const struct vmm_context *context, const struct machine *machine,
                 const struct arguments *arguments, const struct qemu_readonly *readonly,
                 const struct qemu_start *start, struct vmm **ret, struct error *err)
{
    struct arguments confined = {0};
    const int inherited[] = {start->qmp_fd, start->tap_fd};
    auto_close int output = -1, console = -1;
    int r = vmm_log_open(context, VMM_LOG_NAME, &output, err);
    if (r == 0)
        r = vmm_log_open(context, VMM_CONSOLE_NAME, &console, err);
    confine(context, machine, readonly, start, &confined);
    struct vmm_spawn spawn = {.arguments = arguments->items,
                              .confine = &confined,
                              .environment = readonly->environment,
                              .output_fd = output,
                              .error_fd = -1,
                              .inherit_fds = inherited,
                              .inherit_count = start->tap_fd >= 0 ? 2 : 1};
    if (r == 0)
        r = vmm_spawn(&qemu_hypervisor, context, &spawn, ret, err);
    arguments_finish(&confined);
    return r;
}

static int open_tap(const struct machine *machine, int *ret, struct error *err)
{
    int r = machine_check_taps(machine, err);
    return r == 0 ? tap_open(machine->interfaces[0].tap, ret, err) : r;
}

/* Starts a QEMU and waits for its greeting. After a failure *ret may be a VMM, to be abandoned. */
static int launch(const struct vmm_context *context, const struct machine *machine,
                  struct qemu_start *start, struct vmm **ret, struct error *err)
{
    auto_close int listener = -1, control = -1, tap = -1;
    char console[VMM_LOG_PATH_SIZE];
    struct arguments arguments = {0};
    struct qemu_readonly readonly = {0};
    int r = unix_socket_listen(context->directory_fd, QEMU_SOCKET_NAME, &listener, err);
    if (r == 0)
        r = unix_socket_connect(context->directory_fd, QEMU_SOCKET_NAME, &control, err);
    start->qmp_fd = listener;
    vmm_log_path(context, VMM_CONSOLE_NAME, console);
    start->console = console;
    if (r == 0)
        r = qemu_disks_make(context, machine, start->restore, err);
    if (r == 0 && machine->network == NETWORK_TAP && start->tap_fd < 0) {
        r = open_tap(machine, &tap, err);
        start->tap_fd = tap;
    }
    if (r == 0)
        r = qemu_arguments_create(machine, start, &arguments, err);
    if (r == 0 && start->restore && !qemu_readonly_is_option(start->program))
        r = qemu_readonly_prepare(start->memory, &readonly, err);
    if (r == 0)
        r = spawn(context, machine, &arguments, &readonly, start, ret, err);
    qemu_readonly_finish(&readonly);
    arguments_finish(&arguments);
    /* From here on the connection breaks when QEMU ends before it took it. */
    if (listener >= 0)
        close(steal_fd(&listener));
    return r < 0 ? r : qemu_control_open(context, *ret, steal_fd(&control), err);
}

/* Ends a start that failed, and says what QEMU said. */
static int abandon(const struct vmm_context *context, struct vmm *vmm, off_t from, int r,
                   struct error *err)
{
    if (vmm)
        r = vmm_explain(context, vmm, from, r, err);
    return vmm_abandon(context, &qemu_hypervisor, vmm, r, err);
}

/* `recorded` is filled in on success. */
static int start_booting(const struct vmm_context *context, const struct machine *machine,
                         const struct program *program, int memory_fd, struct machine *recorded,
                         struct vmm **ret, struct error *err)
{
    int r = qemu_record_begin(machine->accel, recorded, err);
    if (r < 0)
        return r;
    struct machine told = *machine;
    told.accel = recorded->accel;
    told.cpu = recorded->cpu;
    struct qemu_start start = {.program = program,
                               .type = machine_board_names[machine->board],
                               .memory = memory_name,
                               .tap_fd = -1};
    struct vmm *vmm = NULL;
    off_t from = vmm_log_size(context);
    r = launch(context, &told, &start, &vmm, err);
    /* The process must be QEMU itself, not a script that waits for it, and have our memory file. */
    if (r == 0)
        r = vmm_ended(vmm, guest_memory_check(vmm->pid, memory_fd, err), err);
    if (r == 0)
        r = qemu_record_finish(context, vmm, recorded, err);
    if (r < 0)
        return abandon(context, vmm, from, r, err);
    *ret = vmm;
    return 0;
}

/* ---- booting ---- */

enum { KERNEL_HEADER_SIZE = 8192, LINUX_MAGIC_AT = 0x202, MULTIBOOT_ALIGNMENT = 4 };

static bool has(const uint8_t *header, size_t size, size_t at, const char magic[static 4])
{
    return at + 4 <= size && memcmp(header + at, magic, 4) == 0;
}

static bool has_multiboot(const uint8_t *header, size_t size)
{
    for (size_t at = 0; at < size; at += MULTIBOOT_ALIGNMENT)
        if (has(header, size, at, "\x02\xb0\xad\x1b"))
            return true;
    return false;
}

/* QEMU starts a file that is no kernel all the same, and its VM does nothing. EINVAL for one that
 * is none of what it boots with -kernel: Linux's boot protocol (a bzImage), an ELF file (a vmlinux
 * with PVH), or one with a multiboot header. 0 for what cannot be opened: QEMU says why. */
static int check_kernel(const char *path, struct error *err)
{
    uint8_t header[KERNEL_HEADER_SIZE];
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return 0;
    ssize_t got = pread(fd, header, sizeof header, 0);
    if (got < 0)
        return error_set(err, EINVAL,
                         "QEMU cannot boot the kernel %s, which cannot be read (%s): give another "
                         "in config",
                         path, strerrordesc_np(errno));
    const size_t size = (size_t)got;
    if (has(header, size, LINUX_MAGIC_AT, "HdrS") ||
        has(header, size, 0,
            "\x7f"
            "ELF") ||
        has_multiboot(header, size))
        return 0;
    return error_set(err, EINVAL,
                     "QEMU cannot boot the kernel %s, which is no bzImage of Linux, no ELF file "
                     "and has no multiboot header: give another in config",
                     path);
}

static int boot(const struct vmm_context *context, struct machine *machine, struct vmm **ret,
                struct error *err)
{
    struct program program;
    auto_close int memory = -1;
    int r = find_program(context, machine, &program, err);
    if (r == 0 && machine->kernel)
        r = check_kernel(machine->kernel, err);
    if (r == 0)
        r = memory_create(context, machine->memory_bytes, &memory, err);
    if (r < 0)
        return r;
    struct machine recorded = {0};
    r = start_booting(context, machine, &program, memory, &recorded, ret, err);
    if (r == 0)
        qemu_record_put(machine, &recorded);
    else
        unlinkat(context->directory_fd, memory_name, 0);
    machine_finish(&recorded);
    return r;
}

/* ---- restoring ---- */

/* QEMU would announce the guest at load, with the MAC address of the VM that was saved. */
static int silence(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    cJSON *arguments = cJSON_CreateObject();
    json_add_number(arguments, "announce-rounds", 0);
    return qemu_control_execute_with(context, vmm, "migrate-set-parameters", arguments, -1, NULL,
                                     err);
}

/* 1 when the state is loaded, 0 while it is not. */
static int loaded(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    auto_json cJSON *answer = NULL;
    int r = qemu_control_execute(context, vmm, "query-migrate", NULL, -1, &answer, err);
    if (r < 0)
        return r;
    const char *status = json_get_text(answer, "status");
    if (status && strcmp(status, "completed") == 0)
        return 1;
    if (status && strcmp(status, "failed") == 0)
        return error_set(err, EIO, "QEMU could not load the state");
    return 0;
}

static int await_loaded(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    const struct process_limits limits = vmm_start_limits(context, vmm, LOAD_MS);
    for (int pause_ms = LOAD_POLL_MIN_MS;; pause_ms *= 2) {
        int r = loaded(context, vmm, err);
        if (r != 0)
            return r < 0 ? r : 0;
        double now_ms = process_now_ms();
        if (now_ms > process_deadline(&limits))
            return error_set(err, EIO, "QEMU did not load the state within %d s",
                             (context->answer_ms > 0 ? context->answer_ms : LOAD_MS) / 1000);
        if (pause_ms > LOAD_POLL_MAX_MS)
            pause_ms = LOAD_POLL_MAX_MS;
        int fds[] = {vmm->pidfd, context->cancel_fd};
        process_poll(fds, array_length(fds), now_ms + pause_ms);
    }
}

static int load_state(const struct vmm_context *context, struct vmm *vmm, int state_fd,
                      struct error *err)
{
    int r = silence(context, vmm, err);
    if (r == 0)
        r = qemu_control_execute_string(context, vmm, "getfd", "fdname", incoming_name, state_fd,
                                        err);
    if (r == 0)
        r = qemu_control_execute_string(context, vmm, "migrate-incoming", "uri", incoming_uri, -1,
                                        err);
    return r < 0 ? r : await_loaded(context, vmm, err);
}

/* The image as QEMU gets it: memory by its path, the state by a descriptor. */
struct image {
    const char *directory;
    char *memory;
    int memory_fd, state_fd;
};

static void close_image(struct image *image)
{
    cleanup_close(&image->memory_fd);
    cleanup_close(&image->state_fd);
    free(image->memory);
}

static int open_file(const struct vmm_context *context, const char *directory, const char *name,
                     char **ret_path, int *ret, struct error *err)
{
    auto_free char *path = NULL;
    if (asprintf(&path, "%s/%s", directory, name) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    int r = plain_file_open(context->directory_fd, path, O_RDONLY, path, ret, err);
    if (r == 0 && ret_path)
        *ret_path = steal_pointer(path);
    return r;
}

static int open_image(const struct vmm_context *context, const char *directory, struct image *ret,
                      struct error *err)
{
    int r = open_file(context, directory, memory_name, &ret->memory, &ret->memory_fd, err);
    return r < 0 ? r : open_file(context, directory, state_name, NULL, &ret->state_fd, err);
}

static int restore(const struct vmm_context *context, const struct machine *machine,
                   const struct program *program, const struct image *image, int tap_fd,
                   struct vmm **ret, struct error *err)
{
    struct qemu_start start = {.program = program,
                               .type = machine->type,
                               .memory = image->memory,
                               .image = image->directory,
                               .restore = true,
                               .tap_fd = tap_fd};
    struct vmm *vmm = NULL;
    off_t from = vmm_log_size(context);
    int r = launch(context, machine, &start, &vmm, err);
    if (r == 0)
        r = qemu_record_check_greeting(machine, vmm, err);
    /* After the greeting the process is QEMU; loading the state would be in vain if this fails. */
    if (r == 0)
        r = guest_memory_open_process(vmm->pid, &vmm->memory_fd, err);
    if (r == 0 && !machine->in_firmware)
        r = load_state(context, vmm, image->state_fd, err);
    if (r == 0)
        r = guest_memory_create(vmm->pid, vmm->memory_fd, image->memory_fd, &vmm->memory, err);
    if (vmm)
        r = vmm_ended(vmm, r, err);
    if (r < 0)
        return abandon(context, vmm, from, r, err);
    *ret = vmm;
    return 0;
}

/* The VMM before may go on with the tap, if this one fails to load: it may have changed the length
 * of the header that comes with each frame by then. (It has switched offloads off, too, which
 * cannot be read back: the host does that work then.) */
static int restore_with_tap(const struct vmm_context *context, const struct machine *machine,
                            const struct program *program, const struct image *image,
                            struct vmm **ret, struct error *err)
{
    auto_close int tap = -1;
    int header_size = 0;
    int r = opened_take_tap(context->before, machine->interfaces[0].tap, &tap, err);
    if (r == 0 && ioctl(tap, TUNGETVNETHDRSZ, &header_size) < 0)
        r = error_errno(err, errno, "the tap %s", machine->interfaces[0].tap);
    if (r < 0)
        return r;
    r = restore(context, machine, program, image, tap, ret, err);
    if (r < 0 && ioctl(tap, TUNSETVNETHDRSZ, &header_size) < 0)
        error_append(err, "; and the tap %s cannot be set up as it was: %s",
                     machine->interfaces[0].tap, strerrordesc_np(errno));
    return r;
}

static int load(const struct vmm_context *context, const struct machine *machine,
                const char *directory, struct vmm **ret, struct error *err)
{
    const bool takes_tap = context->before && machine->network == NETWORK_TAP;
    struct program program;
    struct image image = {.directory = directory, .memory_fd = -1, .state_fd = -1};
    int r = find_program(context, machine, &program, err);
    if (r == 0)
        r = qemu_record_check(machine, &program, err);
    if (r == 0)
        r = open_image(context, directory, &image, err);
    if (r == 0)
        r = takes_tap ? restore_with_tap(context, machine, &program, &image, ret, err)
                      : restore(context, machine, &program, &image, -1, ret, err);
    close_image(&image);
    return r;
}

/* ---- a VM's life ---- */

static int command(const struct vmm_context *context, struct vmm *vmm, const char *name,
                   struct error *err)
{
    off_t from = vmm_log_size(context);
    int r = qemu_control_execute(context, vmm, name, NULL, -1, NULL, err);
    return r < 0 ? vmm_explain(context, vmm, from, r, err) : 0;
}

static int resume(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    return command(context, vmm, "cont", err);
}

static int pause_guest(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    return command(context, vmm, "stop", err);
}

static const char *const sockets[] = {QEMU_SOCKET_NAME, NULL};

const struct hypervisor qemu_hypervisor = {
    .name = "qemu",
    .title = "QEMU",
    .sockets = sockets,
    .shares_memory = true,
    .takes_taps = true,
    .may_halt = true,
    .default_network = NETWORK_USER,
    .boot = boot,
    .load = load,
    .resume = resume,
    .pause = pause_guest,
    .prepare = memory_prepare,
    .save = qemu_save,
    .find_disks = qemu_disks_find,
    .release = qemu_control_release,
};
