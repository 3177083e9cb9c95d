/* SPDX-License-Identifier: MIT */
/*
 * bare_qemu: the least program that does what a fork on QEMU needs, for the benchmark to compare
 * with. No store, no records, no checks: a QEMU with the arguments of one of hypefs's is spawned,
 * its state loaded, a payload written into its memory, the guest resumed and its ack waited for.
 *
 *     bare_qemu ARGUMENTS DIRECTORY STATE IMAGE [OFFSET]…
 *
 * ARGUMENTS is a file as /proc/PID/cmdline, DIRECTORY the VMM's working directory, IMAGE the memory
 * file as ARGUMENTS name it, and each OFFSET that of a fork mailbox's frame in it. Prints one line,
 * "MS-TO-RESUMED MS-TO-ACK PID" (from the start of main), and ends QEMU when stdin does.
 *
 *     bare_qemu --save SOCKET STATE [MEMORY COPY]
 *
 * has the QEMU that listens there save its VM, and prints for how many milliseconds that stood
 * still. Without MEMORY, STATE becomes a migration's stream, with all of its memory. Otherwise it
 * becomes the state of its devices, by its path from QEMU's folder, and MEMORY is copied, the file
 * that QEMU shares it with.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/bare_common.h"
#include "mailbox/frame.h"

enum { ARGUMENTS_MAX = 128, TEXT_MAX = 16384, DEADLINE_MS = 60000, POLL_MS = 1 };

static pid_t qemu;

__attribute__((noreturn)) static void die(const char *what)
{
    fprintf(stderr, "bare_qemu: %s: %s\n", what, strerror(errno));
    if (qemu > 0)
        kill(qemu, SIGKILL);
    exit(1);
}

static void read_arguments(const char *path, char *text, char *ret[ARGUMENTS_MAX])
{
    size_t count = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, TEXT_MAX - 1);
    if (size <= 0)
        die(path);
    close(fd);
    text[size] = 0;
    for (char *at = text; at < text + size && count + 1 < ARGUMENTS_MAX; at += strlen(at) + 1)
        ret[count++] = at;
    ret[count] = NULL;
}

/* The descriptor at which QEMU expects the listening socket. */
static int find_descriptor(char *const *arguments)
{
    int fd = -1;
    for (size_t i = 0; arguments[i] && fd < 0; i++)
        if (sscanf(arguments[i], "socket,id=qmp,fd=%d,", &fd) != 1)
            fd = -1;
    if (fd < 0)
        die("the arguments have no control socket");
    return fd;
}

static void spawn(char *const *arguments, int listener, int at)
{
    extern char **environ;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t all;
    sigfillset(&all);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, 2, 1);
    posix_spawn_file_actions_adddup2(&actions, listener, at);
    errno = posix_spawn(&qemu, arguments[0], &actions, &attributes, arguments, environ);
    if (errno != 0)
        die(arguments[0]);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
}

static int start(char *const *arguments)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "qmp.sock"};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int control = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(address.sun_path);
    if (listener < 0 || control < 0 ||
        bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, 1) < 0 ||
        connect(control, (struct sockaddr *)&address, sizeof address) < 0)
        die("the control socket");
    spawn(arguments, listener, find_descriptor(arguments));
    close(listener);
    return control;
}

/* The next line that has `word` in it; others are events. */
static bool await(int control, const char *word, char line[TEXT_MAX])
{
    for (;;) {
        size_t used = 0;
        do
            if (used + 1 == TEXT_MAX || read(control, line + used, 1) != 1)
                die("QEMU's answer");
        while (line[used++] != '\n');
        line[used] = 0;
        if (strstr(line, "\"error\""))
            die(line);
        if (strstr(line, word))
            return true;
    }
}

static void command(int control, const char *text, int send_fd, char line[TEXT_MAX])
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } passed = {0};
    struct iovec part = {.iov_base = (char *)(uintptr_t)text, .iov_len = strlen(text)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (send_fd >= 0) {
        message.msg_control = &passed;
        message.msg_controllen = sizeof passed;
        passed.header = (struct cmsghdr){
            .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
        memcpy(CMSG_DATA(&passed.header), &send_fd, sizeof send_fd);
    }
    if (sendmsg(control, &message, MSG_NOSIGNAL) < 0)
        die(text);
    await(control, "\"return\"", line);
}

static void greet(int control, char line[TEXT_MAX])
{
    await(control, "\"QMP\"", line);
    command(control, "{\"execute\":\"qmp_capabilities\"}\n", -1, line);
}

/* To or from a file, which is closed. */
static void migrate(int control, const char *text, int state, char line[TEXT_MAX])
{
    command(control, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"s\"}}\n", state, line);
    close(state);
    command(control, text, -1, line);
    for (;;) {
        command(control, "{\"execute\":\"query-migrate\"}\n", -1, line);
        if (strstr(line, "\"completed\""))
            return;
        poll(NULL, 0, POLL_MS);
    }
}

static void load(int control, const char *state_path)
{
    char line[TEXT_MAX];
    int state = open(state_path, O_RDONLY | O_CLOEXEC);
    if (state < 0)
        die(state_path);
    greet(control, line);
    command(control,
            "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"announce-rounds\":0}}\n", -1,
            line);
    migrate(control, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:s\"}}\n", state,
            line);
}

/* Where QEMU has that byte of its private mapping of the image. */
static off_t find_address(const char *image, uint64_t offset)
{
    char path[64], line[TEXT_MAX], mode[8];
    uint64_t begin, end, from, inode;
    struct stat st;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)qemu);
    FILE *maps = fopen(path, "re");
    if (!maps || stat(image, &st) < 0)
        die(image);
    while (fgets(line, sizeof line, maps))
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64 " %*s %" SCNu64, &begin, &end, mode,
                   &from, &inode) == 5 &&
            inode == st.st_ino && strncmp(mode, "rw-p", 4) == 0 && offset >= from &&
            offset - from < end - begin) {
            fclose(maps);
            return (off_t)(begin + offset - from);
        }
    errno = ENOENT;
    die("no mapping of the image");
}

