/* SPDX-License-Identifier: MIT */
#include "util/fault.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

enum { TEXT_SIZE = 64 };

const char *const fault_names[FAULTS] = {
#define FAULT_NAME(constant, name) [FAULT_##constant] = name,
    FAULT_POINTS(FAULT_NAME)
#undef FAULT_NAME
};

/* What is to happen, once it is known. */
static struct {
    pthread_mutex_t lock;
    bool armed;
    char name[TEXT_SIZE];
    unsigned long left; /* passes until then */
} plan = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* With the lock held. */
static void arm(const char *text)
{
    const char *colon = strrchr(text, ':');
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
    bool counted = digits > 0 && (colon[1 + digits] == 0 || colon[1 + digits] == '\n');
    snprintf(plan.name, sizeof plan.name, "%.*s",
             (int)(counted ? (size_t)(colon - text) : strcspn(text, "\n")), text);
    plan.left = counted ? strtoul(colon + 1, NULL, 10) : 1;
    plan.armed = true;
}

static void look_for_plan(void)
{
    const char *told = getenv("HYPEFS_FAULT");
    char text[TEXT_SIZE];
    if (!told || !told[0])
        return;
    if (told[0] != '@') {
        arm(told);
        return;
    }
    auto_close int fd = open(told + 1, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    text[size > 0 ? size : 0] = 0;
    if (text[0])
        arm(text);
}

void fault_point(enum fault fault)
{
    pthread_mutex_lock(&plan.lock);
    if (!plan.armed)
        look_for_plan();
    if (plan.armed && strcmp(plan.name, "trace") == 0)
        dprintf(STDERR_FILENO, "fault point passed: %s\n", fault_names[fault]);
    bool meant =
        plan.armed && (strcmp(plan.name, "any") == 0 || strcmp(plan.name, fault_names[fault]) == 0);
    if (meant && plan.left > 0 && --plan.left == 0) {
        dprintf(STDERR_FILENO, "fault point reached: %s\n", fault_names[fault]);
        raise(SIGKILL);
        kill(getpid(), SIGKILL);
    }
    pthread_mutex_unlock(&plan.lock);
}
