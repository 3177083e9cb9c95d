/* SPDX-License-Identifier: MIT */
/*
 * tiny_guest: real VMs that boot in a moment, for tests of what the host does around a fork.
 *
 * The guest is one page of 32-bit code and a page for each mailbox, loaded by QEMU's multiboot
 * loader. It is what a guest must be (docs/hypervisors.md): it handles each interrupt that it lets
 * come, and never resets, for that ends a VM. It says "ready" on its console; when a mailbox's sequence is not 0 it prints a line
 * "NAME PAYLOAD" and arms the mailbox again. It has no network and never acks: the test does, in
 * the guest's place, once it has read in the fork's console what the guest got (tiny_guest_port).
 */
#ifndef HYPEFS_TESTS_MOUNT_TINY_GUEST_H
#define HYPEFS_TESTS_MOUNT_TINY_GUEST_H

#include "harness/harness.h"

enum {
    TINY_GUEST_MAILBOXES_MAX = 32,
    TINY_GUEST_LOAD = 0x200000, /* of the code in its memory; the mailboxes' pages follow */
};

/* In the place of a mailbox's name: the resume-network mailbox, of the token "token-". On the
 * console it goes by this word. */
#define TINY_GUEST_NETWORK "RESUME_NETWORK_MAILBOX_V1"

/* Can such a VM run here? Otherwise the program skips, with a reason printed. */
bool tiny_guest_possible(void);

/* For cmocka: a mounted store with snapshots/base, whose guest has the mailboxes "m", "a", "b". */
int tiny_guest_setup(void **state);
#define guest_test(name) cmocka_unit_test_setup_teardown(name, tiny_guest_setup, harness_teardown)

/* Boots one through the mount, puts it in standby and publishes snapshots/<id>. The instance of
 * the same id is removed. `names` ends with NULL; each mailbox's token is "token-" and its name. A
 * name that stands there twice is a mailbox with two copies; in "NAME@1000" the frame begins 1000
 * bytes behind its page's start. */
void tiny_guest_snapshot(struct harness *h, const char *id, const char *const *names);

/* The text of a config that boots such a guest. */
char *tiny_guest_config(struct harness *h, const char *const *names);

/* A shell that writes `text` to the commit file of snapshots/base/forks/<draft>. */
struct harness_child tiny_guest_commit(struct harness *h, const char *draft, const char *text);

/* Stages {"payload":…,"wait_for_ack":true,"ack":"udp","ack_timeout_ms":…} there. */
void tiny_guest_stage(struct harness *h, const char *draft, const char *mailbox,
                      const char *payload, int timeout_ms);

/* Waits until the guest of a commit under way (its directory in the store is hidden still) has
 * printed what it got in that mailbox, and returns the ack_port in it. */
int tiny_guest_port(struct harness *h, const char *mailbox);

/* Sends a datagram to an IPv4 address, or to 127.0.0.1. */
void tiny_guest_send_to(const char *address, int port, const char *text);
void tiny_guest_send(int port, const char *text);

#endif
