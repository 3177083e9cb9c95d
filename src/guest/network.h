/* SPDX-License-Identifier: MIT */
/* network: gives an interface the addresses that a resume-network payload asks for, and tells the
 * host when that is done. Part of the agent program, not of the library. */
#ifndef HYPEFS_GUEST_NETWORK_H
#define HYPEFS_GUEST_NETWORK_H

#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/hypefs-guest.h"
#include "mailbox/address.h"

enum { NETWORK_REASON_MAX = 200 };

struct network_identity {
    char interface[IFNAMSIZ];
    uint8_t mac[ADDRESS_MAC_SIZE];
    unsigned prefix;
    struct in_addr address;
    struct in_addr gateway;
    char gateway_text[INET_ADDRSTRLEN]; /* "": there is none */
};

/* False, with a reason (NETWORK_REASON_MAX and a NUL), unless all members are valid. Pure. */
bool network_parse(const char *payload, size_t size, struct network_identity *ret,
                   char *ret_reason);

struct network_result {
    bool applied;
    char reason[NETWORK_REASON_MAX + 1];
    char
        gateway[INET_ADDRSTRLEN]; /* where the host is now; "": not known, or nothing was changed */
};

/* Takes the interface from what manages it, removes its addresses, and with them its routes, sets
 * its MAC address, adds the new address, replaces the default route, and waits for the link, but
 * not for long. The link is only set down where the kernel wants that. What can be checked is
 * checked first; if the kernel refuses a later step, the reason says what the interface is like
 * now. */
void network_apply(const char *payload, size_t size, struct network_result *ret);

/* hypefs_mailbox_ack(), and once more after each change of links and routes while the kernel says
 * that the host cannot be reached, but not for long. */
int network_ack(struct hypefs_mailbox *box, const char *address);

#endif
