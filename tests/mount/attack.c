/* SPDX-License-Identifier: MIT */
/*
 * What a VMM that was taken over would try, one attempt after the other: the test of confinement
 * runs it in the place of a VMM (hypefs-vmm). Linked statically, so that it needs nothing of the
 * host.
 *
 *   attack DAEMON_PID PORT NAME SECRET SIBLING IMAGE
 *
 * PORT is one of 127.0.0.1 at which somebody listens, NAME an abstract socket; SECRET a file of the
 * same user, SIBLING another directory like the working directory, IMAGE a file that is only to be
 * read. It prints a line for each attempt that succeeds, and last how many there were. What would
 * do harm if it succeeded asks for what is so already.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/if_packet.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <asm/sockios.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/quota.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pid_t daemon_pid;
static int port;
static const char *abstract_name, *secret, *sibling, *image;

static char *in(const char *directory, const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

/* ---- files: a descriptor, or 0, is a success ---- */

struct file_attempt {
    const char *path;
    int flags;
};

static const struct file_attempt files[] = {
    {"/etc/passwd", O_RDONLY},
    {"/etc/shadow", O_RDONLY},
    {"/etc/shadow", O_WRONLY},
    {"/etc/hosts", O_RDONLY},
    {"/etc/ld.so.preload", O_WRONLY | O_CREAT},
    {"/etc/ld.so.cache", O_WRONLY},
    {"/root", O_RDONLY},
    {"/home", O_RDONLY},
    {"/var", O_RDONLY},
    {"/run", O_RDONLY},
    {"/boot", O_RDONLY},
    {"/x", O_WRONLY | O_CREAT},
    {"/tmp/x", O_WRONLY | O_CREAT},
    {"/dev/x", O_WRONLY | O_CREAT},
    {"/dev/shm/x", O_WRONLY | O_CREAT},
    {"/usr/bin/x", O_WRONLY | O_CREAT},
    {"/usr/bin/true", O_WRONLY},
    {"/dev/mem", O_RDONLY},
    {"/dev/kmsg", O_RDONLY},
    {"/dev/port", O_RDONLY},
    {"/dev/fuse", O_RDWR},
    {"/dev/tty", O_RDWR},
    {"/dev/ptmx", O_RDWR},
    {"/dev/net/tun", O_RDWR},
    {"/dev/vhost-vsock", O_RDWR},
    {"/dev/loop-control", O_RDWR},
    {"/proc/sys/kernel/core_pattern", O_WRONLY},
    {"/proc/sys/kernel/modprobe", O_WRONLY},
    {"/proc/sys/kernel/hostname", O_WRONLY},
    {"/proc/sys/vm/overcommit_memory", O_WRONLY},
    {"/proc/sysrq-trigger", O_WRONLY},
    {"/proc/kcore", O_RDONLY},
    {"/proc/kmsg", O_RDONLY},
    {"/proc/self/oom_score_adj", O_WRONLY},
    {"/proc/self/uid_map", O_WRONLY},
    {"/sys/kernel/debug", O_RDONLY},
    {"/sys/fs/cgroup", O_RDONLY},
    {"/sys/class/net", O_RDONLY},
    {"/sys/kernel/mm/transparent_hugepage/enabled", O_WRONLY},
    {"../instance.json", O_RDONLY},
    {"../instance.json", O_WRONLY | O_CREAT},
    {"../../..", O_RDONLY | O_TMPFILE},
    {"/proc/1/root/../x", O_WRONLY | O_CREAT},
};

/* ---- calls ---- */

#define ATTEMPT(name, expression)                                                                  \
    static long name(void)                                                                         \
    {                                                                                              \
        return (long)(expression);                                                                 \
    }

