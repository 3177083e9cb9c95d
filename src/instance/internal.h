/* SPDX-License-Identifier: MIT */
/*
 * internal: what the files of instance/ share and nobody else may use, floor by floor: each uses
 * those before it.
 */
#ifndef HYPEFS_INSTANCE_INTERNAL_H
#define HYPEFS_INSTANCE_INTERNAL_H

#include "instance/instance.h"
#include "util/cleanup.h"
#include "util/thread.h"

/* ---- instance.c: the struct, references, the table ---- */

/* "snapshot", "instance": the member of a record's or info's `source`. */
extern const char *const instance_source_words[STORE_KINDS];
struct instance *instance_create(struct instances *table, const char *id);
int instance_insert(struct instance *instance, struct error *err);
/* With the lock held: others see it from here on. */
void instance_publish(struct instance *instance);
/* The reverse, of what was published. */
void instance_withdraw(struct instance *instance);
/* With the lock held: the first of a list (next_fork) of published forks, among which are all whose
 * source has that uuid. */
struct instance *instance_forks(const struct instances *table, const char *uuid);
/* With the lock held. */
void instance_notify(const struct instance *instance, enum instance_event what,
                     enum instance_state from);
/* Its directory. Takes the descriptor, also when it fails. */
int instance_set_directory(struct instance *instance, int fd, struct error *err);
/* The one in it in which its VMM works: that one, or the same. */
int instance_open_run(struct instance *instance, struct error *err);
/* With the lock held: who becomes the owner has its directory open from here on; and who is none
 * any more leaves it to the VMM, if there is one. */
int instance_keep_entry(struct instance *instance, struct error *err);
void instance_rest(struct instance *instance);
/* With the lock held: it has no owner any more. */
void instance_release_owner(struct instance *instance);
/* What a transition has of its own. */
void instance_finish_transit(struct transit *transit);
struct vmm_context instance_context(const struct instance *instance);
bool instance_has(const struct instance *instance, const char *name);
/* Is what it was loaded from the file "memory" of that directory? */
bool instance_maps(const struct instance *instance, int directory_fd);

/* ---- taps.c: the machine's taps become the instance's. EBUSY if another has one of them ---- */

int instance_acquire_taps(struct instance *instance, const struct machine *machine,
                          struct error *err);
int instance_acquire_taps_locked(struct instance *instance, const struct machine *machine,
                                 struct error *err);
/* The same for a VMM that runs on them already; nobody else knows the instance yet. */
void instance_adopt_taps(struct instance *instance, const struct machine *machine);
void instance_release_taps(struct instance *instance);
/* Tells the log of taps that its VMM has open and that are gone, even where new ones have their
 * names. By the owner. */
void instance_warn_of_taps(const struct instance *instance);

/* ---- disks.c: the files that the machine, as a config has it, is made of become the instance's.
 * EBUSY if another writes to one of them, or has one that is to be written to, or if that is
 * frozen; EINVAL if a disk is hypefs's own (own.h) ---- */

int instance_acquire_disks(struct instance *instance, const struct machine *machine,
                           struct error *err);
/* As of taps: of the instance's machine, whose VMM has them open already. */
void instance_adopt_disks(struct instance *instance);
void instance_release_disks(struct instance *instance);
/* The disks become the instance's, its own become `machine`'s. */
void instance_swap_disks(struct instance *instance, struct machine *machine);
/* A fork of what has that uuid and these disks, with an overlay over them; NULL: none. */
const struct instance *instances_overlay_locked(const struct instances *table, const char *uuid,
                                                const struct machine *machine);

/* ---- logs.c, vanished.c: what the watch looks at once a second ---- */

/* The logs are there from the first moment, for who looks with tail -f. */
int instance_make_logs(int directory_fd, struct error *err);
void instances_shorten_logs(struct instances *table);
void instances_find_vanished(struct instances *table);

/* ---- owner.c: begin makes the caller the owner (busy) or fails ---- */

