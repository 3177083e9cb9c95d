/* SPDX-License-Identifier: MIT */
/*
 * hypervisor: what hypefs asks of a virtual machine monitor (VMM), as one table of functions.
 *
 * A backend is one file behind `struct hypervisor`. It knows processes, sockets and files that it
 * is handed, and neither the store nor forks nor other backends. Callers use the vmm_*() wrappers
 * of hypervisor.c, which check arguments and prefix errors; nobody else calls through the table.
 *
 * Every call may block for as long as its deadline allows and returns ECANCELED at once when
 * `cancel_fd` of its context becomes readable. A VMM that dies, hangs or answers nonsense gives EIO
 * with its own last words in the text. A call that fails leaves no process behind when it was to
 * start one. One thread at a time per struct vmm.
 */
#ifndef HYPEFS_HYPERVISOR_HYPERVISOR_H
#define HYPEFS_HYPERVISOR_HYPERVISOR_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <cjson/cJSON.h>

#include "hypervisor/guest_memory.h"
#include "hypervisor/vmm_users.h"
#include "util/error.h"
#include "util/file_key.h"
#include "util/page_set.h"

/* What a VM is made of. Strings are owned (machine_finish). */
struct machine_disk {
    char *id;     /* a word; NULL: the VMM goes by the order of the disks */
    char *path;   /* absolute */
    char *format; /* "raw" or "qcow2" */
    bool readonly;
    bool pmem; /* a pmem device of Firecracker's, not a drive: its file is mapped, and not open */
    char *saved_path; /* absolute: where the state that is to be loaded says that it is, whether
                         there is such a file or not; NULL: at `path`, or a file of the VM's own */
    char *frozen;     /* of a writable one: the copy of it in the snapshot's directory; or NULL */
    char *lower;      /* the copy is an overlay over that raw file, which lies beside it; or NULL */
    char key[FILE_KEY_SIZE]; /* that `path` must keep, since something was saved with it: then a
                                writable one is a chain of files (disks.h); "": none */
    unsigned layers;         /* frozen overlays over it, of a chain */
};

enum { MACHINE_TAP_MAX = 15, MACHINE_INTERFACES_MAX = 16, MACHINE_DISKS_MAX = 64 };

struct machine_interface {
    char *id;      /* as a disk's */
    char *tap;     /* the host's interface behind it */
    char *mac;     /* NULL: the VMM's choice */
    bool replaced; /* `tap` is not the one of the saved state that is to be loaded */
};

enum machine_board { MACHINE_MICROVM, MACHINE_Q35, MACHINE_BOARDS };
enum machine_accel { ACCEL_AUTO, ACCEL_KVM, ACCEL_TCG, ACCELS };
enum machine_network { NETWORK_NONE, NETWORK_USER, NETWORK_TAP, NETWORK_MODES };
extern const char *const machine_board_names[MACHINE_BOARDS + 1];  /* "microvm", "q35", NULL */
extern const char *const machine_accel_names[ACCELS + 1];          /* "auto", "kvm", "tcg" */
extern const char *const machine_network_names[NETWORK_MODES + 1]; /* "none", "user", "tap" */

struct hypervisor;

/* Of a VM's console and of what its VMM says: how long each of the files may become. */
enum { MACHINE_LOG_MAX_DEFAULT = 16 * 1024 * 1024, MACHINE_LOG_MAX_LEAST = 64 * 1024 };
static const int64_t MACHINE_LOG_MAX_MOST = (int64_t)1 << 40;

struct machine {
    const struct hypervisor *hypervisor; /* constant; set by who parses or reads a machine */
    uint64_t memory_bytes;
    unsigned vcpus; /* 0: not known, of a snapshot that another tool made */
    enum machine_board board;
    enum machine_accel accel; /* resolved (never auto) once booted */
    enum machine_network network;
    bool network_restrict;
    struct machine_interface *interfaces; /* NETWORK_TAP: at least one; else none */
    size_t interface_count;
    struct machine_disk *disks;
    size_t disk_count;
    uint64_t console_max_bytes; /* of each log; 0: MACHINE_LOG_MAX_DEFAULT */
    char *vsock; /* path of the Unix socket behind a vsock device; NULL: there is no such device */
    bool huge_pages; /* of a saved state that another tool made: it says that the memory was on
                        hugetlbfs, where that of a load is not */