#define ATTEMPTS(X)                                                                                \
    X(read_secret, open(secret, O_RDONLY))                                                         \
    X(write_secret, open(secret, O_WRONLY))                                                        \
    X(read_siblings_memory, open(in(sibling, "memory"), O_RDONLY))                                 \
    X(make_in_sibling, open(in(sibling, "x"), O_WRONLY | O_CREAT, 0600))                           \
    X(connect_to_sibling, connect_to(in(sibling, "vmm.sock")))                                     \
    X(write_image, open(image, O_WRONLY))                                                          \
    X(truncate_image, truncate(image, 0))                                                          \
    X(chmod_image, chmod(image, 0600))                                                             \
    X(unlink_image, unlink(image))                                                                 \
    X(link_image, link(image, "linked"))                                                           \
    X(touch_image, utimensat(AT_FDCWD, image, NULL, 0))                                            \
    X(empty_image, open(image, O_RDONLY | O_TRUNC))                                                \
    X(make_setuid, open("setuid", O_WRONLY | O_CREAT, 04755))                                      \
    X(become_setuid, fchmod(open("x", O_WRONLY | O_CREAT, 0600), 04755))                           \
    X(become_setgid, chmod(".", 02755))                                                            \
    X(become_setuid_at, fchmodat(AT_FDCWD, "x", 06755, 0))                                         \
    X(open_by_struct,                                                                              \
      syscall(SYS_openat2, AT_FDCWD, ".", NULL, 0) < 0 && errno == ENOSYS ? -1 : 0)                \
    X(own_signals, ioctl(socket(AF_UNIX, SOCK_STREAM, 0), FIOSETOWN, &daemon_pid))                 \
    X(own_signals_too, ioctl(socket(AF_UNIX, SOCK_STREAM, 0), SIOCSPGRP, &daemon_pid))             \
    X(change_attributes, ioctl(open(image, O_RDONLY), FS_IOC_SETFLAGS, &(int){0}))                 \
    X(send_to_sibling, send_to(in(sibling, "vmm.sock")))                                           \
    X(release_memory, syscall(448, 0, 0) < 0 && errno == EPERM ? -1 : 0)                           \
    X(clone_tree_with, syscall(467, 0, "", 0, NULL, 0) < 0 && errno == EPERM ? -1 : 0)             \
    X(multipath, connect_multipath())                                                              \
    X(chmod_null, chmod("/dev/null", 0600))                                                        \
    X(chmod_input, fchmod(0, 0600))                                                                \
    X(make_device, mknod("device", S_IFCHR | 0600, makedev(1, 1)))                                 \
    X(make_disk, mknod("disk", S_IFBLK | 0600, makedev(8, 0)))                                     \
    X(run_own_program, run_own())                                                                  \
    X(change_directory, chdir("/usr"))                                                             \
    X(change_directory_by_descriptor, fchdir(open("/usr", O_RDONLY | O_DIRECTORY)))                \
    X(change_root, chroot("."))                                                                    \
    X(signal_daemon, kill(daemon_pid, 0))                                                          \
    X(signal_parent, getppid() > 0 ? kill(getppid(), 0) : -1)                                      \
    X(limit_daemon, prlimit(daemon_pid, RLIMIT_NOFILE, NULL, &(struct rlimit){0}))                 \
    X(bind_daemon, sched_setaffinity(daemon_pid, sizeof(cpu_set_t), &(cpu_set_t){{1}}))            \
    X(renice_daemon, setpriority(PRIO_PROCESS, (id_t)daemon_pid, 19))                              \
    X(descriptor_of_daemon, syscall(SYS_pidfd_open, daemon_pid, 0))                                \
    X(take_descriptor, syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, getpid(), 0), 0, 0))       \
    X(trace_daemon, ptrace(PTRACE_ATTACH, daemon_pid, NULL, NULL))                                 \
    X(be_traced, ptrace(PTRACE_TRACEME, 0, NULL, NULL))                                            \
    X(read_daemons_memory, read_memory(daemon_pid))                                                \
    X(read_own_memory_so, read_memory(getpid()))                                                   \
    X(compare_processes, syscall(SYS_kcmp, getpid(), daemon_pid, 0, 0, 0))                         \
    X(raise_priority, setpriority(PRIO_PROCESS, 0, -20))                                           \
    X(real_time, sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){1}))                      \
    X(more_descriptors, setrlimit(RLIMIT_CORE, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY}))    \
    X(hide_from_daemon, prctl(PR_SET_DUMPABLE, 0))                                                 \
    X(new_user_namespace, unshare(CLONE_NEWUSER))                                                  \
    X(new_mount_namespace, unshare(CLONE_NEWNS))                                                   \
    X(new_network, unshare(CLONE_NEWNET))                                                          \
    X(new_pid_namespace, unshare(CLONE_NEWPID))                                                    \
    X(clone_namespace, syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL))        \
    X(clone3, syscall(SYS_clone3, NULL, 0) < 0 && errno == ENOSYS ? -1 : 0)                        \
    X(enter_namespace, setns(open("/proc/self/ns/net", O_RDONLY), 0))                              \
    X(mount_tmpfs, mount("none", "/usr", "tmpfs", 0, NULL))                                        \
    X(remount, mount(NULL, "/usr", NULL, MS_REMOUNT | MS_BIND, NULL))                              \
    X(unmount, umount2("/usr", MNT_DETACH))                                                        \
    X(pivot, syscall(SYS_pivot_root, ".", "."))                                                    \
    X(clone_tree, open_tree(AT_FDCWD, "/usr", OPEN_TREE_CLONE))                                    \
    X(open_file_system, syscall(SYS_fsopen, "tmpfs", 0))                                           \
    X(change_mount, mount_setattr(AT_FDCWD, "/", 0, &(struct mount_attr){.attr_clr = 1},           \
                                  sizeof(struct mount_attr)))                                      \
    X(other_user, setresuid(12345, 12345, 12345))                                                  \
    X(other_group, setresgid(12345, 12345, 12345))                                                 \
    X(more_groups, setgroups(1, &(gid_t){0}))                                                      \
    X(more_capabilities, take_capabilities())                                                      \
    X(host_name, sethostname("x", 1))                                                              \
    X(domain_name, setdomainname("x", 1))                                                          \
    X(set_time, settimeofday(&(struct timeval){time(NULL), 0}, NULL))                              \
    X(set_clock, clock_settime(CLOCK_REALTIME, &(struct timespec){time(NULL), 0}))                 \
    X(adjust_time, adjtimex(&(struct timex){.modes = ADJ_TICK, .tick = 10000}))                    \
    X(restart, reboot(RB_DISABLE_CAD))                                                             \
    X(load_kernel, syscall(SYS_kexec_load, 0, 0, NULL, 0))                                         \
    X(load_module, syscall(SYS_init_module, "", 0, ""))                                            \
    X(unload_module, syscall(SYS_delete_module, "none", 0))                                        \
    X(swap_on, swapon("memory", 0))                                                                \
    X(swap_off, swapoff("memory"))                                                                 \
    X(accounting, acct(NULL))                                                                      \
    X(quota, quotactl(Q_SYNC, NULL, 0, NULL))                                                      \
    X(kernel_log, klogctl(10, NULL, 0))                                                            \
    X(add_key, syscall(SYS_add_key, "user", "x", "x", 1, KEY_SPEC_PROCESS_KEYRING))                \
    X(request_key, syscall(SYS_request_key, "user", "x", NULL, 0))                                 \
    X(keyring, syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 1))            \
    X(bpf, syscall(SYS_bpf, 0, NULL, 0) < 0 && errno == EPERM ? -1 : 0)                            \
    X(count_events,                                                                                \
      syscall(SYS_perf_event_open,                                                                 \
              &(struct perf_event_attr){.size = sizeof(struct perf_event_attr)}, 0, -1, -1, 0))    \
    X(fault_handler, syscall(SYS_userfaultfd, 1))                                                  \
    X(rings, syscall(SYS_io_uring_setup, 1, NULL) < 0 && errno == ENOSYS ? -1 : 0)                 \
    X(watch_files, syscall(SYS_fanotify_init, 0, 0))                                               \
    X(file_handle,                                                                                 \
      syscall(SYS_name_to_handle_at, AT_FDCWD, ".", NULL, NULL, 0) < 0 && errno == EPERM ? -1 : 0) \
    X(open_handle, syscall(SYS_open_by_handle_at, 0, NULL, 0) < 0 && errno == EPERM ? -1 : 0)      \
    X(ports, ioperm(0x80, 1, 1))                                                                   \
    X(all_ports, iopl(3))                                                                          \
    X(descriptor_table, syscall(SYS_modify_ldt, 0, NULL, 0))                                       \
    X(type_at_terminal, ioctl(0, TIOCSTI, "x") < 0 && errno == EPERM ? -1 : 0)                     \
    X(packets, socket(AF_PACKET, SOCK_RAW, 0))                                                     \
    X(netlink, socket(AF_NETLINK, SOCK_RAW, 0))                                                    \
    X(vsock, socket(AF_VSOCK, SOCK_STREAM, 0))                                                     \
    X(kernels_ciphers, socket(AF_ALG, SOCK_SEQPACKET, 0))                                          \
    X(bluetooth, socket(AF_BLUETOOTH, SOCK_RAW, 0))                                                \
    X(tipc_pair, socketpair(AF_TIPC, SOCK_STREAM, 0, (int[2]){0}))                                 \
    X(raw_packets, socket(AF_INET, SOCK_RAW, IPPROTO_ICMP))                                        \
    X(connect_to_host, connect_to_port())                                                          \
    X(abstract_socket, connect_to_abstract())

