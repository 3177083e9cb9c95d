/* SPDX-License-Identifier: MIT */
#include "mailbox/ack.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/json.h"

enum {
    FIELDS_MAX = (ACK_DATAGRAM_MAX + 1) / 3, /* "k=" each, at the least, and spaces between */
    DRAIN_MAX = 1024, /* datagrams in one call: a flood must not keep the caller for ever */
};

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* UTF-8 without control characters, C1 too, but for white space. */
static bool is_text(const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        uint8_t c = (uint8_t)bytes[i], before = i > 0 ? (uint8_t)bytes[i - 1] : 0;
        if ((c < 0x20 && !is_space(bytes[i])) || c == 0x7F || (before == 0xC2 && c < 0xA0))
            return false;
    }
    return json_utf8_valid(bytes, size);
}

static struct ack_field trim(const char *text, size_t size)
{
    while (size > 0 && is_space(text[0])) {
        text++;
        size--;
    }
    while (size > 0 && is_space(text[size - 1]))
        size--;
    return (struct ack_field){text, size};
}

/* Cuts the next word off the text. */
static struct ack_field next_word(struct ack_field *text)
{
    struct ack_field word = {text->text, 0};
    while (word.size < text->size && !is_space(word.text[word.size]))
        word.size++;
    *text = trim(text->text + word.size, text->size - word.size);
    return word;
}

static bool same_key(struct ack_field a, struct ack_field b)
{
    return a.size == b.size && strncasecmp(a.text, b.text, a.size) == 0;
}

static bool is_word(struct ack_field field, const char *word)
{
    return field.size == strlen(word) && memcmp(field.text, word, field.size) == 0;
}

static void keep(struct ack_message *message, struct ack_field key, struct ack_field value)
{
    const struct {
        const char *key;
        struct ack_field *place;
    } known[] = {
        {"stage", &message->stage_text},
        {"mailbox", &message->mailbox},
        {"reason", &message->reason},
        {"mac", &message->mac},
        {"ip", &message->ip},
        {"key", &message->key},
    };
    for (size_t i = 0; i < array_length(known); i++)
        if (same_key(key, (struct ack_field){known[i].key, strlen(known[i].key)}))
            *known[i].place = value;
}

bool ack_parse(const char *datagram, size_t size, struct ack_message *ret)
{
    struct ack_message message = {.stage = ACK_PROGRESS};
    struct ack_field keys[FIELDS_MAX];
    size_t count = 0;

    if (size > ACK_DATAGRAM_MAX || !is_text(datagram, size))
        return false;
    message.text = trim(datagram, size);
    for (struct ack_field rest = message.text; rest.size > 0; count++) {
        struct ack_field word = next_word(&rest);
        const char *equals = memchr(word.text, '=', word.size);
        if (!equals || equals == word.text)
            return false;
        assert(count < FIELDS_MAX);
        keys[count] = (struct ack_field){word.text, (size_t)(equals - word.text)};
        for (size_t i = 0; i < count; i++)
            if (same_key(keys[i], keys[count]))
                return false;
        keep(&message, keys[count],
             (struct ack_field){equals + 1, word.size - keys[count].size - 1});
    }
    if (message.stage_text.size == 0)
        return false;
    if (is_word(message.stage_text, "applied"))
        message.stage = ACK_APPLIED;
    else if (is_word(message.stage_text, "failed"))
        message.stage = ACK_FAILED;
    *ret = message;
    return true;
}

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* The address's size, or 0 if it is none. */
static socklen_t parse_address(const char *text, union address *ret)
{
    *ret = (union address){0};
    if (inet_pton(AF_INET, text, &ret->v4.sin_addr) == 1) {
        ret->v4.sin_family = AF_INET;
        return sizeof ret->v4;
    }
    if (inet_pton(AF_INET6, text, &ret->v6.sin6_addr) == 1) {
        ret->v6.sin6_family = AF_INET6;
        return sizeof ret->v6;
    }
    return 0;
}

bool ack_address_valid(const char *address)
{
    union address parsed;
    return parse_address(address, &parsed) != 0;
}

int ack_socket_open(const char *address, struct ack_socket *ret, struct error *err)
{
    union address bound;
    socklen_t size = parse_address(address, &bound);
    if (size == 0)
        return error_set(err, EINVAL, "the ack address is not an IPv4 or IPv6 address in numbers");

    auto_close int fd = socket(bound.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, &bound.any, size) < 0 || getsockname(fd, &bound.any, &size) < 0)
        return errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT
                   ? error_set(err, EINVAL,
                               "cannot receive acks at %s, which is no address of this host: give "
                               "another one in ack_address of options, or in --ack-address of "
                               "hypefs mount",
                               address)
                   : error_errno(err, errno, "cannot receive acks at %s", address);
    ret->port = ntohs(bound.any.sa_family == AF_INET ? bound.v4.sin_port : bound.v6.sin6_port);
    ret->fd = steal_fd(&fd);
    return 0;
}

void ack_socket_close(struct ack_socket *socket)
{
    if (!socket)
        return;
    cleanup_close(&socket->fd);
    socket->fd = -1;
}

static void copy(char *to, struct ack_field field)
{
    if (field.size > 0)
        memcpy(to, field.text, field.size);
    to[field.size] = 0;
}

/* False: it is for nobody here. */
static bool apply(const struct ack_message *message, struct ack_wait *waits, size_t count,
                  double since_resume_ms)
{
    for (size_t i = 0; i < count; i++) {
        struct ack_wait *wait = &waits[i];
        if (!is_word(message->mailbox, wait->mailbox))
            continue;
        if (wait->state != ACK_WAITING)
            return true;
        copy(wait->text, message->text);
        if (message->stage == ACK_PROGRESS)
            return true;
        wait->state = message->stage == ACK_APPLIED ? ACK_OK : ACK_REFUSED;
        wait->ms = since_resume_ms;
        copy(wait->reason, wait->state == ACK_REFUSED ? message->reason : (struct ack_field){0});
        return true;
    }
    return false;
}

void ack_receive(const struct ack_socket *socket, struct ack_wait *waits, size_t count,
                 double since_resume_ms, unsigned *ignored)
{
    char datagram[ACK_DATAGRAM_MAX];

    for (int i = 0; i < DRAIN_MAX; i++) {
        struct ack_message message;
        ssize_t n = recv(socket->fd, datagram, sizeof datagram, MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return;
        /* One that was longer than the buffer has its true size here, and is refused for it. */
        if (!ack_parse(datagram, (size_t)n, &message) ||
            !apply(&message, waits, count, since_resume_ms))
            ++*ignored;
    }
}
