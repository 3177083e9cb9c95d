/* SPDX-License-Identifier: MIT */
/*
 * hypefs-guest: mailboxes, for programs inside a VM.
 *
 * A program makes mailboxes in its memory (arm) and waits. The VM is snapshotted. Later the host
 * forks it, and each clone of the program finds a payload in a mailbox: a JSON object that says
 * what this clone is to be.
 *
 *     struct hypefs_mailbox *box, *full;
 *     int r = hypefs_mailbox_arm("app.identity.v1", NULL, 0, &box);
 *     while (r == 0 && (r = hypefs_mailbox_wait(&box, 1, -1, &full)) == 0) {
 *         if (apply(hypefs_mailbox_payload(full, NULL)) == 0)
 *             hypefs_mailbox_ack(full, NULL);
 *         else
 *             hypefs_mailbox_fail(full, "the name is taken", NULL);
 *         hypefs_mailbox_rearm(full);
 *     }
 *     hypefs_mailbox_close(box);
 *
 * A mailbox has one of three states. Armed: the host may deliver. Pending: the host has delivered.
 * In hand: hypefs_mailbox_wait() has taken the payload out; nothing can be delivered until
 * hypefs_mailbox_rearm(), hypefs_mailbox_reply() or hypefs_mailbox_fail() is called.
 *
 * Functions return 0 or a negative errno, and set outputs only on success. Different mailboxes may
 * be used by different threads, but one mailbox only by one thread at a time. A mailbox belongs to
 * the process that armed it: after fork() the child does not have its memory, and must not pass it
 * to any of these functions, not even to hypefs_mailbox_close(). No function here starts threads or
 * handles signals.
 */
#ifndef HYPEFS_GUEST_H
#define HYPEFS_GUEST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HYPEFS_GUEST_API __attribute__((visibility("default")))

/* Bytes, without a NUL. */
#define HYPEFS_MAILBOX_NAME_MAX 64
#define HYPEFS_MAILBOX_TOKEN_MAX 128
#define HYPEFS_MAILBOX_PAYLOAD_MAX 3832
#define HYPEFS_MAILBOX_REPLY_MAX 3824
#define HYPEFS_MAILBOX_REASON_MAX 512
#define HYPEFS_NETWORK_TOKEN_MAX 30
#define HYPEFS_NETWORK_PAYLOAD_MAX 4024
#define HYPEFS_NETWORK_REPLY_MAX 4016

struct hypefs_mailbox;

/*
 * Makes a mailbox and arms it, in a locked page of its own, which is also pinned if the kernel lets
 * it: then the kernel never moves it. That takes a descriptor, which is close-on-exec.
 *
 * `name`: 1 to 64 of A-Z a-z 0-9 . _ : - but not "." or "..". The host finds the mailbox by its
 * name. Arm each name only once in a VM.
 * `token`: 1 to 128 bytes, no NUL, not all white space. A host that gives the token can deliver
 * even if the name is not unique. NULL (with token_size 0) stands for 128 random bits, as 32 hex
 * digits.
 *
 * -EINVAL: name or token is not valid. -ENOMEM, -EPERM, -EAGAIN: there is no memory, or it cannot
 * be locked (RLIMIT_MEMLOCK: one page for each mailbox). The host cannot find a page that was
 * swapped out, so a page that cannot be locked does not become a mailbox. The caller owns *ret, and
 * frees it with hypefs_mailbox_close().
 */
HYPEFS_GUEST_API int hypefs_mailbox_arm(const char *name, const void *token, size_t token_size,
                                        struct hypefs_mailbox **ret);

/*
 * The same for the VM's resume-network mailbox, whose payload says which addresses this clone gets:
 *     {"interface_name":"eth0","mac":"02:…","ipv4":"10.0.0.7","prefix":24,"gateway":"10.0.0.1"}
 * The caller has to apply it, as any other payload (`hypefs-guest --network` does so), and uses all
 * functions below in the same way. Arm it only once in a VM, and pass it first to
 * hypefs_mailbox_wait(), because other payloads may need the network.
 *
 * It has no name. `token`: 1 to 30 bytes, otherwise as above. NULL (with token_size 0) stands for
 * 120 random bits, as 30 hex digits.
 */
HYPEFS_GUEST_API int hypefs_network_arm(const void *token, size_t token_size,
                                        struct hypefs_mailbox **ret);

/* "" for the network mailbox. Valid as long as the mailbox. */
HYPEFS_GUEST_API const char *hypefs_mailbox_name(const struct hypefs_mailbox *box);

/*
 * Waits until one of `count` mailboxes is pending and takes its payload in hand: *ret is that
 * mailbox. Mailboxes are checked in the order of `boxes`; those that are in hand already are
 * skipped. They are checked every 2 ms; more often just after a payload, and then less often.
 *
 * `timeout_ms`: 0 checks once, -1 (or any negative number) waits for ever.
 * A delivery whose length is not 1 to 3832 bytes (for the network mailbox 4024) is refused, and the
 * wait goes on.
 *
 * -ETIMEDOUT. -EINTR: a signal handler ran. -EINVAL: no mailboxes, or all of them are in hand.
 */