static long connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.100s", path);
    return connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address);
}

/* To a socket for datagrams there: that it is for streams is known of one that can be reached. */
static long send_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fds[2];
    snprintf(address.sun_path, sizeof address.sun_path, "%.100s", path);
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, fds) < 0)
        return -1;
    long r = sendto(fds[0], "x", 1, 0, (struct sockaddr *)&address, sizeof address);
    return r < 0 && errno == EPROTOTYPE ? 0 : r;
}

/* Some versions of Landlock do not know of it. */
static long connect_multipath(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((in_port_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 262);
    return connect(fd, (struct sockaddr *)&address, sizeof address);
}

static long connect_to_abstract(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t size = strlen(abstract_name);
    memcpy(address.sun_path + 1, abstract_name, size);
    return connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address,
                   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + size));
}

static long connect_to_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((in_port_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address);
}

static long read_memory(pid_t pid)
{
    static char here[8];
    char there[8];
    struct iovec to = {there, sizeof there}, from = {here, sizeof here};
    return process_vm_readv(pid, &to, 1, &from, 1, 0);
}

static long take_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct all[_LINUX_CAPABILITY_U32S_3] = {{1, 1, 1}, {0}};
    return syscall(SYS_capset, &header, all);
}

/* A file that it has written itself: its exec returns only if it fails. */
static long run_own(void)
{
    int status, fd = open("program", O_WRONLY | O_CREAT, 0700);
    if (fd < 0 || write(fd, "#!/bin/true\n", 12) != 12 || close(fd) < 0)
        return -1;
    pid_t child = fork();
    if (child == 0) {
        execl("./program", "program", (char *)NULL);
        _exit(126);
    }
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
                   WEXITSTATUS(status) != 126
               ? 0
               : -1;
}

