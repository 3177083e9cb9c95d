/* SPDX-License-Identifier: MIT */
/* import: files that another tool saved as a snapshot, checked before use: for each known
 * hypervisor, how its state file begins, and what its configuration tells of the machine. What is
 * read is untrusted, and opened for reading only. Texts name the file at fault. Any thread. */
#ifndef HYPEFS_HYPERVISOR_IMPORT_H
#define HYPEFS_HYPERVISOR_IMPORT_H

#include <sys/stat.h>

#include "hypervisor/hypervisor.h"

/* Names of those that are known, for messages: "qemu, firecracker, cloud-hypervisor". */
extern const char import_names[];
bool import_is_known(const char *hypervisor);

struct import_file {
    const char *path; /* as the user gave it */
    int fd;           /* -1: none was given */
    struct stat st;   /* when it was opened */
};

/* EINVAL unless it is a regular file. */
int import_file_open(const char *path, struct import_file *ret, struct error *err);
void import_file_close(struct import_file *file);

/* The machine is to find the file `here` where its state names `saved`. */
struct import_path {
    char *saved; /* as in the state */
    char *here;  /* absolute */
};

struct import_files {
    struct import_file memory, state, config;
    const struct import_path *paths;
    size_t path_count;
    const cJSON *told; /* in place of a configuration, by import_ask(); NULL: nothing */
    /* The store's word on the version of a snapshot.json, which a configuration may be. */
    int (*check_version)(const cJSON *json, struct error *err);
};

/* What is known of the snapshot then. */
struct import {
    const char *hypervisor; /* constant */
    bool has_machine;
    struct machine machine; /* its writable disks are frozen already, by name: */
    char **frozen_from;     /* for each disk the file whose copy is to have that name, or NULL */
    const char *releases;   /* constant: of its VMM, those that load the state; NULL: not known */
    char *state;            /* the text that its image has as "state"; NULL: the file's own */
};

/* Checks all files and reads the configuration. EINVAL: a file is not what it should be, they do
 * not fit each other, a disk is missing; EOPNOTSUPP: it could never be forked. */
int import_check(const char *hypervisor, const struct import_files *files, struct import *ret,
                 struct error *err);
void import_finish(struct import *import);

/* Can a VMM say what the machine has, where no configuration is given? `program`: NULL: that of
 * PATH. EOPNOTSUPP: not one of that hypervisor; EIO: there is no such program. */
int import_ask_check(const char *hypervisor, const char *program, struct error *err);
/* Has one load the memory and the state, in a context that shuts it in, and ends it. `ret`, owned,
 * is for import_files.told. */
int import_ask(const char *hypervisor, const struct vmm_context *context,
               const struct import_files *files, cJSON **ret, struct error *err);

/* The members of snapshot.json that are known. Returns owned; NULL without memory. */
cJSON *import_describe(const struct import *import, const struct import_files *files);

/* import_paths.c: the machine's disks are where `files` says. With `binds_paths` those that are
 * copied have saved_path, too. EINVAL: no disk has such a path, or nothing can be put there. */
int import_take_paths(const struct import_files *files, bool binds_paths, struct machine *machine,
                      struct error *err);

/* import_firecracker.c: a --config-file, or GET /vm/config. `ret` is to be finished in any case. */
int import_read_firecracker(const cJSON *json, struct machine *ret, struct error *err);

/* import_cloud_hypervisor.c: a config.json; and what an image has of it and state.json. */
int import_read_cloud_hypervisor(const cJSON *json, struct machine *ret, struct error *err);
int import_combine_cloud_hypervisor(const cJSON *config, const char *state, struct machine *machine,
                                    char **ret, struct error *err);

#endif
