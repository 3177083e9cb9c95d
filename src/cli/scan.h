/* SPDX-License-Identifier: MIT */
/*
 * hypefs scan: lists the mailboxes in memory images that any tool saved. It needs no mount, no
 * store and no daemon, and changes nothing.
 */
#ifndef HYPEFS_CLI_SCAN_H
#define HYPEFS_CLI_SCAN_H

/* argv[0] is the word "scan". Returns the exit status: 0 done, 1 failed, 2 wrong usage. */
int cli_scan(int argc, char **argv);

#endif