    /* For booting only; NULL when not given. Absolute paths. */
    char *kernel, *initrd, *cmdline;
    bool in_firmware; /* of an image: at the save its firmware still ran, and a load begins with
                         that once more */

    /* Filled in by boot, repeated and checked by load; NULL before. */
    char *type;     /* the versioned machine type as the VMM names it */
    char *cpu;      /* the CPU model given to the VMM */
    char *host_cpu; /* under KVM: the host CPU's model and flags, hashed; else NULL */
    char *version;  /* the VMM's version */
};

void machine_finish(struct machine *machine);

/* Bytes that each log of the machine may have. */
uint64_t machine_log_max(const struct machine *machine);

/* Puts its interface on another tap than a saved state's. EINVAL unless it has exactly one. */
int machine_set_tap(struct machine *machine, const char *tap, struct error *err);
/* The same of those that `taps` names: an object, of the ids of interfaces with the names of taps.
 * EINVAL: there is no such interface, or two are on one tap. */
int machine_set_taps(struct machine *machine, const cJSON *taps, struct error *err);
/* It runs: what is saved of it from now on is on the taps that it has, names its own copies of the
 * disks that were frozen, and says of what pages its memory is now. */
void machine_settle(struct machine *machine);

/* Everything but the hypervisor, for snapshot.json; and back (untrusted: EINVAL). The boot members
 * are there only if the machine was saved in its firmware. */
cJSON *machine_to_json(const struct machine *machine);
int machine_from_json(const cJSON *json, struct machine *ret, struct error *err);

/* [A-Za-z0-9_.-]{1,15}, but not "." and "..", which no interface can be called. */
bool machine_tap_valid(const char *tap);
/* Six pairs of hex digits with colons between them, not all zeros, no group's address. */
bool machine_mac_valid(const char *mac);

/* KVM if /dev/kvm opens and the CPU has vmx or svm (or is not x86), else TCG. */
enum machine_accel machine_resolve_accel(enum machine_accel wanted);

/* What is known of VMM programs: asked once, and again when the program's file has changed. Made at
 * the start, locked inside, any thread. NULL wherever one is taken: ask every time. */
struct vmm_programs;
int vmm_programs_create(struct vmm_programs **ret, struct error *err);
void vmm_programs_destroy(struct vmm_programs *programs);

/* Is there such a program (in PATH if it has no slash) that can be executed? It is not run. EIO. */
int vmm_program_check(const char *binary, struct error *err);

struct vmm;

/* What shuts VMMs in. */
struct vmm_confine {
    char program[PATH_MAX];      /* src/confine/vmm.c */
    const char *const *readable; /* paths that VMMs may read, besides what they need anyway */
    size_t readable_count;
    struct vmm_users *users; /* whom they are; NULL: the daemon's user */
    bool no_namespaces;      /* there can be none on this host: Landlock has to do without */
    int landlock;            /* its version; 0: there is none */
};

/* Finds the program, and tries it, in a directory that is on the store's file system. Where there
 * can be no namespaces, `err` says why, although there is Landlock, and this succeeds. EIO: it
 * cannot shut anything in there, and why. */
int vmm_confine_find(struct vmm_confine *ret, int directory_fd, struct error *err);

/* What is in force for a VMM's process, as the kernel tells it, but for Landlock, of which it does
 * not: for `info`. Null if it had ended when it was first asked. One thread at a time per VMM. */
cJSON *vmm_describe_confinement(struct vmm *vmm);

/* Where a VMM is to run. Borrowed for the call. */
struct vmm_context {
    const struct vmm_confine *confine; /* NULL: it can do whatever the daemon's user can */
    const char *binary; /* path of the VMM's program; NULL: the backend's own from PATH */
    struct vmm_programs *programs;
    int directory_fd; /* where the VMM works, with its sockets, its memory and its disks */
    int entry_fd;     /* the instance's, which is closed to the VMM: with logs, and with "base"; the
                         one above that, or the same (of an instance of version 0.1) */
    int cancel_fd;    /* readable: give up with ECANCELED; -1: never */
    const char *id;   /* the instance's, which a VMM that wants one is told; NULL: none */
    int answer_ms;    /* the VMM has this long for each answer; 0: as long as the backend gives */
    const struct vmm *before; /* of a load: the VMM, paused, in which the VM has run so far, and
                                 from which the taps are taken, for it has them still; or NULL */
};

