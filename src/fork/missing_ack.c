/* SPDX-License-Identifier: MIT */
/*
 * missing_ack: the sentence for an ack that did not come: what is known of it, the last lines of
 * the guest's console, and what can be done.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fork/internal.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/text.h"

enum { CONSOLE_BYTES = 240, CONSOLE_LINES = 3 };

static bool is_loopback(const char *address)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, address, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET;
    return inet_pton(AF_INET6, address, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

/* Where acks by datagram went, if they went anywhere. */
static void add_address(const struct fork *fork, struct error *ret)
{
    const char *address = fork_ack_address(fork);
    bool here = is_loopback(address);
    error_append(ret, "; acks are received at %s", address);
    if (fork->machine.network == NETWORK_TAP && here)
        error_append(ret, ", which no guest on a tap can reach: give this host's address there in "
                          "\"ack_address\" of options");
    if (fork->machine.network == NETWORK_USER && !here)
        error_append(ret, ", and a guest that sends to its gateway reaches 127.0.0.1 only");
}

/* Its last lines as one, cut at the front. `text` has room for CONSOLE_BYTES and a NUL. */
static void read_console(int directory_fd, char *text)
{
    struct stat st;
    text[0] = '\0';
    auto_close int fd =
        openat(directory_fd, VMM_CONSOLE_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return;
    off_t from = st.st_size > CONSOLE_BYTES ? st.st_size - CONSOLE_BYTES : 0;
    ssize_t size = pread(fd, text, CONSOLE_BYTES, from);
    text[size > 0 ? size : 0] = '\0';
}

/* The lines that end the text, from `text` on; white space at its end is cut off. */
static char *last_lines(char *text)
{
    size_t size = strlen(text), lines = 0;
    while (size > 0 && strchr(" \t\r\n", text[size - 1]))
        text[--size] = '\0';
    while (size > 0 && (text[size - 1] != '\n' || ++lines < CONSOLE_LINES))
        size--;
    return text + size;
}

static void add_console(const struct fork *fork, struct error *ret)
{
    char text[CONSOLE_BYTES + 1];
    read_console(fork->entry.fd, text);
    char *lines = last_lines(text);
    if (!lines[0]) {
        error_append(ret, "; its console is empty");
        return;
    }
    /* It may begin inside a character. */
    while (((unsigned char)lines[0] & 0xC0) == 0x80)
        lines++;
    for (char *c = lines; *c; c++)
        if (*c == '\n')
            *c = '|';
    text_make_utf8(lines);
    text_make_printable(lines, strlen(lines), ' ');
    error_append(ret, "; its console ends: \"%s\"", lines);
}

static const char *what_became_of_it(const struct fork_mailbox *mailbox)
{
    if (mailbox->consume.state == CONSUME_REFUSED)
        return "the guest has refused it in its memory";
    if (mailbox->ack.lost || mailbox->consume.state == CONSUME_UNKNOWN)
        return "the guest uses the memory of all its copies for something else: did its software "
               "still run when the VM was saved?";
    if (mailbox->how != FORK_ACK_MEMORY && !mailbox->known)
        return "whether the payload was taken is not known";
    return mailbox->consume.state == CONSUME_PENDING ? "its mailbox was not armed again: does its "
                                                       "software run in the guest, or is its hook "
                                                       "still at work?"
                                                     : "the payload was taken nevertheless";
}

static void add_datagrams(const struct fork *fork, const struct fork_mailbox *mailbox,
                          struct error *ret)
{
    if (mailbox->ack.text[0])
        error_append(ret, "; the guest's last message about it: %.200s", mailbox->ack.text);
    error_append(ret, "; %u other datagrams came", fork->ignored);
    add_address(fork, ret);
}

void missing_ack_text(struct fork *fork, struct fork_mailbox *mailbox, int deadline_ms,
                      const char *what, struct error *ret)
{
    bool by_memory = mailbox->how == FORK_ACK_MEMORY;
    const struct process_times times = turn_times(fork);
    /* One by memory is the watch's, which has just looked. */
    if (!by_memory)
        mailbox->known = consume_refresh(&fork->watched.io, &mailbox->consume, NULL) == 0;
    error_set(ret, 0, "no ack for %s within %d ms: %s", what, deadline_ms,
              what_became_of_it(mailbox));
    error_append(ret,
                 "; its VM had a processor for %.0f ms of them, and waited for one for %.0f ms",
                 times.ran_ms, times.waited_ms);
    if (!by_memory)
        add_datagrams(fork, mailbox, ret);
    add_console(fork, ret);
    error_append(ret, ". To do: %s%s",
                 mailbox->name[0] ? "a longer \"ack_timeout_ms\"; \"on_ack_failure\": \"keep\" in "
                                    "options, to look at the guest; "
                                  : "",
                 by_memory ? "\"ack\": \"udp\" for a guest that answers by datagram and does not "
                             "arm its mailbox again"
                           : "\"ack\": \"memory\", which needs no network");
}