enum instance_begin {
    BEGIN_OR_FAIL,  /* EBUSY while another transition is under way */
    BEGIN_CHANGING, /* the same, by who is about to change its state */
    BEGIN_STOPPING, /* the same, but ends the other one */
    BEGIN_WAITING,  /* waits for it; ECANCELED if the instance is to be stopped meanwhile */
    BEGIN_BRIEFLY,  /* the same, and who wants to begin meanwhile waits, too */
};
int instance_begin(struct instance *instance, enum instance_begin how, struct error *err);
/* The same for the end of a VMM, if there is one and nobody else looks after it. */
bool instance_begin_ended(struct instance *instance);
/* Of a transition that was ended from outside: the errno and text that say by whom. */
int instance_explain_cancel(struct instance *instance, int r, struct error *err);
/* Of one whose VMM does not end, behind that. */
#define INSTANCE_WILL_BE "; the instance becomes %s when it has ended"
/* With the lock held: EBUSY, and what has it. */
int instance_busy(const struct instance *instance, struct error *err);
/* With the lock held: waits while it is being recorded. */
void instance_await_record(struct instance *instance);
/* With the lock held: from here on others see the state, and may act on it. */
void instance_set_state(struct instance *instance, enum instance_state state);
void instance_set_intent(struct instance *instance, enum instance_intent intent);
/* The watch is told when its VMM ends. */
int instance_watch(struct instance *instance, struct error *err);

/* ---- unsynced.c: forks that run and that the disk does not have yet. By the owner ---- */

enum { INSTANCE_BOOT_ID_SIZE = 48 };
/* Of the host; another one after each start of it. 0 or -errno. */
int instance_boot_id(char ret[INSTANCE_BOOT_ID_SIZE]);
/* The instance becomes such a fork. Before it is recorded for the first time. */
int instance_begin_unsynced(struct instance *instance, struct error *err);
/* The disk gets its records and its directory, if it is one; then it is none any more. */
int instance_sync(struct instance *instance, struct error *err);
/* Is it the directory of one of which the host's end has left no whole record, and why? */
bool instance_is_torn(int entry_fd, struct error *ret_why);
/* Begins, in the background, to get onto the disk those that have run for some seconds. */
void instances_sync_due(struct instances *table);
/* At the start: whether it is one. */
void instance_read_unsynced(struct instance *instance);

/* ---- record.c: instance.json, in its directory. By the owner, or before it is published ---- */

int instance_record(struct instance *instance, struct error *err);
/* The same, with what the instance is about to become. */
struct instance_next {
    enum instance_state state;
    const struct machine *machine;
    const struct vmm *vmm; /* NULL: none */
    bool loaded;
    enum instance_intent intent;
};
int instance_record_as(struct instance *instance, const struct instance_next *next,
                       struct error *err);
/* All that a record tells but of its VMM. */
int instance_read(struct instance *instance, const cJSON *record, struct error *err);
/* *ret stays NULL when it has ended; fails when there is no telling. */
int instance_read_vmm(const struct instance *instance, const cJSON *record, struct vmm **ret,
                      struct error *err);

/* ---- held.c: a VMM keeps its files, under other names, while another is loaded for its VM ---- */

int instance_hold_files(const struct instance *instance, struct error *err);
/* The end of that: the instance's VMM was booted, and is the one whose files they are, which have
 * their names again; or it was loaded, and is the other, and they go. */
void instance_settle_held_files(struct instance *instance, bool loaded);

/* ---- image.c: the files that a save makes. All by the instance's owner ---- */

struct instance_carried;

/* A file that cannot be removed is told in the log, here and below. */
void instance_remove_file(struct instance *instance, const char *name);
void instance_remove_base(struct instance *instance);
/* All memory of an instance that is neither running nor in standby. Snapshots made of it hold links
 * of their own, so nothing is lost. */
void instance_remove_image(struct instance *instance);
/* What a save has left beside a VM that goes on. */
void instance_remove_saved(struct instance *instance);
/* The instance's disks become those that the VM writes to, or has written to if it has ended
 * (NULL), however old their record. */
int instance_find_disks(struct instance *instance, struct vmm *vmm, struct error *err);
/* The same for a VM that has ended; a failure is told in the log. */
void instance_refresh_disks(struct instance *instance);
/* What of that needs no pause, before; prepares `save`, whose directory is set. */
int instance_prepare_image(struct instance *instance, struct vmm_save *save, struct error *err);
/* The files memory and state of a paused VM, in that directory (by its path from the instance's).
 * `ret` is the image's machine; its disks are to be freed (disks_finish), after success only. A VM
 * that goes on has them too, on record, whatever came of it. */
