/* SPDX-License-Identifier: MIT */
/* tap: a tap of the host's, opened for a VMM that then needs neither the device nor the network in
 * which it is (Documentation/networking/tuntap.rst in Linux). No state; any thread. */
#ifndef HYPEFS_HYPERVISOR_TAP_H
#define HYPEFS_HYPERVISOR_TAP_H

#include "util/error.h"

/* There is such an interface. Frames come with a header of 10 bytes, struct virtio_net_hdr. EIO: it
 * is no tap, another process has it open, or it belongs to another user. */
int tap_open(const char *name, int *ret, struct error *err);

/* A tap that was given to a VMM's user, and that nobody has open any more, becomes ours again. Only
 * root can; whoever cannot does nothing. */
void tap_take_back(const char *name);

#endif