/* What is to be saved, and where to. */
struct vmm_save {
    const char *directory; /* by its path from the context's; "." if the VM is to end after it: then
                              the memory that a booted one shares with its file is not copied */
    bool loaded;   /* from an image, whose memory is the file "base" of the context's entry */
    bool prepared; /* by vmm_prepare(): "memory" of the directory is a copy of "base" */
    bool shared;   /* the memory that a booted one shares with its file is not copied, though the VM
                      does not end after it: it must never run in that VMM again once somebody uses
                      what was saved. EAGAIN of a VM that is in its firmware */
    struct page_set *written; /* NULL: not wanted. Of a loaded one: the pages in which the memory
                                 that was saved may differ from "base", complete after a success */
};

/* How a VMM ended. */
struct vmm_exit {
    bool ended;
    int code;   /* exit status; -1: not known, or a signal ended it */
    int signal; /* that ended it, or 0 */
};

/* A VMM's process. */
struct vmm {
    const struct hypervisor *hypervisor;
    pid_t pid;
    int pidfd;
    int memory_fd;               /* /proc/PID/mem; -1 until a load, and after the release */
    struct guest_memory *memory; /* of a VM that was loaded, likewise; set by the backend's load */
    void *state; /* the backend's own: its control connection; NULL after the release */
    struct vmm_exit exit;
    struct file_id disks[MACHINE_DISKS_MAX]; /* the file that it has open for each disk of its
                                                machine, of a chain the user's (opened.h) */
    struct vmm_users *users;                 /* one of whom it is; NULL: the daemon's user */
    uid_t uid;                               /* that one */
    int landlock;                            /* the version that shuts it in; 0: none */
    cJSON *confinement;                      /* what vmm_describe_confinement() has found */
    unsigned taps[MACHINE_INTERFACES_MAX];   /* indices of the host's interfaces that it has open,
                                                in the order of its machine's; 0: not known */
};

struct hypervisor {
    const char *name;                     /* "qemu" */
    const char *title;                    /* "QEMU": in texts */
    const char *const *sockets;           /* that it makes in the directory; ends with NULL */
    bool shares_memory;                   /* with the file "memory", once booted */
    bool copies_disks;                    /* at a save; else they become chains (disks.h) */
    bool takes_taps;                      /* open already: it needs no network of the host for them,
                                             and a load has those of the VMM before (struct
                                             vmm_context) */
    bool may_halt;                        /* a VM, by itself, when a disk has no room for a write
                                             of its guest; each resume makes it try again */
    bool kill_only;                       /* asked to end, it would let a paused VM go on first, or
                                             do nothing, as the first process of its namespace */
    enum machine_network default_network; /* of a config that names none */

    /* NULL: it can boot whatever a config may ask for. EINVAL, EOPNOTSUPP: not this machine. */
    int (*check)(const struct machine *machine, struct error *err);

    /* Boots `machine`; with `shares_memory` the guest's memory is the new file
     * "memory" of the directory. Fills machine's recorded members. Running. */
    int (*boot)(const struct vmm_context *context, struct machine *machine, struct vmm **ret,
                struct error *err);

    /* Starts a VMM from the files "memory" and "state" of `image`, a directory by its path from
     * context's: the memory is mapped privately, nothing in there is written to. What is recorded
     * of the machine is checked before anything is spawned. Paused, and its memory is reached. */
    int (*load)(const struct vmm_context *context, const struct machine *machine, const char *image,
                struct vmm **ret, struct error *err);

    int (*resume)(const struct vmm_context *context, struct vmm *vmm, struct error *err);
    int (*pause)(const struct vmm_context *context, struct vmm *vmm, struct error *err);

    /* NULL: it would be of no use. Of a VM that was loaded, and may run meanwhile: makes the file
     * "memory" of save->directory, a copy of the image that it was loaded from, to which a save
     * only adds what the VM has written. */
    int (*prepare)(const struct vmm_context *context, struct vmm *vmm, const struct vmm_save *save,
                   struct error *err);

    /*
     * Paused. Sets `in_firmware` of `machine`. Afterwards the device state is in the new file
     * "state" of save->directory, and guest memory in the new file "memory" there, with holes where
     * it is zeros (but for a booted VM whose memory is no file's: of that, all may be written);
     * with save->shared that is a link of the VM's own. Older files are replaced, not written into,
     * for a snapshot may have links of them. The VM stays paused. After a failure there is no
     * "state", not even an older one.
     *
     * The disks of `machine` become those of the image: frozen, never to be written to again. A VM
     * that goes on has them too, with new files on top, from some moment on, whether the save
     * succeeds or not; the machine tells it. A VM that is to end has them once it has ended.
     */
    int (*save)(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
                const struct vmm_save *save, struct error *err);

