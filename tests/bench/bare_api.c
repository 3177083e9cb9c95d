/* SPDX-License-Identifier: MIT */
/*
 * bare_api: what a fork, or a snapshot of a VM that runs, takes without hypefs. Prints
 * milliseconds.
 *
 *     bare_api firecracker IMAGE            IMAGE/state and IMAGE/memory
 *     bare_api cloud-hypervisor FOLDER      FOLDER/config.json and FOLDER/state.json
 *
 * starts that program (of PATH), has it load the saved VM and let it run, and kills it: from the
 * first line to the last answer. Its socket, bare.sock, is made in the folder that this is started
 * in.
 *
 *     bare_api firecracker IMAGE SOCKET TYPE
 *     bare_api cloud-hypervisor FOLDER SOCKET [MEMORY COPY]
 *
 * has the VMM that listens there save its VM, from the pause to the resume. IMAGE and FOLDER are
 * there, by their paths from the VMM's folder. TYPE is Full or Diff. The memory that a Cloud
 * Hypervisor shares with the file MEMORY is not in what it writes, and is copied.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/bare_common.h"

enum { TEXT_SIZE = 2048, START_MS = 60000, ANSWER_MS = 60000, OK = 200, REDIRECTS = 300 };

static const char own_socket[] = "bare.sock";
static const char *socket_name = own_socket;
static pid_t vmm; /* that was started */

static void end_vmm(void)
{
    if (vmm > 0)
        kill(vmm, SIGKILL);
    if (vmm > 0)
        waitpid(vmm, NULL, 0);
    unlink(own_socket);
}

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "bare_api: %s: %s\n", what, why);
    end_vmm();
    exit(EXIT_FAILURE);
}

static int try_connect(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_name);
    if (fd < 0)
        die("socket", strerror(errno));
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    close(fd);
    return -1;
}

/* A VMM that has just started makes its socket some time. */
static int connect_api(void)
{
    const struct timespec pause = {.tv_nsec = 500000};
    double deadline_ms = bare_now_ms() + START_MS;
    for (;;) {
        int fd = try_connect();
        if (fd >= 0)
            return fd;
        if (bare_now_ms() > deadline_ms || vmm == 0 || waitpid(vmm, NULL, WNOHANG) != 0)
            die("the VMM", "does not listen");
        nanosleep(&pause, NULL);
    }
}

/* Each call has a connection of its own, as hypefs's have. */
static void call(const char *method, const char *path, const char *body)
{
    char text[TEXT_SIZE];
    int status = 0, fd = connect_api();
    int size = snprintf(text, sizeof text,
                        "%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
                        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                        method, path, strlen(body), body);
    if (size >= (int)sizeof text || send(fd, text, (size_t)size, MSG_NOSIGNAL) != size)
        die(path, "cannot be sent");
    struct pollfd answer = {.fd = fd, .events = POLLIN};
    if (poll(&answer, 1, ANSWER_MS) <= 0)
        die(path, "no answer");
    ssize_t got = recv(fd, text, sizeof text - 1, 0);
    text[got > 0 ? got : 0] = '\0';
    if (sscanf(text, "HTTP/1.1 %d", &status) != 1 || status < OK || status >= REDIRECTS)
        die(path, text);
    close(fd);
}

static void load_firecracker(const char *image)
{
    char body[TEXT_SIZE];
    snprintf(body, sizeof body,
             "{\"snapshot_path\":\"%s/state\",\"resume_vm\":false,\"mem_backend\":"
             "{\"backend_type\":\"File\",\"backend_path\":\"%s/memory\"}}",
             image, image);
    call("PUT", "/snapshot/load", body);
    call("PATCH", "/vm", "{\"state\":\"Resumed\"}");
}

static void load_cloud_hypervisor(const char *folder)
{
    char body[TEXT_SIZE];
    snprintf(body, sizeof body, "{\"source_url\":\"file://%s\",\"resume\":false}", folder);
    call("PUT", "/api/v1/vm.restore", body);
    call("PUT", "/api/v1/vm.resume", "");
}

static void save_firecracker(const char *image, char *const *rest)
{
    char body[TEXT_SIZE];
    snprintf(body, sizeof body,
             "{\"snapshot_type\":\"%s\",\"snapshot_path\":\"%s/state\","
             "\"mem_file_path\":\"%s/memory\"}",
             rest[0] ? rest[0] : "", image, image);
    call("PATCH", "/vm", "{\"state\":\"Paused\"}");
    call("PUT", "/snapshot/create", body);
    call("PATCH", "/vm", "{\"state\":\"Resumed\"}");
}

static void save_cloud_hypervisor(const char *folder, char *const *rest)
{
    char body[TEXT_SIZE];
    snprintf(body, sizeof body, "{\"destination_url\":\"file://%s\"}", folder);
    call("PUT", "/api/v1/vm.pause", "");
    call("PUT", "/api/v1/vm.snapshot", body);
    if (rest[0] && rest[1] && !bare_copy_file(rest[0], rest[1]))
        die(rest[0], "cannot be copied");
    call("PUT", "/api/v1/vm.resume", "");
}

static const struct kind {
    const char *program, *option;
    void (*load)(const char *path);
    void (*save)(const char *path, char *const *rest);
} kinds[] = {{"firecracker", "--api-sock", load_firecracker, save_firecracker},
             {"cloud-hypervisor", "--api-socket", load_cloud_hypervisor, save_cloud_hypervisor}};

static void start(const struct kind *kind)
{
    extern char **environ;
    const char *const arguments[] = {kind->program, kind->option, own_socket, NULL};
    unlink(own_socket);
    int code = posix_spawnp(&vmm, kind->program, NULL, NULL,
                            (char *const *)(unsigned long)arguments, environ);
    if (code != 0)
        die(kind->program, strerror(code));
}

int main(int argc, char **argv)
{
    double began_ms = bare_now_ms();
    for (size_t i = 0; argc >= 3 && i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(argv[1], kinds[i].program) != 0)
            continue;
        if (argc > 3) {
            socket_name = argv[3];
            kinds[i].save(argv[2], argv + 4);
        } else {
            start(&kinds[i]);
            kinds[i].load(argv[2]);
        }
        double took_ms = bare_now_ms() - began_ms;
        end_vmm();
        fprintf(stderr, "%.2f\n", took_ms);
        return EXIT_SUCCESS;
    }
    fputs("usage: bare_api firecracker IMAGE [SOCKET TYPE]\n"
          "       bare_api cloud-hypervisor FOLDER [SOCKET [MEMORY COPY]]\n",
          stderr);
    return 2;
}
