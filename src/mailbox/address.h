/* SPDX-License-Identifier: MIT */
/*
 * address: the IPv4 addresses that a resume-network payload may give to an interface: one rule for
 * the host, which refuses others before a fork, and for the guest.
 *
 * Pure, libc only: the guests' program is built from this file too.
 */
#ifndef HYPEFS_MAILBOX_ADDRESS_H
#define HYPEFS_MAILBOX_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>

enum { ADDRESS_PREFIX_MAX = 32 };

/* Of one host, reached through an interface: not of this network, loopback, a group or reserved. */
bool address_is_host(struct in_addr address);

/* Is it, in a network of that prefix, not the network's own address nor the one for all in it? */
bool address_is_host_in(struct in_addr address, unsigned prefix);

#endif
