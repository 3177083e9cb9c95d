/* SPDX-License-Identifier: MIT */
#include "hypervisor/firecracker_ask.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/confine.h"
#include "hypervisor/firecracker_control.h"
#include "hypervisor/firecracker_program.h"
#include "hypervisor/firecracker_vsock.h"
#include "hypervisor/saved_path.h"
#include "hypervisor/vmm_api.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/json.h"

/* What is found at all paths of drives. */
static const char stand_in[] = "asked.tmp";

struct question {
    const struct vmm_context *context;
    const char *memory, *state;
    struct program program;
    /* What loads that failed have told of the state. */
    bool has_no_vsock, has_huge_pages, has_taps;
    char *drives[MACHINE_DISKS_MAX]; /* their paths */
    char *taps[MACHINE_INTERFACES_MAX];
    size_t drive_count, tap_count;
};

/* ---- asking once ---- */

static int start(const struct question *question, struct vmm **ret, struct error *err)
{
    const struct machine machine = {.hypervisor = hypervisor_find("firecracker")};
    struct arguments confined = {0};
    confine_begin(&confined, question->context, &machine, NULL, question->program.path);
    confine_add(&confined, "--ro", question->memory);
    confine_add(&confined, "--ro", question->state);
    int r = 0;
    for (size_t i = 0; i < question->drive_count && r == 0; i++)
        if (saved_path_is_relative(question->drives[i]))
            r = saved_path_make(question->context->directory_fd, question->drives[i], err);
    for (size_t i = 0; i < question->drive_count; i++)
        confine_add_at(&confined, "--rw-at", question->drives[i], stand_in);
    if (question->has_taps)
        confine_add(&confined, "--own-tap", "");
    for (size_t i = 0; i < question->tap_count; i++)
        confine_add(&confined, "--own-tap", question->taps[i]);
    if (r == 0)
        r = firecracker_start(machine.hypervisor, question->context, &confined,
                              question->program.path, ret, err);
    arguments_finish(&confined);
    return r;
}

static int load(const struct question *question, struct vmm *vmm, struct error *err)
{
    const struct firecracker *firecracker = vmm->state;
    static char some_path[] = FIRECRACKER_VSOCK_NAME;
    const struct machine machine = {.vsock = question->has_no_vsock ? NULL : some_path};
    cJSON *body = firecracker_load_request(question->state, question->memory);
    firecracker_vsock_add(firecracker, &machine, body);
    if (question->has_huge_pages)
        json_add_string(body, "huge_pages", "None");
    struct vmm_api_call call = {.method = "PUT", .path = "/snapshot/load", .body = body};
    return vmm_api_call(question->context, vmm, &call, NULL, err);
}

static int ask_once(const struct question *question, cJSON **ret, struct error *err)
{
    struct vmm *vmm = NULL;
    auto_json cJSON *config = NULL;
    struct vmm_api_call call = {.method = "GET", .path = "/vm/config", .bare = true};
    int r = start(question, &vmm, err);
    if (r < 0)
        return r;
    r = load(question, vmm, err);
    if (r == 0)
        r = vmm_api_call(question->context, vmm, &call, &config, err);
    if (r < 0)
        return vmm_abandon(question->context, hypervisor_find("firecracker"), vmm, r, err);
    r = vmm_stop(vmm, err);
    vmm_close(vmm);
    if (r < 0)
        return r;
    cJSON *machine = (cJSON *)(uintptr_t)json_get(config, "machine-config");
    if (question->has_huge_pages && cJSON_IsObject(machine))
        json_set(machine, "huge_pages", cJSON_CreateString("2M"));
    *ret = steal_pointer(config);
    return 0;
}

/* ---- learning from a load that failed ---- */

static bool set(bool *flag)
{
    const bool is_new = !*flag;
    *flag = true;
    return is_new;
}

static bool note_no_vsock(struct question *question, const char *rest)
{
    (void)rest;
    return set(&question->has_no_vsock);
}

static bool note_huge_pages(struct question *question, const char *rest)
{
    struct firecracker firecracker;
    (void)rest;
    return firecracker_parse_version(question->program.version, &firecracker) &&
           firecracker_is_at_least(&firecracker, 1, 17) && set(&question->has_huge_pages);
}

static bool add_word(char **words, size_t *count, size_t max, char *word)
{
    for (size_t i = 0; word && i < *count; i++)
        if (strcmp(words[i], word) == 0) {
            free(word);
            return false;
        }
    if (!word || *count == max) {
        free(word);
        return false;
    }
    words[(*count)++] = word;
    return true;
}

static bool note_drive(struct question *question, const char *rest)
{
    return !saved_path_refuse(rest) && add_word(question->drives, &question->drive_count,
                                                array_length(question->drives), strdup(rest));
}

/* Their names are told when there is the device. */
static bool note_taps(struct question *question, const char *rest)
{
    (void)rest;
    return set(&question->has_taps);
}

static bool note_tap(struct question *question, const char *rest)
{
    const char *end = strstr(rest, ". Check");
    auto_free char *name = end ? strndup(rest, (size_t)(end - rest)) : NULL;
    return name && machine_tap_valid(name) &&
           add_word(question->taps, &question->tap_count, array_length(question->taps),
                    steal_pointer(name));
}

/* Firecracker's words, and what stands behind them. */
static const struct clue {
    const char *words;
    bool (*note)(struct question *question, const char *rest);
} clues[] = {
    {"Unknown Vsock Device", note_no_vsock},
    {"Cannot restore hugetlbfs backed snapshot", note_huge_pages},
    {"backing file: No such file or directory (os error 2) ", note_drive},
    {"open /dev/net/tun: No such file", note_taps},
    {"Invalid TUN/TAP Backend provided by ", note_tap},
};

/* False: nothing that would make another load better. */
static bool learn(struct question *question, const struct error *why)
{
    for (size_t i = 0; i < array_length(clues); i++) {
        const char *found = strstr(why->text, clues[i].words);
        if (found)
            return clues[i].note(question, found + strlen(clues[i].words));
    }
    return false;
}

static int ask(struct question *question, cJSON **ret, struct error *err)
{
    auto_close int fd = -1;
    int r = firecracker_find_program(question->context, &question->program, err);
    if (r == 0)
        r = firecracker_check_format(question->context, question->state, &question->program, err);
    if (r == 0)
        r = vmm_new_file(question->context, stand_in, &fd, err);
    if (r < 0)
        return r;
    do
        r = ask_once(question, ret, err);
    while (r == -EIO && learn(question, err));
    return r;
}

int firecracker_ask(const struct vmm_context *context, const char *memory, const char *state,
                    cJSON **ret, struct error *err)
{
    struct question question = {.context = context, .memory = memory, .state = state};
    struct error why = {0};
    int r = ask(&question, ret, &why);
    for (size_t i = 0; i < question.drive_count; i++)
        free(question.drives[i]);
    for (size_t i = 0; i < question.tap_count; i++)
        free(question.taps[i]);
    return r < 0 ? error_set(err, -r, "%s", why.text) : 0;
}
