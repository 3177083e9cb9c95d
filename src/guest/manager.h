/* SPDX-License-Identifier: MIT */
/* manager: the programs of a guest's system that give interfaces their addresses, and would give
 * the template's, or a lease for the new MAC address, to an interface that has got a clone's:
 * systemd-networkd and NetworkManager. Each that runs is told to leave the interface alone. Part of
 * the agent program, not of the library. */
#ifndef HYPEFS_GUEST_MANAGER_H
#define HYPEFS_GUEST_MANAGER_H

/* Returns when the interface is nobody's: at once where no manager runs, otherwise after its tool
 * (networkctl, nmcli; looked for in PATH) has ended. What it says holds until the system starts
 * anew. -errno if a manager could not be told: EIO, its tool failed; ETIMEDOUT, all of them
 * together took longer than `patience_ms`. `root`: "", but for tests. */
int manager_release(const char *root, const char *interface, int index, int patience_ms);

#endif
