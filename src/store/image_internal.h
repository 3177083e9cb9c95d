/* SPDX-License-Identifier: MIT */
/* image_internal: what image.c and image_index.c share. */
#ifndef HYPEFS_STORE_IMAGE_INTERNAL_H
#define HYPEFS_STORE_IMAGE_INTERNAL_H

#include "store/image.h"

extern const char image_memory_name[], image_index_name[];

/* The kept list. ENOENT: there is none; EIO: it is of another image, or damaged. */
int image_index_load(int directory_fd, struct image_index **ret, struct error *err);
int image_index_save(int directory_fd, const struct image_index *index, struct error *err);
/* Scans the image, without keeping the list. */
int image_index_scan(int directory_fd, scan_progress *progress, void *context,
                     struct image_index **ret, struct error *err);
/* How the files "memory", given, and "state" differ from what the kept list says; "" if they do
 * not, or nobody can tell. */
void image_tell_changes(int directory_fd, const cJSON *json, const struct stat *memory,
                        char ret_memory[FILE_KEY_CHANGE_SIZE],
                        char ret_state[FILE_KEY_CHANGE_SIZE]);
/* ESHUTDOWN, in words. */
int image_stopping(struct error *err);

#endif
