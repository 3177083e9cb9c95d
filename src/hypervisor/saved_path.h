/* SPDX-License-Identifier: MIT */
/* saved_path: which paths that a saved state names can be made up for a VMM that is shut in. Pure.
 */
#ifndef HYPEFS_HYPERVISOR_SAVED_PATH_H
#define HYPEFS_HYPERVISOR_SAVED_PATH_H

/* Why nothing can be put there: to follow "it". NULL: something can. */
const char *saved_path_refuse(const char *path);

#endif
