/* SPDX-License-Identifier: MIT */
/* root_files: the root of the tree. The tables of the other directories stand with their files. */
#include <string.h>

#include "fs/refusals.h"
#include "fs/tables.h"
#include "util/cleanup.h"

static const char readme[] =
    "hypefs: fork microVM snapshots with echo and cat\n"
    "\n"
    "Make a VM, wait until its software has armed its mailboxes, and save it as a snapshot:\n"
    "    mkdir instances/base\n"
    "    echo "
    "'{\"kernel\":\"/path/vmlinuz\",\"initrd\":\"/path/initrd\",\"cmdline\":\"console=ttyS0\"}' "
    "\\\n"
    "        > instances/base/config\n"
    "    echo running > instances/base/state\n"
    "    tail -f instances/base/console          # until its software is ready\n"
    "    echo standby > instances/base/state\n"
    "    echo base > instances/base/snapshot\n"
    "\n"
    "Fork it, each time with another payload:\n"
    "    cd snapshots/base\n"
    "    ls mailboxes                            # what can be written to\n"
    "    echo '{\"instance_name\":\"web-1\"}' > forks/new/mailboxes/NAME\n"
    "    echo web-1 > forks/new/commit || cat forks/new/error\n"
    "                                            # returns when the guest runs; of several ids "
    "all\n"
    "    cat forks/web-1/result\n"
    "Or make a draft of your own, into which nobody else writes:\n"
    "    mkdir forks/web-2\n"
    "    cp identity.json forks/web-2/mailboxes/NAME\n"
    "    echo 1 > forks/web-2/commit || cat forks/web-2/error\n"
    "    cat forks/web-2/instance/console\n"
    "If the snapshot has a file network, write the clone's addresses to network in the draft.\n"
    "\n"
    "Every VM, also a fork, can be paused, put into standby, run again, saved and forked:\n"
    "    echo paused > instances/web-1/state     # or standby, running, stopped\n"
    "    echo web > instances/web-1/snapshot     # if it runs, it is paused for a moment\n"
    "    echo web-3 > instances/web-1/forks/new/commit   # if it is in standby\n"
    "\n"
    "To wait for the guest's ack: {\"payload\": {...}, \"wait_for_ack\": true}\n"
    "If the guest answers by UDP and does not arm its mailbox again: \"ack\": \"udp\".\n"
    "When something fails, read the file error in the same directory, or else error in this one:\n"
    "it says why and what to do.\n"
    "What to do when an ack fails, and more: forks/new/options.\n"
    "What happens, as it happens: cat events. Reading that file never ends, so leave it\n"
    "out of tar, cp -r and the like (tar --exclude=events, grep -r --exclude=events).\n"
    "To copy an instance, fork it; do not use cp -r. Remove with rmdir, not with rm -r:\n"
    "echo stopped > instances/web-1/state, then rmdir instances/web-1;\n"
    "rmdir snapshots/base when no VM runs on its memory.\n";

static char *readme_text(const struct place *place)
{
    (void)place;
    return strdup(readme);
}

static const struct file_type readme_file = {.text = readme_text};

static const struct file_type error_file = {.text = refusals_text, .pollable = true};

static const struct file_type events_file = {.stream = true};

static const struct entry root_entries[] = {
    {"README", S_IFREG | 0444, 1, .file = &readme_file},
    {"error", S_IFREG | 0444, 5, .file = &error_file},
    {"snapshots", S_IFDIR | 0755, 2, .directory = &snapshots_directory},
    {"instances", S_IFDIR | 0755, 3, .directory = &instances_directory},
    {"events", S_IFREG | 0400, 1, .file = &events_file}, /* an object of its own */
};

static const struct directory root_directory = {.entries = root_entries,
                                                .count = array_length(root_entries)};
const struct entry root_entry = {NULL, S_IFDIR | 0755, 4, .directory = &root_directory};
