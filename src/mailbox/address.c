/* SPDX-License-Identifier: MIT */
#include "mailbox/address.h"

#include <stdint.h>

bool address_is_host(struct in_addr address)
{
    uint32_t top = ntohl(address.s_addr) >> 24;
    return top != 0 && top != IN_LOOPBACKNET && top < 224;
}

bool address_is_host_in(struct in_addr address, unsigned prefix)
{
    uint32_t mask = prefix > 0 && prefix < ADDRESS_PREFIX_MAX - 1 ? UINT32_MAX >> prefix : 0;
    uint32_t host = ntohl(address.s_addr) & mask;
    return mask == 0 || (host != 0 && host != mask);
}
