/* SPDX-License-Identifier: MIT */
/* What the guest tells the host about a payload: "applied" or "failed", in one UDP datagram. The
 * grammar of datagrams is the host's: whatever is put in here must leave them well-formed. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/route.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/internal.h"
#include "util/hex.h"
#include "util/json_check.h"
#include "util/utf8.h"

enum { DATAGRAM_MAX = 1024, ROUTE_LINE_MAX = 256 };

/* Everything in a refusal's datagram at its longest; the rest is constant text. */
_Static_assert(GUEST_SUBJECT_MAX + GUEST_KEY_MAX + FRAME_REASON_MAX + 64 < DATAGRAM_MAX,
               "a refusal fits into one datagram");

static void prepare_key(struct hypefs_mailbox *box)
{
    guest_member_word(box->payload, box->payload_size, "ack_key", box->ack_key, GUEST_KEY_MAX);
    for (const char *c = box->ack_key; *c; c++)
        if (hex_digit(*c) < 0) {
            box->ack_key[0] = '\0';
            return;
        }
}

/* What the host knows the mailbox by. It knows the network's by the addresses that it sent. */
static void prepare_subject(struct hypefs_mailbox *box)
{
    char mac[GUEST_WORD_MAX + 1], ip[GUEST_WORD_MAX + 1];

    if (box->layout->named) {
        snprintf(box->subject, sizeof box->subject, " mailbox=%s", box->name);
        return;
    }
    guest_member_word(box->payload, box->payload_size, "mac", mac, GUEST_WORD_MAX);
    guest_member_word(box->payload, box->payload_size, "ipv4", ip, GUEST_WORD_MAX);
    snprintf(box->subject, sizeof box->subject, "%s%s%s%s", mac[0] ? " mac=" : "", mac,
             ip[0] ? " ip=" : "", ip);
}

void guest_answer_prepare(struct hypefs_mailbox *box)
{
    struct guest_span value;
    int64_t port;
    if (guest_member_find(box->payload, box->payload_size, "ack_port", &value) &&
        guest_number(value, UINT16_MAX, &port))
        box->ack_port = (uint16_t)port;
    prepare_key(box);
    prepare_subject(box);
}

bool guest_gateway_read(FILE *routes, struct in_addr *ret)
{
    char line[ROUTE_LINE_MAX];
    bool found = false;
    unsigned best = 0;

    while (fgets(line, sizeof line, routes)) {
        unsigned destination, gateway, flags, metric, mask;
        if (sscanf(line, "%*s %x %x %x %*u %*u %u %x", &destination, &gateway, &flags, &metric,
                   &mask) != 5)
            continue;
        if (destination != 0 || mask != 0 || !(flags & RTF_UP) || !(flags & RTF_GATEWAY))
            continue;
        if (found && metric >= best)
            continue;
        /* The kernel prints the address's four bytes in memory as one number of this machine. */
        ret->s_addr = gateway;
        best = metric;
        found = true;
    }
    return found;
}

static int default_gateway(struct in_addr *ret)
{
    FILE *routes = fopen("/proc/net/route", "re");
    if (!routes)
        return -errno;
    bool found = guest_gateway_read(routes, ret);
    fclose(routes);
    return found ? 0 : -ENETUNREACH;
}

union destination {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};

static int resolve(const char *address, uint16_t port, union destination *ret, socklen_t *ret_size)
{
    memset(ret, 0, sizeof *ret);
    if (address && inet_pton(AF_INET6, address, &ret->in6.sin6_addr) == 1) {
        ret->in6.sin6_family = AF_INET6;
        ret->in6.sin6_port = htons(port);
        *ret_size = sizeof ret->in6;
        return 0;
    }
    ret->in.sin_family = AF_INET;
    ret->in.sin_port = htons(port);
    *ret_size = sizeof ret->in;
    if (!address)
        return default_gateway(&ret->in.sin_addr);
    return inet_pton(AF_INET, address, &ret->in.sin_addr) == 1 ? 0 : -EINVAL;
}

static int send_text(const char *address, uint16_t port, const char *text, size_t size)
{
    union destination to;
    socklen_t to_size;

    if (port == 0)
        return 0;
    int r = resolve(address, port, &to, &to_size);
    if (r < 0)
        return r;
    int fd = socket(to.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (sendto(fd, text, size, MSG_NOSIGNAL, &to.any, to_size) < 0)
        r = -errno;
    close(fd);
    return r;
}

/* "stage=STAGE", the subject and, if there is one, " key=KEY". Returns the size. */
static size_t compose(struct hypefs_mailbox *box, const char *stage, char *ret)
{
    guest_answer_prepare(box);
    return (size_t)snprintf(ret, DATAGRAM_MAX, "stage=%s%s%s%s", stage, box->subject,
                            box->ack_key[0] ? " key=" : "", box->ack_key);
}

int hypefs_mailbox_ack(struct hypefs_mailbox *box, const char *address)
{
    char text[DATAGRAM_MAX];

    if (!box->in_hand)
        return -EINVAL;
    size_t size = compose(box, "applied", text);
    return send_text(address, box->ack_port, text, size);
}

int hypefs_mailbox_reply(struct hypefs_mailbox *box, const char *json, size_t size,
                         const char *address)
{
    char text[DATAGRAM_MAX];
    struct json_check check;

    if (!box->in_hand)
        return -EINVAL;
    if (size > guest_capacity(box))
        return -EMSGSIZE;
    if (json_check(json, size, &check) != JSON_COMPLETE)
        return -EBADMSG;
    size_t used = compose(box, "applied", text);
    uint16_t port = box->ack_port;
    guest_mailbox_rearm(box, json, size);
    return send_text(address, port, text, used);
}

static bool is_control(const uint8_t *text)
{
    return text[0] < 0x20 || text[0] == 0x7F || (text[0] == 0xC2 && text[1] < 0xA0);
}

static size_t trim_end(const char *text, size_t size)
{
    while (size > 0 && text[size - 1] == ' ')
        size--;
    return size;
}

void guest_reason_clean(const char *reason, char *ret)
{
    const uint8_t *in = (const uint8_t *)(reason ? reason : "");
    size_t used = 0;

    while (*in) {
        size_t size = utf8_first(in, strnlen((const char *)in, UTF8_MAX));
        size_t step = size ? size : 1;
        if (*in == ' ' || (*in >= '\t' && *in <= '\r')) {
            if (used > 0 && used < FRAME_REASON_MAX)
                ret[used++] = ' ';
        } else if (size == 0 || !is_control(in)) {
            if (used + step > FRAME_REASON_MAX)
                break;
            memcpy(ret + used, size ? (const char *)in : "?", step);
            used += step;
        }
        in += step;
    }
    used = trim_end(ret, used);
    ret[used] = '\0';
    if (used == 0)
        memcpy(ret, "unspecified", sizeof "unspecified");
}

int hypefs_mailbox_fail(struct hypefs_mailbox *box, const char *reason, const char *address)
{
    char text[DATAGRAM_MAX], clean[FRAME_REASON_MAX + 1];

    if (!box->in_hand)
        return -EINVAL;
    guest_reason_clean(reason, clean);
    size_t size = compose(box, "failed", text);
    size_t start = size + sizeof " reason=" - 1;
    size += (size_t)snprintf(text + size, sizeof text - size, " reason=%s", clean);
    for (size_t i = start; i < size; i++)
        if (text[i] == ' ')
            text[i] = '_';
    uint16_t port = box->ack_port;
    guest_mailbox_refuse(box, clean);
    return send_text(address, port, text, size);
}
