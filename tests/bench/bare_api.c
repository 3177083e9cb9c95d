/* SPDX-License-Identifier: MIT */
/*
 * bare_api: starts a Firecracker or a Cloud Hypervisor, has it load a saved VM and let it run, and
 * nothing else: what a fork takes without hypefs. Prints the milliseconds from its first line to
 * the last answer, and kills the VMM.
 *
 *     bare_api firecracker IMAGE            IMAGE/state and IMAGE/memory
 *     bare_api cloud-hypervisor FOLDER      FOLDER/config.json and FOLDER/state.json
 *
 * The program is that of PATH. Its socket, bare.sock, is made in the folder that this is started
 * in.
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

enum { TEXT_SIZE = 2048, START_MS = 60000, ANSWER_MS = 60000, OK = 200, REDIRECTS = 300 };

static const char socket_name[] = "bare.sock";
static pid_t vmm;

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void end_vmm(void)
{
    if (vmm > 0)
        kill(vmm, SIGKILL);
    if (vmm > 0)
        waitpid(vmm, NULL, 0);
    unlink(socket_name);
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
    double deadline_ms = now_ms() + START_MS;
    for (;;) {
        int fd = try_connect();
        if (fd >= 0)
            return fd;
        if (now_ms() > deadline_ms || waitpid(vmm, NULL, WNOHANG) != 0)
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

static const struct {
    const char *program, *option;
    void (*load)(const char *path);
} kinds[] = {{"firecracker", "--api-sock", load_firecracker},
             {"cloud-hypervisor", "--api-socket", load_cloud_hypervisor}};

int main(int argc, char **argv)
{
    double began_ms = now_ms();
    extern char **environ;
    for (size_t i = 0; argc == 3 && i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(argv[1], kinds[i].program) != 0)
            continue;
        const char *const arguments[] = {kinds[i].program, kinds[i].option, socket_name, NULL};
        unlink(socket_name);
        int code = posix_spawnp(&vmm, kinds[i].program, NULL, NULL,
                                (char *const *)(unsigned long)arguments, environ);
        if (code != 0)
            die(kinds[i].program, strerror(code));
        kinds[i].load(argv[2]);
        double took_ms = now_ms() - began_ms;
        end_vmm();
        fprintf(stderr, "%.2f\n", took_ms);
        return EXIT_SUCCESS;
    }
    fputs("usage: bare_api firecracker IMAGE | cloud-hypervisor FOLDER\n", stderr);
    return 2;
}
