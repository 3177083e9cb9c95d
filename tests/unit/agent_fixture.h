/* SPDX-License-Identifier: MIT */
/*
 * agent_fixture: what the tests of hypefs-guest share: the agent as a process of its own, whose
 * frames the test finds in its memory as a scan of a VM's image would, and writes into.
 */
#ifndef HYPEFS_TESTS_UNIT_AGENT_FIXTURE_H
#define HYPEFS_TESTS_UNIT_AGENT_FIXTURE_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mailbox/frame.h"
#include "test.h"

enum { DEADLINE_MS = 20000, OUTPUT_MAX = 8192, ARGUMENTS_MAX = 12 };

struct agent {
    pid_t pid; /* 0: none */
    int output_fd;
    char output[OUTPUT_MAX]; /* all that it has printed so far */
    size_t output_size;
    int namespace_fd;         /* of a network that it is started in; 0: ours */
    unsigned long capability; /* one that it is started without; 0: none */
};
int64_t now_ms(void);
/* Starts it; `arguments` ends with NULL. */
void agent_start(struct agent *a, const char *const *arguments);
/* What a test has left running. */
void agent_stop(struct agent *a);
void agent_wait_for_output(struct agent *a, const char *text);
/* Returns its exit status. */
int agent_wait_for_end(struct agent *a);
/* The frame, once it is armed: what the agent says of a payload it says before that. */
void agent_look(const struct agent *a, const char *name, uint8_t ret[FRAME_SIZE]);
/* Delivers as the host would: payload, length, sequence. */
void agent_deliver(const struct agent *a, const char *name, const char *payload);
/* A socket that acks are sent to. `address` is in network order. */
int ack_open(in_addr_t address, uint16_t *ret_port);
void ack_expect(int ack_fd, const char *expected);

#endif