static void patch(const char *image, char *const *offsets, const char *payload)
{
    const struct frame_layout *layout = &frame_layouts[FRAME_FORK];
    char path[64];
    uint8_t length[4], sequence[4];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)qemu);
    int memory = open(path, O_RDWR | O_CLOEXEC);
    frame_store_u32(length, (uint32_t)strlen(payload));
    frame_store_u32(sequence, 1);
    for (; *offsets; offsets++) {
        off_t at = find_address(image, strtoull(*offsets, NULL, 10));
        if (pwrite(memory, payload, strlen(payload), at + (off_t)layout->payload) < 0 ||
            pwrite(memory, length, sizeof length, at + (off_t)layout->length) < 0 ||
            pwrite(memory, sequence, sizeof sequence, at + (off_t)layout->sequence) < 0)
            die("QEMU's memory");
    }
    close(memory);
}

static int open_ack_socket(int *ret_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0)
        die("the socket for acks");
    *ret_port = ntohs(address.sin_port);
    return fd;
}

static void await_ack(int ack)
{
    static const char applied[] = "stage=applied ";
    char text[TEXT_MAX] = "";
    struct pollfd fd = {.fd = ack, .events = POLLIN};
    if (poll(&fd, 1, DEADLINE_MS) != 1 || recv(ack, text, sizeof text - 1, 0) < 0 ||
        strncmp(text, applied, strlen(applied)) != 0)
        die(text[0] ? text : "no ack");
}

/* ---- saving ---- */

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die(path);
    return fd;
}

/* A migration would keep to a bandwidth. */
static void save_stream(int control, const char *path, char line[TEXT_MAX])
{
    int state = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (state < 0)
        die(path);
    command(control,
            "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":"
            "1099511627776}}\n",
            -1, line);
    migrate(control, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:s\"}}\n", state, line);
}

static void save_devices(int control, const char *path, char line[TEXT_MAX])
{
    char text[PATH_MAX];
    snprintf(text, sizeof text,
             "{\"execute\":\"xen-save-devices-state\",\"arguments\":{\"filename\":\"%s\","
             "\"live\":false}}\n",
             path);
    command(control, text, -1, line);
}

static int save(const char *socket_path, const char *state, const char *memory, const char *copy)
{
    static char line[TEXT_MAX];
    int control = connect_to(socket_path);
    greet(control, line);
    double begun = bare_now_ms();
    command(control, "{\"execute\":\"stop\"}\n", -1, line);
    if (!memory)
        save_stream(control, state, line);
    else
        save_devices(control, state, line);
    if (memory && !bare_copy_file(memory, copy))
        die(memory);
    command(control, "{\"execute\":\"cont\"}\n", -1, line);
    printf("%.3f\n", bare_now_ms() - begun);
    return 0;
}

int main(int argc, char **argv)
{
    static char text[TEXT_MAX], line[TEXT_MAX];
    char *arguments[ARGUMENTS_MAX], payload[64];
    int port;
    double begun = bare_now_ms();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if ((argc == 4 || argc == 6) && strcmp(argv[1], "--save") == 0)
        return save(argv[2], argv[3], argc == 6 ? argv[4] : NULL, argv[argc - 1]);
    if (argc < 5 || chdir(argv[2]) < 0)
        die("usage: bare_qemu ARGUMENTS DIRECTORY STATE IMAGE [OFFSET]…");
    read_arguments(argv[1], text, arguments);
    int ack = open_ack_socket(&port);
    snprintf(payload, sizeof payload, "{\"ack_port\":%d}", port);
    int control = start(arguments);
    load(control, argv[3]);
    patch(argv[4], argv + 5, payload);
    command(control, "{\"execute\":\"cont\"}\n", -1, line);
    double resumed = bare_now_ms();
    if (argc > 5)
        await_ack(ack);
    printf("%.3f %.3f %d\n", resumed - begun, bare_now_ms() - begun, (int)qemu);
    fflush(stdout);
    while (read(STDIN_FILENO, line, sizeof line) > 0)
        ;
    kill(qemu, SIGKILL);
    waitpid(qemu, NULL, 0);
    return 0;
}