int instance_write_image(struct instance *instance, const struct vmm_save *save,
                         struct machine *ret, struct error *err);
/* What is done with them when the VM may go on. By the owner: zeros become holes, if a VMM has
 * written them. */
int instance_dig_image(struct instance *instance, int directory_fd, struct error *err);
/* By anybody: mailboxes are armed again, all goes to disk. `delivered` and `carried` are from
 * before. */
enum instance_saved {
    SAVED,            /* a copy of its memory */
    SAVED_AND_MAPPED, /* what its VM runs on: what is waited for stays as it is */
    SAVED_AND_ENDS,   /* what is waited for is withdrawn, for nobody waits any more */
};
/* With the lock held: is a delivery to that mailbox under way, or waiting, that is not done? */
bool instance_has_turn(const struct instance *instance, const char *name);
/* By the owner. Owned. */
cJSON *instance_delivered(struct instance *instance, enum instance_saved saved);
int instance_finish_image(const cJSON *delivered, struct instance_carried *carried,
                          int directory_fd, struct error *err);

/* What a save needs to find frames only where it differs from the image that the VM was loaded
 * from. */
struct instance_carried {
    struct image_index *index; /* of that image; NULL: it is not known, or there is none */
    int base_fd;
    struct page_set written;
};
/* Before the save, whose `written` it sets. *ret is to be finished after a failure, too. */
int instance_carry_index(struct instance *instance, struct vmm_save *save,
                         struct instance_carried *ret, struct error *err);
/* Is what was written known? */
bool instance_is_carried(const struct instance_carried *carried);
void instance_finish_carried(struct instance_carried *carried);
/* With the lock held. NULL is fine. */
void instance_set_base_index(struct instance *instance, struct image_index *index);
/* As image_scan() of what was saved. */
int instance_scan_saved(const struct instance_carried *carried, int directory_fd,
                        const atomic_bool *stop, struct image_index **ret, struct error *err);

/* ---- delivered.c: besides what live.h has of it ---- */

/* By the owner: instance_record_delivery(). */
int instance_keep_delivery(struct instance *instance, const char *name, cJSON *record,
                           cJSON **ret_before, struct error *err);

/* By the owner, while the VM stands still: of what was delivered to it since it runs, copies that
 * nobody will take are armed again, before it is saved. */
int instance_rearm(struct instance *instance, struct error *err);
/* With the lock held: it is another VM from now on, or none; and its file. */
void instance_forget_live(struct instance *instance, bool by_itself, bool keep_delivered);
void instance_remove_deliveries(struct instance *instance);
/* What an earlier daemon delivered to a VM that lives. */
void instance_read_deliveries(struct instance *instance);

/* ---- steps.c: what the transitions do, each with how it is undone ---- */

enum step_name {
    STEP_NONE,
    STEP_LIMITS,  /* may there be a VM more? */
    STEP_TURN,    /* to start a VMM; given back at the end */
    STEP_CONFIG,  /* becomes the machine that is booted */
    STEP_ACQUIRE, /* the taps and disks */
    STEP_BOOT,
    STEP_LOAD,    /* the image that was saved */
    STEP_PAUSE,   /* of what is paused on record, and must not run now */
    STEP_PREPARE, /* what a copy does before the VM stands still */
    STEP_HOLD,    /* the intent in the record, and the VM stands still; undone, it goes on */
    STEP_RESUME,  /* the intent in the record, and the VM goes on; undone, it stands still, or keeps
                     the intent and is one that runs: it is not known what the VMM does */
    STEP_GO_ON,   /* without an intent */
    STEP_SAVE,    /* the image, and its index */
    STEP_COPY,    /* what the caller does to the memory */
    STEP_BESIDE,  /* what was saved is loaded in another VMM, beside the one that has the VM */
    STEP_REPLACE, /* the intent in the record, of that VMM; the VM goes on in it, and the one before
                     is killed */
    STEP_DISMISS, /* the end of the VMM before, and of its files */
    STEP_RECORD,  /* what the instance is about to become */
    STEP_END,     /* of the VMM; if it does not end, what follows comes when it has ended */
    STEP_RELEASE, /* what the VMM had */
    STEP_ARRIVE,  /* everybody sees the state; cannot fail, nor can what comes after */
    STEP_REMOVE,  /* of the files, those of an image that is none any more */
    STEPS
};

