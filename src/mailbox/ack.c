/* SPDX-License-Identifier: MIT */
#include "mailbox/ack.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/thread.h"
#include "util/utf8.h"

enum {
    DRAIN_MAX = 1024, /* datagrams in one call: a flood must not keep the caller for ever */
    BIND_TRIES = 256, /* ports that rest, before it is given up */
    PORTS = 65536,
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
    return utf8_valid(bytes, size);
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

static bool same_text(struct ack_field a, struct ack_field b)
{
    return a.size == b.size && strncasecmp(a.text, b.text, a.size) == 0;
}

static bool is_word(struct ack_field field, const char *word)
{
    return field.size == strlen(word) && memcmp(field.text, word, field.size) == 0;
}

/* False: one of our keys stands there twice. */
static bool keep(struct ack_message *message, struct ack_field key, struct ack_field value)
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
        if (same_text(key, (struct ack_field){known[i].key, strlen(known[i].key)})) {
            if (known[i].place->text)
                return false;
            *known[i].place = value;
        }
    return true;
}

bool ack_parse(const char *datagram, size_t size, struct ack_message *ret)
{
    struct ack_message message = {.stage = ACK_PROGRESS};

    if (size > ACK_DATAGRAM_MAX || !is_text(datagram, size))
        return false;
    message.text = trim(datagram, size);
    for (struct ack_field rest = message.text; rest.size > 0;) {
        struct ack_field word = next_word(&rest);
        const char *equals = memchr(word.text, '=', word.size);
        if (!equals || equals == word.text)
            return false;
        size_t key_size = (size_t)(equals - word.text);
        if (!keep(&message, (struct ack_field){word.text, key_size},
                  (struct ack_field){equals + 1, word.size - key_size - 1}))
            return false;
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

/* The one for any, a group's or the one for all: a socket can be bound to it, and gets no ack. */
static bool is_no_hosts(const union address *address)
{
    const struct in6_addr *v6 = &address->v6.sin6_addr;
    struct in_addr v4 = address->v4.sin_addr;
    if (address->any.sa_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(v6))
        return IN6_IS_ADDR_UNSPECIFIED(v6) || IN6_IS_ADDR_MULTICAST(v6);
    if (address->any.sa_family == AF_INET6)
        memcpy(&v4, &v6->s6_addr[12], sizeof v4);
    return v4.s_addr == htonl(INADDR_ANY) || v4.s_addr == htonl(INADDR_BROADCAST) ||
           IN_MULTICAST(ntohl(v4.s_addr));
}

int ack_address_check(const char *what, const char *address, struct error *err)
{
    union address parsed;
    if (parse_address(address, &parsed) == 0)
        return error_set(err, EINVAL, "%s must be an IPv4 or IPv6 address in numbers", what);
    return is_no_hosts(&parsed) ? error_set(err, EINVAL,
                                            "%s must be the one address of this host that guests "
                                            "send to, not an address that stands for several",
                                            what)
                                : 0;
}

/* Only the kernel knows the networks of this host: it refuses who did not ask to broadcast. */
static bool is_broadcast(const union address *address, socklen_t size)
{
    auto_close int fd = socket(address->any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return fd >= 0 && connect(fd, &address->any, size) < 0 && errno == EACCES;
}

struct ack_ports {
    pthread_mutex_t lock;
    uint32_t closed_s[PORTS]; /* CLOCK_MONOTONIC of the last close, plus one; 0: never */
};

int ack_ports_create(struct ack_ports **ret, struct error *err)
{
    struct ack_ports *ports = calloc(1, sizeof *ports);
    if (!ports)
        return error_set(err, ENOMEM, "out of memory");
    pthread_mutex_init(&ports->lock, NULL);
    *ret = ports;
    return 0;
}

void ack_ports_destroy(struct ack_ports *ports)
{
    if (!ports)
        return;
    pthread_mutex_destroy(&ports->lock);
    free(ports);
}

static uint32_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)now.tv_sec + 1;
}

static bool rests(struct ack_ports *ports, uint16_t port)
{
    if (!ports)
        return false;
    auto_lock(&ports->lock);
    uint32_t closed = ports->closed_s[port];
    return closed != 0 && now_s() - closed < ACK_PORT_REST_S;
}

static int bind_socket(const char *address, const union address *to, socklen_t size, int *ret_fd,
                       uint16_t *ret_port, struct error *err)
{
    const int buffer = ACK_BUFFER_SIZE;
    union address bound = *to;
    auto_close int fd = socket(to->any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, &to->any, size) < 0 || getsockname(fd, &bound.any, &size) < 0)
        return errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT
                   ? error_set(err, EINVAL,
                               "cannot receive acks at %s, which is no address of this host: give "
                               "another one in ack_address of options, or in --ack-address of "
                               "hypefs mount",
                               address)
                   : error_errno(err, errno, "cannot receive acks at %s", address);
    /* Root may have more than the system's limit; others get up to that. */
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) < 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    *ret_port = ntohs(bound.any.sa_family == AF_INET ? bound.v4.sin_port : bound.v6.sin6_port);
    *ret_fd = steal_fd(&fd);
    return 0;
}

