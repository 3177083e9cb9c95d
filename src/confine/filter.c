/* SPDX-License-Identifier: MIT */
#include "confine/filter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined __x86_64__
enum { ARCHITECTURE = AUDIT_ARCH_X86_64, FOREIGN_CALLS = 0x40000000 /* those of x32 */ };
#elif defined __aarch64__
enum { ARCHITECTURE = AUDIT_ARCH_AARCH64, FOREIGN_CALLS = 0x40000000 };
#else
#error "hypefs-vmm does not know this processor's system calls"
#endif

/* Headers may be older. */
enum {
    SYS_process_mrelease_ = 448,
    SYS_fchmodat2_ = 452,
    SYS_setxattrat_ = 463,
    SYS_removexattrat_ = 466,
    SYS_open_tree_attr_ = 467,
    SYS_file_setattr_ = 469
};

#define NAMESPACES                                                                                 \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |  \
     CLONE_NEWNET)

/* Refused with EPERM. */
static const int refused[] = {
    /* namespaces and mounts */
    SYS_unshare,
    SYS_setns,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_chdir, /* by its working directory a daemon that starts knows it */
    SYS_fchdir,
    SYS_open_tree,
    SYS_open_tree_attr_,
    SYS_move_mount,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_mount_setattr,
    /* other processes */
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_pidfd_getfd,
    SYS_kcmp,
    SYS_process_madvise,
    SYS_process_mrelease_,
    /* keys, programs and counters in the kernel */
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_fanotify_init,
    SYS_open_by_handle_at,
    SYS_name_to_handle_at,
    /* the host as a whole */
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_quotactl,
    SYS_quotactl_fd,
    SYS_syslog,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_adjtimex,
    SYS_clock_adjtime,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_vhangup,
    SYS_nfsservctl,
    SYS_lookup_dcookie,
#ifdef __x86_64__
    SYS_iopl,
    SYS_ioperm,
    SYS_modify_ldt,
    SYS_mknod,
    SYS_uselib,
    SYS_ustat,
    SYS_sysfs,
    SYS__sysctl,
#endif
    SYS_mknodat,
};

/* As if the kernel did not have them: their callers know another way. io_uring does what the filter
 * would refuse; the flags of clone3 and openat2 lie in memory, where no filter sees them. */
static const int unknown[] = {SYS_clone3, SYS_openat2, SYS_io_uring_setup, SYS_io_uring_enter,
                              SYS_io_uring_register};

/* With EPERM, too, where there are no namespaces: by these it would reach others of its user, and
 * files by means that Landlock does not know in all of its versions. */
static const int refused_alone[] = {
    SYS_truncate,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchmodat2_,
    SYS_fchown,
    SYS_fchownat,
    SYS_utimensat,
    SYS_setxattr,
    SYS_lsetxattr,
    SYS_fsetxattr,
    SYS_removexattr,
    SYS_lremovexattr,
    SYS_fremovexattr,
    SYS_setxattrat_,
    SYS_removexattrat_,
    SYS_file_setattr_,
    SYS_tkill,
    SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo,
    SYS_pidfd_open,
    SYS_pidfd_send_signal,
    SYS_setpriority,
    SYS_ioprio_set,
    SYS_sched_setaffinity,
    SYS_sched_setattr,
    SYS_sched_setparam,
    SYS_sched_setscheduler,
    SYS_migrate_pages,
    SYS_move_pages,
    SYS_shmget,
    SYS_shmat,
    SYS_shmctl,
    SYS_semget,
    SYS_semop,
    SYS_semtimedop,
    SYS_semctl,
    SYS_msgget,
    SYS_msgsnd,
    SYS_msgrcv,
    SYS_msgctl,
    SYS_mq_open,
    SYS_mq_unlink,
#ifdef __x86_64__
    SYS_chmod,
    SYS_chown,
    SYS_lchown,
    SYS_utime,
    SYS_utimes,
    SYS_futimesat,
    SYS_fork,
    SYS_vfork,
#endif
};

enum { COUNT_MAX = 512 };

static struct sock_filter program[COUNT_MAX];
static unsigned short count;

static void add(unsigned short code, unsigned value, unsigned char if_true, unsigned char if_false)
{
    program[count++] = (struct sock_filter){code, if_true, if_false, value};
}