enum { TRANSITION_STEPS = 8 }; /* at most, with STEP_NONE */
/* Who may ask: a write to `state`; one to `snapshot`, or a commit, by a copy of the memory or by a
 * switch to another VMM; a VMM that ends by itself. */
enum transition_by { BY_STATE, BY_COPY, BY_SWITCH, BY_VMM };
struct transition {
    enum transition_by by;
    enum instance_state from, to;
    enum instance_intent intent; /* in the record meanwhile; STEP_HOLD and STEP_RESUME */
    enum instance_state if_gone; /* what a crash leaves if the VMM has ended, too */
    enum step_name steps[TRANSITION_STEPS];
};

typedef int instance_work(struct instance *instance, void *context, struct error *err);
/* A transition under way, and what its steps leave to each other. */
struct transit {
    struct instance *instance;
    const struct transition *transition;
    size_t done;               /* steps */
    struct instance_next next; /* for the record */
    struct machine booted, saved;
    struct vmm *vmm;   /* one that is not the instance's: not yet, or no more */
    double held_at_ms; /* process_now_ms() */
    double paused_ms;  /* that a VM stood still which was held and goes on */
    const char *image; /* of a switch: where `work` saves the VM, from the instance's directory */
    struct image_index *index;
    instance_work *prepare, *work; /* of a copy */
    void *context;
    uid_t user; /* who asks for it, for whose turn it is */
    bool has_turn;
    bool is_saved;    /* of a switch: `work` has succeeded */
    struct error why; /* what fails while steps are undone */
};
struct step {
    int (*run)(struct transit *transit, struct error *err);
    /* Of one that failed half-way, too. NULL: nothing is to be undone. */
    void (*undo)(struct transit *transit);
};
extern const struct step instance_steps[STEPS];

/* The VM goes on, and has no intent any more. */
int instance_resume(struct instance *instance, int cancel_fd, struct error *err);
/* With the lock held, or by the owner: was it held, and does not run since? */
bool instance_must_resume(const struct instance *instance);

/* ---- state_machine.c: by the owner ---- */

/* Does `work` while the VM, if there is one, stands still, and `prepare` before, if it runs.
 * *ret_paused_ms: how long it stood still, if it goes on. EINVAL: there is no memory. */
int instance_copy(struct instance *instance, instance_work *prepare, instance_work *work,
                  void *context, double *ret_paused_ms, struct error *err);
/* The same for a VM that runs on a memory file of its own: `work` saves it so that this file is the
 * image, which is the directory `image` by its path from the instance's, and the VM goes on in a
 * VMM that was loaded from that. After a failure it goes on as before; *ret_saved: only that VMM
 * failed. */
int instance_switch(struct instance *instance, instance_work *work, const char *image,
                    void *context, double *ret_paused_ms, bool *ret_saved, struct error *err);
/* The owner gives the instance up: what is there now is put on record, and `changed` is told. */
void instance_end(struct instance *instance);
/* What an intent in the record leaves of an instance without a VMM, if there is what that needs. */
enum instance_state instance_if_gone(enum instance_intent intent);

/* ---- watch.c: the thread that notices VMMs that end ---- */

int instances_watch(struct instances *table, struct error *err);
void instances_unwatch(struct instances *table);

/* ---- recover.c: when the daemon starts, what an earlier one that was killed had begun is ended,
 * or as if never begun ---- */

/* Fails, and changes nothing, when it cannot be told whether a VMM still runs. */
int instance_load(struct instances *table, const char *id, struct instance **ret,
                  struct error *err);
/* Its files; but of an instance whose VM has to go on, which is asked before. */
void instance_recover_files(struct instance *instance);
/* Has its VM to go on, or may what that writes to be other than recorded? What is the matter, in
 * words. */
bool instance_must_recover(const struct instance *instance);
const char *instance_unrecovered(const struct instance *instance);
/* It does, and what is left of what was cut short goes. By the owner. */
int instance_recover_vmm(struct instance *instance, struct error *err);

#endif