int ack_socket_open(const char *address, struct ack_ports *ports, struct ack_socket *ret,
                    struct error *err)
{
    union address to;
    socklen_t size = parse_address(address, &to);
    int r = ack_address_check("the ack address", address, err);
    if (r < 0)
        return r;
    if (is_broadcast(&to, size))
        return error_set(err, EINVAL,
                         "cannot receive acks at %s, which is for all hosts of a network: give the "
                         "address of this one",
                         address);

    /* Those that rest stay bound meanwhile, so that they are not given again. */
    int resting[BIND_TRIES], count = 0, fd = -1;
    uint16_t port = 0;
    r = bind_socket(address, &to, size, &fd, &port, err);
    while (r == 0 && rests(ports, port) && count < BIND_TRIES) {
        resting[count++] = fd;
        r = bind_socket(address, &to, size, &fd, &port, err);
    }
    if (r == 0 && count == BIND_TRIES) {
        close(fd);
        r = error_set(
            err, EAGAIN,
            "all ports that were tried at %s were in use within the last %d s: try again later",
            address, ACK_PORT_REST_S);
    }
    while (count > 0)
        close(resting[--count]);
    if (r == 0)
        *ret = (struct ack_socket){.fd = fd, .port = port, .ports = ports};
    return r;
}

void ack_socket_close(struct ack_socket *socket)
{
    if (!socket || socket->fd < 0)
        return;
    close(steal_fd(&socket->fd));
    if (!socket->ports)
        return;
    auto_lock(&socket->ports->lock);
    socket->ports->closed_s[socket->port] = now_s();
}

/* The text without the word key=…, which is nobody's business. */
static void copy_text(char *to, const struct ack_message *message)
{
    const char *start = message->text.text, *end = start + message->text.size;
    const char *key = message->key.text ? message->key.text - strlen("key=") : end;
    const char *rest = message->key.text ? message->key.text + message->key.size : end;
    while (key > start && is_space(key[-1]))
        key--;
    if (key == start)
        while (rest < end && is_space(*rest))
            rest++;
    size_t before = (size_t)(key - start), behind = (size_t)(end - rest);
    memcpy(to, start, before);
    memcpy(to + before, rest, behind);
    to[before + behind] = 0;
    for (char *c = to; *c; c++) /* it is quoted in texts of one line */
        *c = is_space(*c) ? ' ' : *c;
}

static bool is_for(const struct ack_message *message, const struct ack_wait *wait)
{
    if (wait->key && !is_word(message->key, wait->key))
        return false;
    if (wait->mailbox)
        return is_word(message->mailbox, wait->mailbox);
    return !message->mailbox.text && is_word(message->ip, wait->ip) &&
           same_text(message->mac, (struct ack_field){wait->mac, strlen(wait->mac)});
}

/* False: it is for nobody here. */
static bool apply(const struct ack_message *message, struct ack_wait *const *waits, size_t count,
                  double since_resume_ms)
{
    for (size_t i = 0; i < count; i++) {
        struct ack_wait *wait = waits[i];
        if (!is_for(message, wait))
            continue;
        if (wait->state != ACK_WAITING)
            return true;
        copy_text(wait->text, message);
        if (message->stage == ACK_PROGRESS)
            return true;
        wait->state = message->stage == ACK_APPLIED ? ACK_OK : ACK_REFUSED;
        wait->ms = since_resume_ms;
        size_t size = wait->state == ACK_REFUSED ? message->reason.size : 0;
        memcpy(wait->reason, size ? message->reason.text : "", size);
        wait->reason[size] = 0;
        return true;
    }
    return false;
}

/* A look that costs little, for floods: with keys, only what has one of them in it can count. */
static bool may_count(const char *datagram, size_t size, struct ack_wait *const *waits,
                      size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!waits[i]->key || memmem(datagram, size, waits[i]->key, strlen(waits[i]->key)))
            return true;
    return false;
}

void ack_receive(const struct ack_socket *socket, struct ack_wait *const *waits, size_t count,
                 double since_resume_ms, unsigned *ignored)
{
    char datagram[ACK_DATAGRAM_MAX];

    for (int i = 0; i < DRAIN_MAX; i++) {
        struct ack_message message;
        ssize_t n = recv(socket->fd, datagram, sizeof datagram, MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break;
        /* One that was longer than the buffer has its true size here, and is refused for it. */
        if (n > ACK_DATAGRAM_MAX || !may_count(datagram, (size_t)n, waits, count) ||
            !ack_parse(datagram, (size_t)n, &message) ||
            !apply(&message, waits, count, since_resume_ms))
            ++*ignored;
    }
    explicit_bzero(datagram, sizeof datagram); /* keys */
}