#define DEFINE(name, expression) ATTEMPT(name##_attempt, expression)
ATTEMPTS(DEFINE)

static const struct {
    const char *name;
    long (*run)(void);
} calls[] = {
#define ENTRY(name, expression) {#name, name##_attempt},
    ATTEMPTS(ENTRY)};

int main(int argc, char **argv)
{
    const size_t file_count = sizeof files / sizeof *files, count = sizeof calls / sizeof *calls;
    /* As on the host it might succeed. */
    if (argc != 7 || prctl(PR_GET_SECCOMP) != 2) {
        fputs("attack: to be run by hypefs-vmm only, with its six arguments\n", stderr);
        return 2;
    }
    daemon_pid = atoi(argv[1]);
    port = atoi(argv[2]);
    abstract_name = argv[3];
    secret = argv[4];
    sibling = argv[5];
    image = argv[6];
    for (size_t i = 0; i < file_count; i++)
        if (open(files[i].path, files[i].flags, 0600) >= 0)
            printf("%s: opened (%#o)\n", files[i].path, (unsigned)files[i].flags);
    for (size_t i = 0; i < count; i++)
        if (calls[i].run() >= 0)
            printf("%s: succeeded\n", calls[i].name);
    printf("%zu attempts\n", file_count + count);
    return 0;
}
