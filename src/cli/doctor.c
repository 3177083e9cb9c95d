/* SPDX-License-Identifier: MIT */
/* doctor: what hypefs needs of this host, line by line, and how to get what is not there. Nothing
 * is changed. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cli/cli.h"
#include "hypervisor/hypervisor.h"
#include "hypervisor/machine.h"
#include "store/probe.h"
#include "store/store_lock.h"
#include "util/cleanup.h"
#include "util/process.h"
#include "util/text.h"

static const struct cli_command command = {
    "hypefs doctor",
    "Usage: hypefs doctor [OPTION]…\n"
    "Tell what this host has of what hypefs needs for this user, and how to get\n"
    "the rest. Each line begins with ok, warning or failed. Nothing is changed.\n"
    "\n"
    "  --store DIR          the store that is meant (default: as of hypefs mount)\n"
    "  -h, --help           print this\n"
    "\n"
    "Exit status: 0, or 1 if something failed: then nothing can be mounted, or no\n"
    "VM can be run.\n"};

enum { OWNER_SIZE = 40, OUTPUT_MAX = 4096, ANSWER_MS = 10000, DETAIL_SIZE = 1024 };
static const uint64_t MIB = 1024 * 1024, ROOM_LEAST_MIB = 1024;

enum verdict { OK, WARNING, FAILED };
static const char *const verdicts[] = {"ok", "warning", "failed"};

/* Each fills in what it has found, or the remedy. */
typedef enum verdict look(const char *store, char ret[DETAIL_SIZE]);

__attribute__((format(printf, 3, 4))) static enum verdict
say(enum verdict verdict, char ret[DETAIL_SIZE], const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(ret, DETAIL_SIZE, format, arguments);
    va_end(arguments);
    return verdict;
}

static enum verdict look_at_fuse(const char *store, char ret[DETAIL_SIZE])
{
    (void)store;
    auto_close int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0 && errno == EACCES)
        return say(FAILED, ret,
                   "/dev/fuse is not for this user: chmod 666 /dev/fuse, as "
                   "distributions have it");
    if (fd < 0)
        return say(FAILED, ret,
                   "/dev/fuse cannot be opened (%s): modprobe fuse; in a container, "
                   "give it that device",
                   strerrordesc_np(errno));
    if (geteuid() != 0 && vmm_program_check("fusermount3", NULL) < 0)
        return say(FAILED, ret,
                   "fusermount3 is not in PATH, and an ordinary user needs it: install "
                   "it (Debian: fuse3)");
    return say(OK, ret, "can be mounted");
}

static enum verdict look_at_kvm(const char *store, char ret[DETAIL_SIZE])
{
    (void)store;
    if (machine_resolve_accel(ACCEL_AUTO) == ACCEL_KVM)
        return say(OK, ret, "VMs run on the processor");
    auto_close int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0 && errno == EACCES)
        return say(WARNING, ret,
                   "/dev/kvm is not this user's: add it to the device's group "
                   "(usermod -aG kvm USER); until then QEMU emulates, and others "
                   "cannot run VMs");
    return say(WARNING, ret,
               "there is none (%s): QEMU emulates, which is slow, and others cannot "
               "run VMs",
               fd < 0 ? strerrordesc_np(errno) : "the processor has no vmx or svm");
}

/* The first line of what a program says of itself. */
static enum verdict look_at_program(const char *program, const char *missing, char ret[DETAIL_SIZE])
{
    const char *const arguments[] = {program, "--version", NULL};
    auto_free char *said = NULL;
    struct error err;
    if (vmm_program_check(program, NULL) < 0)
        return say(WARNING, ret, "%s is not in PATH: %s", program, missing);
    if (process_output(-1, arguments, OUTPUT_MAX, ANSWER_MS, -1, &said, &err) < 0)
        return say(WARNING, ret, "%s", err.text);
    said[strcspn(said, "\n")] = 0;
    return say(OK, ret, "%s", said);
}

static enum verdict look_at_taps(const char *store, char ret[DETAIL_SIZE])
{
    (void)store;
    auto_close int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0 && errno == EACCES)
        return say(WARNING, ret,
                   "/dev/net/tun is not for this user, so VMs cannot be on taps: chmod "
                   "666 /dev/net/tun, as distributions have it");
    return fd >= 0 ? say(OK, ret, "/dev/net/tun can be opened")
                   : say(WARNING, ret,
                         "/dev/net/tun cannot be opened (%s), so VMs cannot be on "
                         "taps: modprobe tun; in a container, give it that device",
                         strerrordesc_np(errno));
}

static enum verdict look_at_confinement(const char *store, char ret[DETAIL_SIZE])
{
    struct vmm_confine confine = {0};
    struct error err = {0};
    auto_close int directory = cli_open_above(store);
    if (vmm_confine_find(&confine, directory, &err) < 0)
        return say(WARNING, ret, "VMMs cannot be shut in: %s", err.text);
    if (confine.no_namespaces)
        return say(WARNING, ret, "partial, by Landlock (version %d) alone: %s", confine.landlock,
                   err.text);
    if (geteuid() == 0)
        return say(WARNING, ret,
                   "partial, for VMMs would be root without rights: give hypefs mount "
                   "--user NAME, or --vmm-uids FIRST-LAST");
    if (confine.landlock == 0)
        return say(OK, ret,
                   "full, but this kernel has no Landlock, which is a second wall (boot "
                   "with lsm=landlock,…)");
    return say(OK, ret, "full, with Landlock (version %d)", confine.landlock);
}

