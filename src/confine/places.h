/* SPDX-License-Identifier: MIT */
/*
 * places: the files that the program in the place of which hypefs-vmm runs will have: a / of its
 * own, in memory, with nothing in it but what is named here, each at the path where the host has
 * it. For the program hypefs-vmm.
 */
#ifndef HYPEFS_CONFINE_PLACES_H
#define HYPEFS_CONFINE_PLACES_H

#include <stdbool.h>

#include "confine/idmap.h"

/* The programs and libraries of the system, and a few devices: before all others. */
void places_add_system(void);
void places_add_network(void);
/* The device by which taps are opened, of a network of its own. */
void places_add_tun(void);
/* The working directory, to be written to. */
void places_add_here(const char *here);
/* An option that names one, and its values: how many arguments were read; 0: it is none. */
int places_read_option(char **argv, int left);

/* Replaces / by what was added, in a mount namespace of our own. `user`: whoever owns what is
 * there, of files other than the system's, this one does, as far as their file system can do that;
 * NULL: nothing is changed. */
void places_make_root(const char *here, const struct ids *user);

/* After landlock_begin(): what is there may be used as it was named, and nothing else. Without a /
 * of its own a file can be found at no other place than on the host. */
void places_allow(bool has_root);

/* By that user, in the new /: says what there is that it may not use. */
void places_check(const struct ids *user);

#endif