    /* NULL: never needed. Corrects the disks of a machine whose record may be older than what a
     * save began: by its VM, or, if that has ended (`vmm` is NULL), by its files. */
    int (*find_disks)(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
                      struct error *err);

    /* Closes the control connection; later calls connect again. */
    void (*release)(struct vmm *vmm);
};

extern const struct hypervisor qemu_hypervisor, firecracker_hypervisor, cloud_hypervisor_hypervisor;

/* What backends' libraries need before the first thread, and after the last. Calls are counted. */
int hypervisors_open(struct error *err);
void hypervisors_close(void); /* also after a failure to open */

/* What users write for them: in a config, and as options of `hypefs mount`. NULL at the end. */
enum { HYPERVISORS = 3 };
extern const char *const hypervisor_names[HYPERVISORS + 1];

/* NULL if there is no such backend. */
const struct hypervisor *hypervisor_find(const char *name);

/* The program that runs a hypervisor's VMs, where it is not the backend's own choice. */
struct vmm_binary {
    const char *hypervisor;
    const char *path; /* NULL: the backend's own from PATH */
    bool open;        /* its VMMs are not shut in */
};

int vmm_check(const struct machine *machine, struct error *err);
/* EINVAL, before a VMM is started, if kernel, initrd or a disk is there and no regular file. */
int vmm_boot(const struct vmm_context *context, struct machine *machine, struct vmm **ret,
             struct error *err);
/* `image` is a snapshot's directory, by its path from the context's. EIO, before anything is
 * spawned, unless "memory" and "state" in there are regular files and the memory has exactly
 * memory_bytes; EIO and EOPNOTSUPP when what is recorded of the machine does not fit. */
int vmm_load(const struct vmm_context *context, const struct machine *machine, const char *image,
             struct vmm **ret, struct error *err);
/* For struct memory_io, whose context is the struct vmm: guest memory of a loaded, paused VMM, by
 * image offset. EIO unless exactly one private and writable mapping of the image lies over the
 * whole range. */
int vmm_read_memory(void *vmm, uint64_t offset, void *bytes, size_t size, struct error *err);
int vmm_write_memory(void *vmm, uint64_t offset, const void *bytes, size_t size, struct error *err);
/* The same of a VM that runs: visits the pages of its memory that differ from the image, as
 * guest_memory_visit_written() does. */
int vmm_visit_written(const struct vmm *vmm, int cancel_fd, guest_memory_visit *visit,
                      void *context, struct error *err);
int vmm_resume(const struct vmm_context *context, struct vmm *vmm, struct error *err);
int vmm_pause(const struct vmm_context *context, struct vmm *vmm, struct error *err);
/* What of a save need not wait until the VM stands still, if there is such; save->prepared then. */
int vmm_prepare(const struct vmm_context *context, struct vmm *vmm, struct vmm_save *save,
                struct error *err);
int vmm_save(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
             const struct vmm_save *save, struct error *err);
int vmm_find_disks(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
                   struct error *err);

/* vmm_process.c: */
/* A VMM that was just started, or is found again after a restart. Takes the pidfd on success. */
int vmm_create(const struct hypervisor *hypervisor, pid_t pid, int pidfd, struct vmm **ret,
               struct error *err);

/* Of one that is found again: whom of those users it is. */
void vmm_find_user(struct vmm *vmm, struct vmm_users *users);

/* Closes control connection and memory, which a running VM needs no more. */
void vmm_release(struct vmm *vmm);

/* Ends the process, if it runs: SIGTERM, unless kill_only; after 5 s SIGKILL. Waits until it is
 * gone, and reaps it if it is our child. EIO if it cannot be killed (process_kill()). */
int vmm_stop(struct vmm *vmm, struct error *err);

/* Reaps the process if it has ended; never blocks. May be called again: the answer is kept. */
void vmm_reap(struct vmm *vmm, struct vmm_exit *ret);

/* Frees memory and descriptors. The process lives on. NULL is fine. */
void vmm_close(struct vmm *vmm);

/* Removes the sockets of a VMM that has ended: another could not make them anew. */
void hypervisor_drop_sockets(const struct hypervisor *hypervisor, int directory_fd);

#endif