/* Only root can give VMMs users, and each file system can show files as another's or cannot. */
static enum verdict look_at_users(const char *store, char ret[DETAIL_SIZE])
{
    static const struct vmm_user_range some = {300000, 300000, 300000};
    struct vmm_confine confine = {0};
    struct error err = {0};
    if (geteuid() != 0)
        return say(OK, ret, "VMMs are this user, in namespaces of their own");
    auto_close int directory = cli_open_above(store);
    int r = vmm_users_create(&some, &confine.users, &err);
    if (r == 0)
        r = vmm_confine_find(&confine, directory, &err);
    vmm_users_destroy(confine.users);
    return r == 0 ? say(OK, ret, "--vmm-uids can be used with this store")
                  : say(WARNING, ret, "--vmm-uids cannot be used with this store: %s", err.text);
}

/* Two files without a name, of which one becomes the other. */
static bool has_reflinks(int directory_fd)
{
    auto_close int from = openat(directory_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    auto_close int to = openat(directory_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    return from >= 0 && to >= 0 && write(from, verdicts, sizeof verdicts) > 0 &&
           ioctl(to, FICLONE, from) == 0;
}

/* Of a store that is there already: what a mount would refuse, and who uses it. 0, or -errno. */
static int look_into(const char *store, char ret_owner[OWNER_SIZE], struct error *err)
{
    auto_close int fd = open(store, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    pid_t owner = store_lock_owner(fd);
    if (owner > 0)
        snprintf(ret_owner, OWNER_SIZE, ", in use by process %d", (int)owner);
    return geteuid() == 0 ? probe_trust(fd, store, err) : 0;
}

static enum verdict look_at_store(const char *store, char ret[DETAIL_SIZE])
{
    char owner[OWNER_SIZE] = "";
    struct error err = {0};
    char type[PROBE_TYPE_SIZE];
    struct stat st;
    struct statvfs room;
    auto_close int above = cli_open_above(store);
    auto_close int fd = above >= 0 ? openat(above, ".", O_DIRECTORY | O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0 || fstat(fd, &st) < 0 || fstatvfs(fd, &room) < 0)
        return say(FAILED, ret, "%s: %s: give another with --store", store, strerrordesc_np(errno));
    if (faccessat(fd, ".", W_OK, AT_EACCESS) < 0)
        return say(FAILED, ret, "%s cannot be written to (%s): give another with --store", store,
                   strerrordesc_np(errno));
    if (look_into(store, owner, &err) < 0)
        return say(FAILED, ret, "%s", err.text);
    probe_type(st.st_dev, type, NULL);
    uint64_t free_mib = (uint64_t)room.f_bavail * room.f_frsize / MIB;
    return say(free_mib < ROOM_LEAST_MIB ? WARNING : OK, ret, "%s (%s, %ju MiB free%s%s); %s",
               store, type, (uintmax_t)free_mib,
               free_mib < ROOM_LEAST_MIB ? ", which few snapshots fill: make room" : "", owner,
               has_reflinks(fd) ? "memory is copied by reflinks"
                                : "memory is copied byte by byte, as it has no reflinks (XFS and "
                                  "Btrfs have)");
}

static const struct {
    const char *name;
    look *look;                    /* NULL: a program */
    const char *program, *missing; /* what is not possible without, and the remedy */
    bool is_vmm;
} looks[] = {
    {"mount", look_at_fuse},
    {"store", look_at_store},
    {"kvm", look_at_kvm},
    {"qemu", NULL, "qemu-system-x86_64",
     "its VMs cannot be run: install it (Debian: qemu-system-x86)", true},
    {"qemu-img", NULL, "qemu-img",
     "QEMU's VMs cannot have writable disks: install it (Debian: qemu-utils)", false},
    {"firecracker", NULL, "firecracker", "its VMs cannot be run", true},
    {"cloud-hypervisor", NULL, "cloud-hypervisor", "its VMs cannot be run", true},
    {"taps", look_at_taps},
    {"confinement", look_at_confinement},
    {"users of VMMs", look_at_users},
};

int cli_doctor(int argc, char **argv)
{
    const char *store = NULL;
    const struct cli_option options[] = {{"store", .text = &store}};
    int status = cli_read_options(&command, argc, argv, options, array_length(options), NULL);
    if (status != CLI_GO_ON)
        return status;
    if (optind < argc)
        return cli_misuse(&command, "there are no arguments, only options");
    if (store && !store[0])
        return cli_misuse(&command, "--store needs a directory");
    auto_free char *usual = store ? NULL : cli_default_store();
    if (!store && !usual)
        return cli_misuse(&command, "no HOME to keep the store in: give --store DIR");
    bool failed = false, has_vmm = false;
    for (size_t i = 0; i < array_length(looks); i++) {
        char detail[DETAIL_SIZE];
        enum verdict verdict = looks[i].look
                                   ? looks[i].look(store ? store : usual, detail)
                                   : look_at_program(looks[i].program, looks[i].missing, detail);
        cli_say(stdout, "%-8s %s: %s", verdicts[verdict], looks[i].name, detail);
        failed = failed || verdict == FAILED;
        has_vmm = has_vmm || (looks[i].is_vmm && verdict == OK);
    }
    if (!has_vmm)
        cli_say(stdout,
                "%-8s VMMs: there is none, so no VM can be run: install QEMU, Firecracker or "
                "Cloud Hypervisor",
                verdicts[FAILED]);
    failed = failed || !has_vmm;
    status = cli_flush(command.name);
    return status == CLI_DONE && failed ? CLI_FAILED : status;
}
