/* SPDX-License-Identifier: MIT */
#include "agent_fixture.h"

int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void agent_start(struct agent *a, const char *const *arguments)
{
    const char *argv[ARGUMENTS_MAX + 2] = {"hypefs-guest"};
    int ends[2];

    for (size_t i = 0; i < ARGUMENTS_MAX && arguments[i]; i++)
        argv[i + 1] = arguments[i];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    a->pid = fork();
    assert_true(a->pid >= 0);
    if (a->pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC); /* what we were started with */
        if ((a->namespace_fd == 0 || setns(a->namespace_fd, CLONE_NEWNET) == 0) &&
            (a->capability == 0 || prctl(PR_CAPBSET_DROP, a->capability, 0, 0, 0) == 0))
            execv(getenv("HYPEFS_GUEST"), (char **)argv);
        _exit(127);
    }
    close(ends[1]);
    a->output_fd = ends[0];
    a->output_size = 0;
    a->output[0] = '\0';
}

void agent_stop(struct agent *a)
{
    if (a->pid > 0) {
        kill(a->pid, SIGKILL);
        waitpid(a->pid, NULL, 0);
        a->pid = 0;
    }
    if (a->output_fd > 0)
        close(a->output_fd);
    a->output_fd = 0;
}

/* Reads more of the output. False at its end. */
static bool agent_read(struct agent *a, int64_t deadline)
{
    struct pollfd fd = {.fd = a->output_fd, .events = POLLIN};
    int64_t left = deadline - now_ms();

    assert_true(left > 0 && poll(&fd, 1, (int)left) == 1);
    ssize_t n =
        read(a->output_fd, a->output + a->output_size, sizeof a->output - 1 - a->output_size);
    if (n > 0)
        a->output_size += (size_t)n;
    a->output[a->output_size] = '\0';
    return n > 0;
}

void agent_wait_for_output(struct agent *a, const char *text)
{
    int64_t deadline = now_ms() + DEADLINE_MS;
    while (!strstr(a->output, text))
        if (!agent_read(a, deadline))
            fail_msg("the agent ended without \"%s\": %s", text, a->output);
}

int agent_wait_for_end(struct agent *a)
{
    int64_t deadline = now_ms() + DEADLINE_MS;
    int status;

    while (agent_read(a, deadline))
        ;
    assert_int_equal(waitpid(a->pid, &status, 0), a->pid);
    a->pid = 0;
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int agent_open_memory(const struct agent *a, int flags)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)a->pid);
    int fd = open(path, flags | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* The address of the one page that is this mailbox; `name` is NULL for the network's. */
static uintptr_t agent_find_frame(const struct agent *a, const char *name)
{
    char path[64], line[512];
    uintptr_t found = 0;
    int memory = agent_open_memory(a, O_RDONLY);

    snprintf(path, sizeof path, "/proc/%d/maps", (int)a->pid);
    FILE *maps = fopen(path, "re");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps)) {
        uintptr_t start, end;
        assert_int_equal(sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end), 2);
        for (uintptr_t at = start; at < end; at += FRAME_SIZE) {
            uint8_t page[FRAME_SIZE];
            struct frame_marker marker;
            if (pread(memory, page, sizeof page, (off_t)at) != (ssize_t)sizeof page)
                break;
            if (!frame_decode_marker(name ? FRAME_FORK : FRAME_NETWORK, page, sizeof page,
                                     &marker) ||
                strcmp(marker.name, name ? name : "") != 0)
                continue;
            assert_int_equal(found, 0);
            found = at;
        }
    }
    fclose(maps);
    close(memory);
    assert_int_not_equal(found, 0);
    return found;
}

void agent_look(const struct agent *a, const char *name, uint8_t ret[FRAME_SIZE])
{
    const struct frame_layout *layout = &frame_layouts[name ? FRAME_FORK : FRAME_NETWORK];
    uintptr_t at = agent_find_frame(a, name);
    int memory = agent_open_memory(a, O_RDONLY);
    int64_t deadline = now_ms() + DEADLINE_MS;
    do {
        assert_true(now_ms() < deadline);
        assert_int_equal(pread(memory, ret, FRAME_SIZE, (off_t)at), FRAME_SIZE);
    } while (frame_load_u32(ret + layout->sequence) != 0);
    close(memory);
}

void agent_deliver(const struct agent *a, const char *name, const char *payload)
{
    const struct frame_layout *layout = &frame_layouts[name ? FRAME_FORK : FRAME_NETWORK];
    uint8_t frame[FRAME_SIZE];
    uintptr_t at = agent_find_frame(a, name);
    int memory = agent_open_memory(a, O_RDWR);
    size_t size = strlen(payload);

    agent_look(a, name, frame);
    assert_true(size <= FRAME_SIZE - layout->payload);
    frame_store_u32(frame + layout->sequence, 1);
    frame_store_u32(frame + layout->length, (uint32_t)size);
    memcpy(frame + layout->payload, payload, size);
    assert_int_equal(pwrite(memory, frame + layout->length, size + 4, (off_t)(at + layout->length)),
                     size + 4);
    assert_int_equal(pwrite(memory, frame + layout->sequence, 4, (off_t)(at + layout->sequence)),
                     4);
    close(memory);
}

int ack_open(in_addr_t address, uint16_t *ret_port)
{
    struct sockaddr_in bound = {.sin_family = AF_INET, .sin_addr.s_addr = address};
    socklen_t size = sizeof bound;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&bound, size), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&bound, &size), 0);
    *ret_port = ntohs(bound.sin_port);
    return fd;
}

void ack_expect(int ack_fd, const char *expected)
{
    char text[2048];
    struct pollfd fd = {.fd = ack_fd, .events = POLLIN};

    assert_int_equal(poll(&fd, 1, DEADLINE_MS), 1);
    ssize_t n = recv(ack_fd, text, sizeof text - 1, 0);
    assert_true(n >= 0);
    text[n] = '\0';
    assert_string_equal(text, expected);
}
