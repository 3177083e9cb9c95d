/* SPDX-License-Identifier: MIT */
#include "instance/limits.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "instance/internal.h"
#include "util/meminfo.h"

static const char meminfo_path[] = "/proc/meminfo", cgroup_path[] = "/proc/self/cgroup",
                  cgroup_root[] = "/sys/fs/cgroup";

enum { FREE_PERCENT = 5, FREE_MIN_MIB = 256 };
static const uint64_t mib = 1024 * 1024;

uint64_t limits_default_free_memory(void)
{
    struct meminfo host = {0}, cgroup;
    meminfo_read(meminfo_path, &host, NULL);
    uint64_t total = host.total;
    if (meminfo_cgroup(cgroup_path, cgroup_root, 0, &cgroup) && cgroup.total < total)
        total = cgroup.total;
    uint64_t part = total / 100 * FREE_PERCENT;
    return part > FREE_MIN_MIB * mib ? part : FREE_MIN_MIB * mib;
}

bool limits_read_size(const char *text, uint64_t *ret)
{
    static const char units[] = "KMGT";
    size_t digits = strspn(text, "0123456789");
    const char *unit = text[digits] ? strchr(units, text[digits]) : NULL;
    int shift = unit ? 10 * (int)(unit - units + 1) : 0;
    if (digits == 0 || digits > 15 || (text[digits] && (!unit || text[digits + 1])))
        return false;
    uint64_t number = strtoull(text, NULL, 10);
    *ret = number << shift;
    return *ret >> shift == number;
}

static int refuse_memory(const struct instance_limits *limits, const struct meminfo *memory,
                         const char *whose, struct error *err)
{
    return error_set(err, ENOMEM,
                     "%s has %" PRIu64 " MiB of memory available, of %" PRIu64 ", and %" PRIu64
                     " are to stay free: stop VMs or put them into standby, or mount with a "
                     "smaller --min-free-memory (0 turns this off)",
                     whose, memory->available / mib, memory->total / mib,
                     limits->min_free_memory / mib);
}

int limits_check_memory(const struct instance_limits *limits, struct error *err)
{
    struct meminfo memory;
    uint64_t least = limits->min_free_memory;
    if (least == 0)
        return 0;
    if (meminfo_read(meminfo_path, &memory, NULL) == 0 && memory.available < least)
        return refuse_memory(limits, &memory, "the host", err);
    if (meminfo_cgroup(cgroup_path, cgroup_root, least, &memory) && memory.available < least)
        return refuse_memory(limits, &memory, "the daemon's cgroup", err);
    return 0;
}

/* With the lock held. */
static unsigned count_vms(const struct instances *instances)
{
    unsigned count = 0;
    for (const struct instance *i = instances->by_id; i; i = i->hh.next)
        count += i->has_vm;
    return count;
}

int instance_acquire_vm(struct instance *instance, struct error *err)
{
    struct instances *table = instance->table;
    unsigned max = table->setup.limits.max_vms;
    auto_lock(&table->lock);
    unsigned count = max > 0 && !instance->has_vm ? count_vms(table) : 0;
    if (max > 0 && count >= max)
        return error_set(err, EAGAIN,
                         "%u VMs run or start, and --max-vms allows %u: stop one or put it into "
                         "standby, or mount with a larger --max-vms",
                         count, max);
    instance->has_vm = true;
    return 0;
}

void instance_release_vm(struct instance *instance)
{
    auto_lock(&instance->table->lock);
    instance->has_vm = false;
}

unsigned instances_room(struct instances *instances)
{
    unsigned max = instances->setup.limits.max_vms;
    if (max == 0)
        return UINT_MAX;
    auto_lock(&instances->lock);
    unsigned count = count_vms(instances);
    return count < max ? max - count : 0;
}