HYPEFS_GUEST_API int hypefs_mailbox_wait(struct hypefs_mailbox *const *boxes, size_t count,
                                         int timeout_ms, struct hypefs_mailbox **ret);

/*
 * Returns the payload in hand, exactly as the host delivered it, with a NUL after it; NULL if there
 * is none. `ret_size` (may be NULL) is its size in bytes, at least 1, without the NUL. The payload
 * is valid until rearm, reply, fail or close, which wipe it.
 */
HYPEFS_GUEST_API const char *hypefs_mailbox_payload(const struct hypefs_mailbox *box,
                                                    size_t *ret_size);

/*
 * Tells the host that the payload in hand is in use: one UDP datagram to the port that the payload
 * names ("ack_port"), with its "ack_key" if there is one; for the network mailbox also with the
 * payload's "mac" and "ipv4". Without "ack_port" the host does not wait for a datagram: then
 * nothing is sent, and the result is 0. The payload stays in hand.
 *
 * `address`: the host's IPv4 or IPv6 address, in numbers. NULL: the IPv4 default gateway.
 *
 * 0 means that it was sent, not that it arrived. -EINVAL: nothing in hand, or a bad address.
 * -ENETUNREACH: no default gateway. Others of open(2), socket(2) and sendto(2).
 */
HYPEFS_GUEST_API int hypefs_mailbox_ack(struct hypefs_mailbox *box, const char *address);

/*
 * Answers the payload in hand: leaves a reply in the frame for the host to show, arms the mailbox
 * again, and sends a datagram as hypefs_mailbox_ack() does. `json`: a JSON object of at most
 * HYPEFS_MAILBOX_REPLY_MAX bytes (for the network mailbox HYPEFS_NETWORK_REPLY_MAX), in UTF-8; it
 * is shown byte for byte. The next payload wipes it, and a host that knows no replies does not look
 * at it.
 *
 * -EMSGSIZE: it is too long. -EBADMSG: it is not a JSON object. After these two the payload is
 * still in hand. Other errors are those of hypefs_mailbox_ack(); the reply is in the frame even
 * then, unless nothing was in hand.
 */
HYPEFS_GUEST_API int hypefs_mailbox_reply(struct hypefs_mailbox *box, const char *json, size_t size,
                                          const char *address);

/*
 * Refuses the payload in hand: leaves `reason` in the frame for the host to read, arms the mailbox
 * again, and sends a datagram under the same conditions as hypefs_mailbox_ack(). In `reason`, white
 * space becomes a blank ('_' in the datagram), control characters are dropped, what is not UTF-8
 * becomes '?', and what exceeds 512 bytes is cut. NULL or "" stands for "unspecified".
 *
 * Errors are those of hypefs_mailbox_ack(). The refusal is in the frame even after an error, unless
 * it was -EINVAL because nothing is in hand.
 */
HYPEFS_GUEST_API int hypefs_mailbox_fail(struct hypefs_mailbox *box, const char *reason,
                                         const char *address);

/* What makes this clone differ from the other clones: the member "fork" of its payloads. The host
 * adds it if the fork has the option "identity". */
#define HYPEFS_IDENTITY_SEED_SIZE 32
struct hypefs_identity {
    char id[64];                                   /* of the instance, on the host */
    char generation[33];                           /* 128 random bits of this fork, in hex digits */
    unsigned char seed[HYPEFS_IDENTITY_SEED_SIZE]; /* random bytes: a secret */
    int64_t time_ns;                               /* the host's wall clock, since 1970 */
};

/* Reads that member from the payload in hand. -ENOENT: the payload has none. -EINVAL: it is not as
 * the host writes it, or nothing is in hand. */
HYPEFS_GUEST_API int hypefs_identity_read(const struct hypefs_mailbox *box,
                                          struct hypefs_identity *ret);

/*
 * Makes the kernel's random numbers differ from those of other clones from now on (it adds the seed
 * to the kernel's pool and reseeds the generator), then sets the wall clock. Call it before
 * anything that needs either of them, and only once for each generation: all payloads of a fork
 * have the same member, and a second call would set the clock back. Random generators inside
 * processes stay as they were saved.
 *
 * Errors are those of open(2) and ioctl(2) on /dev/urandom and of clock_settime(2), most often
 * -EPERM (CAP_SYS_ADMIN and CAP_SYS_TIME are needed).
 */
HYPEFS_GUEST_API int hypefs_identity_apply(const struct hypefs_identity *identity);

/* Wipes the payload in hand and arms the mailbox again. Does nothing if nothing is in hand. */
HYPEFS_GUEST_API void hypefs_mailbox_rearm(struct hypefs_mailbox *box);

/*
 * Wipes the frame, so that the host never takes what is left of it for a mailbox, and frees
 * everything. NULL is fine.
 */
HYPEFS_GUEST_API void hypefs_mailbox_close(struct hypefs_mailbox *box);

#ifdef __cplusplus
}
#endif

#endif
