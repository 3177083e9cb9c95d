/* SPDX-License-Identifier: MIT */
/* fake: what the test peers of the backends share that talk to a VMM by HTTP. fake_firecracker.c
 * and fake_cloud_hypervisor.c say what each of them is. */
#ifndef HYPEFS_TESTS_FAKE_VMM_FAKE_H
#define HYPEFS_TESTS_FAKE_VMM_FAKE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cjson/cJSON.h>

enum {
    FAKE_TEXT_SIZE = 1024,
    FAKE_REGIONS_MAX = 8,
    FAKE_DEVICES_MAX = 16,
    FAKE_MAILBOXES_MAX = 64,
    FAKE_PAGE = 4096,
};

/* A part of the guest's memory, and of the memory file. */
struct fake_region {
    uint64_t offset, size; /* bytes, in the file */
    bool plugged;          /* false: a slot that the guest does not have, mapped PROT_NONE */
    uint8_t *address;
};

struct fake_drive {
    char id[96], path[512];
    bool readonly;
    int fd;
    int lower_fd; /* what is below an overlay; 0: there is nothing */
};

struct fake_interface {
    char id[64], tap[32], mac[32];
    int fd; /* the tap; -1: not opened */
};

enum fake_state { FAKE_NOT_STARTED, FAKE_RUNNING, FAKE_PAUSED };

struct fake {
    /* As told by arguments and environment. */
    const char *id, *socket, *version;
    unsigned major, minor;
    int log_fd;

    enum fake_state state;
    bool boot_path; /* something was configured: no load any more */
    uint64_t memory_bytes;
    unsigned vcpus;
    char kernel[512], boot_args[1024], vsock[512];
    char huge_pages[16]; /* "": as "None" */
    struct fake_drive drives[FAKE_DEVICES_MAX];
    size_t drive_count;
    cJSON *pmem;   /* devices, as the state has them; NULL: none */
    cJSON *config; /* of a Cloud Hypervisor: the VM's; NULL: there is no VM */
    struct fake_interface interfaces[FAKE_DEVICES_MAX];
    size_t interface_count;
    struct fake_region regions[FAKE_REGIONS_MAX];
    size_t region_count;
    int memory_fd; /* the file that the regions map; -1: none */
    bool shared;   /* they share it with that file */
    bool loaded;   /* from an image */

    pthread_mutex_t running; /* held by the guest while it runs, and by who has paused it */
    pthread_cond_t resumed;
    unsigned resumes; /* how often */
    bool guest_started;
};

/* A member's text, or "". */
const char *fake_text(const cJSON *json, const char *name);

/* A line of the log, and the program's end. */
void fake_log(const struct fake *fake, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- vm.c: what a VM is made of. 0, or -1 with errno. ---- */

/* `has_slot`: the end of it is one that is not plugged in. */
void vm_lay_out(struct fake *fake, uint64_t size, bool has_slot);
void vm_add_region(struct fake *fake, uint64_t size, bool plugged);
int vm_map_regions(struct fake *fake);
void vm_resume(struct fake *fake);
int vm_write_memory(const struct fake *fake, int fd);
int vm_open_drive(struct fake_drive *drive, const char *path);
int vm_open_tap(struct fake_interface *interface);
int vm_open_vsock(const char *path);
/* Where the byte of the memory file is; NULL: in no plugged region. */
uint8_t *vm_address(const struct fake *fake, uint64_t offset);

/* ---- overlay.c ---- */
int overlay_open(struct fake_drive *drive);
/* At the beginning of the disk. */
int overlay_write(struct fake_drive *drive, const void *bytes, size_t size);

/* ---- guest.c ---- */

/* Puts the mailboxes that boot_args name into the memory of a VM that boots. */
void guest_plant(struct fake *fake);
/* Begins to run, as soon as `running` is free. */
void guest_start(struct fake *fake);
/* The offset of each page that holds a mailbox. */
size_t guest_pages(const struct fake *fake, uint64_t ret[static FAKE_MAILBOXES_MAX]);

/* ---- of each peer ---- */

struct fake_reply {
    int status;
    char *body; /* owned; NULL: none */
    bool end;   /* the process ends after it */
};
extern const char api_server[];  /* what its header says */
extern const char api_end[];     /* what it logs when it ends because of a failure, */
extern const int api_end_status; /* and its status then */
/* The body of a refusal, owned. */
char *api_refusal(const char *words);
/* The name of the call in FAKE_VMM_FAULT. */
const char *api_name(const char *method, const char *path);
void api_call(struct fake *fake, const char *method, const char *path, const char *body,
              size_t body_size, struct fake_reply *ret);

/* ---- server.c ---- */

/* Listens and answers until the process ends. */
int server_run(struct fake *fake);

#endif
