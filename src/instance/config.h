/* SPDX-License-Identifier: MIT */
/*
 * config: the text of an instance's `config` file, and the machine that it asks for.
 *
 * All members may be missing; unknown ones, wrong types and values out of range are EINVAL, what
 * this version cannot do yet is EOPNOTSUPP. Pure; any thread.
 */
#ifndef HYPEFS_INSTANCE_CONFIG_H
#define HYPEFS_INSTANCE_CONFIG_H

#include <cjson/cJSON.h>

#include "hypervisor/hypervisor.h"
#include "util/error.h"

enum {
    CONFIG_MEMORY_MIB_DEFAULT = 256,
    CONFIG_MEMORY_MIB_MAX = 16 * 1024 * 1024, /* 16 TiB */
    CONFIG_VCPUS_MAX = 255,
    CONFIG_DISKS_MAX = 16,
};

/* `ret` is to be freed with machine_finish(). */
int config_parse(const char *text, size_t size, struct machine *ret, struct error *err);

/* The machine as a whole config, all members given. Returns owned. */
cJSON *config_to_json(const struct machine *machine);

#endif