static void load(size_t offset)
{
    add(BPF_LD | BPF_W | BPF_ABS, (unsigned)offset, 0, 0);
}

static void answer(unsigned action)
{
    add(BPF_RET | BPF_K, action, 0, 0);
}

static void refuse_all(const int *calls, size_t size, int code)
{
    for (size_t i = 0; i < size; i++) {
        add(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i], 0, 1);
        answer(SECCOMP_RET_ERRNO | (unsigned)code);
    }
}

static size_t argument(int index)
{
    return offsetof(struct seccomp_data, args) + (size_t)index * sizeof(__u64);
}

/* The low half of an argument is loaded for what follows, which has `size` instructions and answers
 * one way or the other. */
static void begin_call(int call, int index, unsigned char size)
{
    add(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, (unsigned char)(size + 1));
    load(argument(index));
}

/* Alone it makes threads only: nobody would end its processes. */
static void add_clone(bool alone)
{
    begin_call(SYS_clone, 0, 4);
    add(BPF_JMP | BPF_JSET | BPF_K, NAMESPACES, 1, 0);
    add(BPF_JMP | BPF_JSET | BPF_K, alone ? CLONE_THREAD : ~0U, 1, 0);
    answer(SECCOMP_RET_ERRNO | EPERM);
    answer(SECCOMP_RET_ALLOW);
}

/* Of itself, by its pid (or 0, where that means the same), and nobody else. */
static void add_itself(int call, int index, bool zero)
{
    begin_call(call, index, 4);
    add(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)getpid(), 2, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, zero ? 0 : (unsigned)getpid(), 1, 0);
    answer(SECCOMP_RET_ERRNO | EPERM);
    answer(SECCOMP_RET_ALLOW);
}

/* Who gets a signal when a descriptor has something, and which. */
static void add_fcntl(void)
{
    begin_call(SYS_fcntl, 1, 5);
    add(BPF_JMP | BPF_JEQ | BPF_K, F_SETOWN, 2, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, F_SETOWN_EX, 1, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, F_SETSIG, 0, 1);
    answer(SECCOMP_RET_ERRNO | EPERM);
    answer(SECCOMP_RET_ALLOW);
}

static void add_alone(void)
{
    refuse_all(refused_alone, sizeof refused_alone / sizeof *refused_alone, EPERM);
    add_itself(SYS_kill, 0, false);
    add_itself(SYS_tgkill, 0, false);
    add_itself(SYS_prlimit64, 0, true);
    add_fcntl();
}

/* What it owns is also the host's: nobody is to become its owner there by running it. A file is
 * made with a mode only if it is made. Alone: before its third version, Landlock lets who may read
 * a file empty it so. */
static void add_open(int call, int flags, bool alone)
{
    enum { TMPFILE = 020000000 };
    begin_call(call, flags, 9);
    add(BPF_JMP | BPF_JSET | BPF_K, alone ? O_TRUNC : 0, 0, 2);
    add(BPF_ALU | BPF_AND | BPF_K, O_ACCMODE, 0, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, O_RDONLY, 5, 0);
    load(argument(flags));
    add(BPF_JMP | BPF_JSET | BPF_K, O_CREAT | TMPFILE, 0, 2);
    load(argument(flags + 1));
    add(BPF_JMP | BPF_JSET | BPF_K, S_ISUID | S_ISGID, 1, 0);
    answer(SECCOMP_RET_ALLOW);
    answer(SECCOMP_RET_ERRNO | EPERM);
}

static const struct {
    int call, mode;
} modes[] = {{SYS_fchmod, 1}, {SYS_fchmodat, 2}, {SYS_fchmodat2_, 2}, {SYS_mkdirat, 2},
#ifdef __x86_64__
             {SYS_chmod, 1},  {SYS_creat, 1},    {SYS_mkdir, 1}
#endif
};

static void add_modes(bool alone)
{
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        begin_call(modes[i].call, modes[i].mode, 3);
        add(BPF_JMP | BPF_JSET | BPF_K, S_ISUID | S_ISGID, 0, 1);
        answer(SECCOMP_RET_ERRNO | EPERM);
        answer(SECCOMP_RET_ALLOW);
    }
    add_open(SYS_openat, 2, alone);
