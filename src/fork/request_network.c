/* SPDX-License-Identifier: MIT */
/* request_network: the network identity that was staged, as the payload of a resume-network
 * mailbox. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "fork/internal.h"
#include "mailbox/address.h"
#include "util/cleanup.h"

struct network_members {
    char *interface_name, *mac, *ipv4, *gateway, *token, *token_hex;
    int64_t prefix;
    int ack;
};

#define MEMBER(member) JSON_MEMBER(struct network_members, member)
static const struct json_field network_fields[] = {
    {MEMBER(interface_name), .kind = JSON_STRING, .required = true},
    {MEMBER(mac), .kind = JSON_STRING, .required = true},
    {MEMBER(ipv4), .kind = JSON_STRING, .required = true},
    {MEMBER(prefix), .kind = JSON_INTEGER, .required = true, .min = 0, .max = ADDRESS_PREFIX_MAX},
    {MEMBER(gateway), .kind = JSON_STRING, .nullable = true},
    {MEMBER(ack), .kind = JSON_WORD, .words = fork_ack_words},
    {MEMBER(token), .kind = JSON_STRING},
    {MEMBER(token_hex), .kind = JSON_STRING},
};
#undef MEMBER

/* What the guest would refuse. */
static int check_addresses(const struct network_members *members, struct error *err)
{
    struct in_addr address, gateway;
    if (!address_parse_host(members->ipv4, &address))
        return error_set(err, EINVAL, "\"ipv4\" must be a host's IPv4 address, as in 10.0.0.7");
    if (!address_is_host_in(address, (unsigned)members->prefix))
        return error_set(err, EINVAL,
                         "\"ipv4\" must be a host's address: with that \"prefix\" it is the "
                         "network's own or its broadcast address");
    if (!members->gateway)
        return 0;
    if (!address_parse_host(members->gateway, &gateway))
        return error_set(err, EINVAL, "\"gateway\" must be a host's IPv4 address, as in 10.0.0.1");
    if (gateway.s_addr == address.s_addr)
        return error_set(err, EINVAL, "\"gateway\" must be another host than \"ipv4\"");
    if (address_is_host_in(gateway, (unsigned)members->prefix))
        return 0;
    return error_set(err, EINVAL,
                     "\"gateway\" must be a host's address: with that \"prefix\" it is a network's "
                     "own or its broadcast address");
}

static int check_members(const struct network_members *members, struct error *err)
{
    uint8_t mac[ADDRESS_MAC_SIZE];
    if (!address_is_interface(members->interface_name))
        return error_set(
            err, EINVAL,
            "\"interface_name\" must be 1 to %d letters, digits, \".\", \"_\" or \"-\"",
            ADDRESS_INTERFACE_MAX);
    if (!address_parse_mac(members->mac, mac))
        return error_set(err, EINVAL,
                         "\"mac\" must be the address of one device, as in 02:00:00:00:00:01");
    return check_addresses(members, err);
}

/* All of it was checked: nothing has to be escaped. */
static int compose(const struct network_members *members, struct fork_network *ret,
                   struct error *err)
{
    char text[FRAME_SIZE];
    int size = snprintf(
        text, sizeof text,
        "{\"interface_name\":\"%s\",\"mac\":\"%s\",\"ipv4\":\"%s\",\"prefix\":%" PRId64 "%s%s%s}",
        members->interface_name, members->mac, members->ipv4, members->prefix,
        members->gateway ? ",\"gateway\":\"" : "", members->gateway ? members->gateway : "",
        members->gateway ? "\"" : "");
    ret->mailbox.payload = strdup(text); /* asprintf() would leave copies behind */
    explicit_bzero(text, sizeof text);
    if (!ret->mailbox.payload)
        return error_set(err, ENOMEM, "out of memory");
    ret->mailbox.payload_size = (size_t)size;
    snprintf(ret->mac, sizeof ret->mac, "%s", members->mac);
    snprintf(ret->ipv4, sizeof ret->ipv4, "%s", members->ipv4);
    ret->staged = true;
    return 0;
}

static int interpret(const struct network_members *members, const struct fork_rules *rules,
                     struct fork_network *ret, struct error *err)
{
    struct fork_network network = {.mailbox.how = (enum fork_ack)members->ack};
    int r = check_members(members, err);
    if (r == 0)
        r = fork_read_token(FRAME_NETWORK, members->token, members->token_hex, &network.mailbox,
                            err);
    if (r == 0 && rules->require_token && network.mailbox.token_size == 0)
        r = error_set(err, EINVAL, "this mount requires tokens: give a \"token\"");
    if (r == 0 && ret)
        r = compose(members, &network, err);
    if (r == 0 && ret)
        *ret = network;
    explicit_bzero(&network, sizeof network);
    return r;
}

int fork_parse_network(const char *text, size_t size, const struct fork_rules *rules,
                       struct fork_network *ret, struct error *err)
{
    struct network_members members = {.ack = (int)rules->ack};
    auto_json cJSON *json = NULL;
    int r = json_parse(text, size, &json, err);
    if (r == 0)
        r = json_read(json, network_fields, array_length(network_fields), &members, err);
    if (r == 0)
        r = interpret(&members, rules, ret, err);
    char *const texts[] = {members.interface_name, members.mac,   members.ipv4,
                           members.gateway,        members.token, members.token_hex};
    for (size_t i = 0; i < array_length(texts); i++)
        free_wiped(texts[i], texts[i] ? strlen(texts[i]) : 0);
    return r;
}
