/* SPDX-License-Identifier: MIT */
/* address: the names and addresses that a resume-network payload may give to an interface: one rule
 * for the host, which refuses others before a fork, and for the guest. Pure, libc and util/hex
 * only, for the guests' program has it too. */
#ifndef HYPEFS_MAILBOX_ADDRESS_H
#define HYPEFS_MAILBOX_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

enum { ADDRESS_PREFIX_MAX = 32, ADDRESS_MAC_SIZE = 6, ADDRESS_INTERFACE_MAX = 15 };

/* [A-Za-z0-9_.-]{1,15}, but neither "." nor "..". */
bool address_is_interface(const char *name);

/* Six pairs of hex digits with colons between them; neither all zeros nor a group's address. */
bool address_parse_mac(const char *text, uint8_t ret[ADDRESS_MAC_SIZE]);

/* Of one host, reached through an interface: not of this network, loopback, a group or reserved. */
bool address_parse_host(const char *text, struct in_addr *ret);

/* Is it, in a network of that prefix, not the network's own address nor the one for all in it? */
bool address_is_host_in(struct in_addr address, unsigned prefix);

#endif
