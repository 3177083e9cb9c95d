/* SPDX-License-Identifier: MIT */
/*
 * limits: how many VMs there may be, and how much of the host's memory they have to leave. What is
 * running already is never touched. Not: how many start at the same time (turns.h).
 *
 * Any thread; instances.lock guards which instances have a VM.
 */
#ifndef HYPEFS_INSTANCE_LIMITS_H
#define HYPEFS_INSTANCE_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

enum { LIMITS_VMS_MAX = 1000000 }; /* the most that may be asked for */

struct instance_limits {
    unsigned max_vms;         /* 0: any number */
    uint64_t min_free_memory; /* bytes; 0: it is not looked at */
};

/* 5 % of the host's memory, or of what its cgroup gives the daemon, and 256 MiB at the least. */
uint64_t limits_default_free_memory(void);
/* Digits, and perhaps K, M, G or T: of that many bytes. False: it is none. */
bool limits_read_size(const char *text, uint64_t *ret);

/* ENOMEM: less memory is available than has to stay so. What cannot be known limits nothing. */
int limits_check_memory(const struct instance_limits *limits, struct error *err);

struct instance;
struct instances;
/* From now on the instance has a VM, until it is abandoned or instance_release_vm(). EAGAIN: there
 * are max_vms. */
int instance_acquire_vm(struct instance *instance, struct error *err);
void instance_release_vm(struct instance *instance);
/* How many more there may be; UINT_MAX: any number. */
unsigned instances_room(struct instances *instances);

#endif
