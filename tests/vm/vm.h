/* SPDX-License-Identifier: MIT */
/*
 * vm: what the VM tests share: real guests on the harness. A test program calls vm_enter() first,
 * makes one template in its group's setup, and gives vm_setup() to each test: a mounted daemon with
 * a store of its own that has the template as the snapshot "base".
 *
 * The guest program is guest/vm_guest.c, unless it is the agent. HYPEFS_TEST_KERNEL names the
 * folder of an unpacked kernel package (examples/guest/fetch-kernel.sh; by default the one in the
 * user's cache). HYPEFS_TEST_VMM names another VMM than QEMU; its guests have no network, unless
 * the test gives them taps.
 */
#ifndef HYPEFS_TESTS_VM_H
#define HYPEFS_TESTS_VM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cjson/cJSON.h>

#include "harness/harness.h"
#include "mailbox/frame.h"

/* For staged requests: never what ends a wait, even on a busy machine. */
#define VM_PATIENT "\"ack_timeout_ms\":30000"
/* A request whose guest does `deed` (guest/vm_guest.c), with `more` members in its payload. */
#define VM_REQUEST(deed, more)                                                                     \
    "{\"payload\":{\"do\":\"" deed "\"" more "},\"wait_for_ack\":true," VM_PATIENT "}"

/* The same, acked by datagram. */
#define VM_REQUEST_UDP(deed, more)                                                                 \
    "{\"payload\":{\"do\":\"" deed "\"" more "},\"wait_for_ack\":true,\"ack\":\"udp\"," VM_PATIENT \
    "}"

void vm_enter(void);
/* The same with the agent and its hook in the guest, as examples/guest has them. */
void vm_enter_with_agent(void);

/* The same with that "network" in the configs of guests, after `prepare` (see harness_enter_with).
 */
void vm_enter_with_network(const char *network, const char *(*prepare)(const char *base));

/* The VMM of the guests, by its name in configs. */
const char *vm_vmm(void);
/* Skips the test with any other VMM than QEMU. */
void vm_needs_qemu(void);

/* The "disks" in the configs of guests; kept, not copied. */
void vm_use_disks(const char *disks);
/* The "network" in them; kept, not copied. NULL: as by default. */
void vm_use_network(const char *network);
/* The "memory_mib" in them. */
void vm_use_memory(int mib);
/* Starts instances/template in a mounted store; and waits until its guest is ready, too. */
void vm_start(struct harness *h, const char *machine, const char *parameters);
void vm_boot(struct harness *h, const char *machine, const char *parameters);
/* For group setups: boots a guest on `machine` with `parameters` for its program, and keeps its
 * snapshot. The teardown is harness_teardown(). */
int vm_make_template(void **state, const char *machine, const char *parameters);
/* The same in a mounted store: boots, stands by, publishes the snapshot "base". */
void vm_make_base(struct harness *h, const char *machine, const char *parameters);

/* For tests: *state, the group's, becomes a struct harness. The second one does not mount. */
int vm_setup(void **state);
int vm_setup_unmounted(void **state);

/* Replaces a file of base, which is shared with the template, by a copy that may be changed.
 * Returns its path. */
char *vm_own(struct harness *h, const char *name);
/* An executable script beside the store. Returns its path. */
char *vm_script(struct harness *h, const char *name, const char *text);

/* Of base's drafts. `draft` is "new" or one's id. */
char *vm_draft(struct harness *h, const char *draft, const char *file);
void vm_stage(struct harness *h, const char *draft, const char *mailbox, const char *text);
/* Commits, which must succeed; or fail with `code` and with all of `words` (NULL at the end) in
 * error. The result is returned. */
char *vm_commit(struct harness *h, const char *draft, const char *id);
char *vm_commit_fails(struct harness *h, const char *draft, const char *id, int code,
                      const char *const *words);
/* Stages in new and commits. */
char *vm_fork(struct harness *h, const char *id, const char *mailbox, const char *text);

/* A commit that is not waited for: by a thread, whose write's errno is there in the end. */
struct vm_pending;
struct vm_pending *vm_start_commit(struct harness *h, const char *draft, const char *id);
int vm_finish_commit(struct vm_pending *pending);
bool vm_is_done(struct vm_pending *pending);

/* Waits for the line "vm_guest: MAILBOX payload=PAYLOAD" on the instance's console. */
void vm_await_payload(struct harness *h, const char *id, const char *mailbox, const char *payload);
/* The same of a commit under way, whose instance nobody sees yet; `begin` of the payload. */
void vm_await_pending_payload(struct harness *h, const char *mailbox, const char *begin);
/* Any other line, without its "vm_guest: ". */
void vm_await_pending_line(struct harness *h, const char *line);
char *vm_console(struct harness *h, const char *id);
char *vm_info(struct harness *h, const char *id, const char *member);
int vm_pid(struct harness *h, const char *id);
/* What its QEMU answers, past hypefs. Returns owned. */
cJSON *vm_ask(struct harness *h, const char *id, const char *command);
/* Does its guest run, as QEMU itself says? */
bool vm_is_running(struct harness *h, const char *id);
/* Waits until the process has ended. */
void vm_await_end(int pidfd);
/* Writes to the instance's state. */
int vm_change(struct harness *h, const char *id, const char *state);

/* Nothing is there but these instances (NULL at the end), each with its VMM running:
 * in the tree, in the store, among processes. */
void vm_assert_running(struct harness *h, const char *const *ids);
/* Open descriptors of the daemon that are sockets. */
size_t vm_daemon_sockets(struct harness *h);
/* What the frames of one of base's mailboxes hold in the memory of a fork, which is paused while
 * they are read or written. There may be copies; the guest has but one of them. */
enum { VM_FRAMES_MAX = 8 };
struct vm_frame {
    uint32_t sequence, length;
    bool empty; /* no payload: all zeros */
    bool pinned;
};
size_t vm_read_frames(struct harness *h, const char *id, const char *mailbox,
                      struct vm_frame ret[VM_FRAMES_MAX]);
/* Delivers as a host does, to each. */
void vm_write_frames(struct harness *h, const char *id, const char *mailbox, const char *payload);
/* The file is, byte for byte, the memory of that fork, which is paused. */
void vm_assert_image(struct harness *h, const char *id, const char *path);
/* Of guests with hypefs.ticks: the last tick that is on the console (0: none); and one behind it is
 * waited for. */
unsigned vm_last_tick(struct harness *h, const char *id);
void vm_await_tick_after(struct harness *h, const char *id, unsigned tick);
/* The checksum of base's memory image. */
char *vm_checksum(struct harness *h);

#endif
