/* SPDX-License-Identifier: MIT */
/*
 * taps: which instance has which of the host's interfaces. One is an instance's from before its VMM
 * starts (from when a fork is reserved) until that has ended: two VMs on one tap would hear only a
 * part each.
 */
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "hypervisor/tap.h"
#include "instance/internal.h"

static bool has_tap(const struct instance *instance, const char *tap)
{
    for (size_t i = 0; i < instance->tap_count; i++)
        if (strcmp(instance->taps[i], tap) == 0)
            return true;
    return false;
}

int instance_acquire_taps_locked(struct instance *instance, const struct machine *machine,
                                 struct error *err)
{
    for (size_t i = 0; i < machine->interface_count; i++)
        for (struct instance *other = instance->table->by_id; other; other = other->hh.next)
            if (other != instance && has_tap(other, machine->interfaces[i].tap))
                return error_set(err, EBUSY,
                                 "the tap %s is in use by the instance %s: give another (for a "
                                 "fork, in options), or stop that instance",
                                 machine->interfaces[i].tap, other->id);
    instance_adopt_taps(instance, machine);
    return 0;
}

void instance_adopt_taps(struct instance *instance, const struct machine *machine)
{
    instance->tap_count = machine->interface_count;
    for (size_t i = 0; i < machine->interface_count; i++)
        snprintf(instance->taps[i], sizeof instance->taps[i], "%s", machine->interfaces[i].tap);
}

int instance_acquire_taps(struct instance *instance, const struct machine *machine,
                          struct error *err)
{
    auto_lock(&instance->table->lock);
    return instance_acquire_taps_locked(instance, machine, err);
}

/* The VMMs of some open a tap by its name, for which it is their user's. */
static void take_back(const struct instance *instance)
{
    const struct vmm_confine *confine = instance->table->setup.confine;
    const struct hypervisor *hypervisor = instance->machine.hypervisor; /* NULL: it never ran */
    if (!confine || !confine->users || !hypervisor || hypervisor->takes_taps)
        return;
    for (size_t i = 0; i < instance->tap_count; i++)
        tap_take_back(instance->taps[i]);
}

void instance_release_taps(struct instance *instance)
{
    take_back(instance);
    auto_lock(&instance->table->lock);
    instance->tap_count = 0;
}

void instance_warn_of_taps(const struct instance *instance)
{
    for (size_t i = 0; i < instance->machine.interface_count; i++) {
        char name[IF_NAMESIZE]; /* it may have got another */
        if (instance->vmm->taps[i] == 0 || if_indextoname(instance->vmm->taps[i], name))
            continue;
        instances_warn(instance->table,
                       "the tap %s of %s was removed after its VM had opened it: the VM has no "
                       "network now, even if there is a tap of that name again; write standby and "
                       "then running to its state to open that",
                       instance->machine.interfaces[i].tap, instance->id);
    }
}