#ifdef __x86_64__
    add_open(SYS_open, 1, alone);
#endif
}

/* Of that family, or on a network. Others have parts of the kernel behind them that guests need not
 * reach. */
static void add_socket(int call, int family)
{
    begin_call(call, 0, 5);
    add(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)family, 3, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, AF_INET, 2, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, AF_INET6, 1, 0);
    answer(SECCOMP_RET_ERRNO | EAFNOSUPPORT);
    answer(SECCOMP_RET_ALLOW);
}

/* One that is of this host, and has to be connected before anything can be sent. */
static void add_stream_socket(int call)
{
    enum { TYPES = 0xf };
    begin_call(call, 0, 6);
    add(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 0, 4);
    load(argument(1));
    add(BPF_ALU | BPF_AND | BPF_K, TYPES, 0, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, SOCK_DGRAM, 1, 0);
    answer(SECCOMP_RET_ALLOW);
    answer(SECCOMP_RET_ERRNO | EAFNOSUPPORT);
}

/* Landlock knows neither sockets by their path nor UDP. Alone a VMM can listen at sockets of its
 * own, and connect to nothing; or, if it is the user's network, connect to others on a network, and
 * to no socket of this host by its path. */
static void add_sockets(enum filter_walls walls)
{
    static const int connect[] = {SYS_connect};
    if (walls == FILTER_NAMESPACES) {
        add_socket(SYS_socket, AF_UNIX);
        add_socket(SYS_socketpair, AF_UNIX);
        return;
    }
    add_stream_socket(SYS_socketpair);
    if (walls == FILTER_ALONE_ON_NETWORK) {
        add_socket(SYS_socket, AF_INET);
        return;
    }
    add_stream_socket(SYS_socket);
    refuse_all(connect, 1, EPERM);
}

/* Keys typed at somebody's terminal; signals to others, as by fcntl; and what a file is, of one
 * that may only be read. */
static const unsigned refused_controls[] = {
    TIOCSTI,    0x541c, /* TIOCLINUX */
    0x8901,             /* FIOSETOWN */
    0x8902,             /* SIOCSPGRP */
    0x40086602,         /* FS_IOC_SETFLAGS */
    0x401c5820,         /* FS_IOC_FSSETXATTR */
    0x40806685,         /* FS_IOC_ENABLE_VERITY */
};

static void add_ioctl(void)
{
    enum { COUNT = sizeof refused_controls / sizeof *refused_controls };
    begin_call(SYS_ioctl, 1, COUNT + 2);
    for (int i = 0; i < COUNT; i++)
        add(BPF_JMP | BPF_JEQ | BPF_K, refused_controls[i], (unsigned char)(COUNT - i), 0);
    answer(SECCOMP_RET_ALLOW);
    answer(SECCOMP_RET_ERRNO | EPERM);
}

/* The daemon would not be let at what it must reach. */
static void add_prctl(void)
{
    begin_call(SYS_prctl, 0, 3);
    add(BPF_JMP | BPF_JEQ | BPF_K, PR_SET_DUMPABLE, 0, 1);
    answer(SECCOMP_RET_ERRNO | EPERM);
    answer(SECCOMP_RET_ALLOW);
}

int filter_install(enum filter_walls walls)
{
    const bool alone = walls != FILTER_NAMESPACES;
    load(offsetof(struct seccomp_data, arch));
    add(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
    answer(SECCOMP_RET_KILL_PROCESS);
    load(offsetof(struct seccomp_data, nr));
    add(BPF_JMP | BPF_JGE | BPF_K, FOREIGN_CALLS, 0, 1);
    answer(SECCOMP_RET_ERRNO | ENOSYS);
    add_ioctl(); /* first: KVM's are many */
    refuse_all(refused, sizeof refused / sizeof *refused, EPERM);
    refuse_all(unknown, sizeof unknown / sizeof *unknown, ENOSYS);
    if (alone)
        add_alone();
    add_clone(alone);
    add_modes(alone);
    add_sockets(walls);
    add_prctl();
    answer(SECCOMP_RET_ALLOW);
    const struct sock_fprog whole = {count, program};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &whole);
}
