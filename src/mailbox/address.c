/* SPDX-License-Identifier: MIT */
#include "mailbox/address.h"

#include <arpa/inet.h>
#include <string.h>

#include "util/hex.h"

bool address_is_interface(const char *name)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    size_t size = strlen(name);
    return size >= 1 && size <= ADDRESS_INTERFACE_MAX && strspn(name, allowed) == size &&
           strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

bool address_parse_mac(const char *text, uint8_t ret[ADDRESS_MAC_SIZE])
{
    uint8_t all = 0;
    if (strlen(text) != 3 * ADDRESS_MAC_SIZE - 1)
        return false;
    for (size_t i = 0; i < ADDRESS_MAC_SIZE; i++) {
        int high = hex_digit(text[3 * i]), low = hex_digit(text[3 * i + 1]);
        if (high < 0 || low < 0 || (i + 1 < ADDRESS_MAC_SIZE && text[3 * i + 2] != ':'))
            return false;
        ret[i] = (uint8_t)(high << 4 | low);
        all |= ret[i];
    }
    return all != 0 && (ret[0] & 1) == 0;
}

bool address_parse_host(const char *text, struct in_addr *ret)
{
    if (inet_pton(AF_INET, text, ret) != 1)
        return false;
    uint32_t top = ntohl(ret->s_addr) >> 24;
    return top != 0 && top != IN_LOOPBACKNET && top < 224;
}

bool address_is_host_in(struct in_addr address, unsigned prefix)
{
    uint32_t mask = prefix > 0 && prefix < ADDRESS_PREFIX_MAX - 1 ? UINT32_MAX >> prefix : 0;
    uint32_t host = ntohl(address.s_addr) & mask;
    return mask == 0 || (host != 0 && host != mask);
}
