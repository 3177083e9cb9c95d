/* SPDX-License-Identifier: MIT */
#include "hypervisor/cloud_hypervisor_control.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "hypervisor/machine.h"
#include "hypervisor/confine.h"
#include "hypervisor/vmm_api.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/process.h"

enum {
    PROBE_MS = 10000,
    PROBE_OUTPUT_MAX = 4096,
    /* Before, a pause did not wait for the requests of disks; and what it says where memory-ranges
     * is in the way had not the name in it. */
    VERSION_LEAST = 53,
    OVERLAY_COMMITS = 81, /* after that */
};

static const char program_name[] = "cloud-hypervisor";

/* ---- the program ---- */

/* The word at the beginning of a text, as a record of a machine has it. */
static void read_version(const char *text, char ret[static PROGRAM_VERSION_SIZE])
{
    size_t size = 0;
    for (; size + 1 < PROGRAM_VERSION_SIZE && text[size] && !isspace((unsigned char)text[size]);
         size++)
        ret[size] =
            isalnum((unsigned char)text[size]) || strchr("._-", text[size]) ? text[size] : '_';
    ret[size] = '\0';
}

static int probe(int cancel_fd, struct program *ret, struct error *err)
{
    const char *const arguments[] = {ret->path, "--version", NULL};
    static const char before[] = "cloud-hypervisor ";
    auto_free char *text = NULL;
    int r = process_output(-1, arguments, PROBE_OUTPUT_MAX, PROBE_MS, cancel_fd, &text, err);
    if (r < 0)
        return r;
    const char *found = strstr(text, before);
    if (found)
        read_version(found + strlen(before), ret->version);
    return found && ret->version[0]
               ? 0
               : error_set(err, EIO, "%s --version does not print a version of Cloud Hypervisor",
                           ret->path);
}

/* "v53.0" or "v53.0-246-gae44c29". One whose number cannot be read is none that is too old. */
int cloud_hypervisor_find(const struct vmm_context *context, struct program *ret, struct error *err)
{
    unsigned major;
    int r = programs_find(context->programs, context->binary ? context->binary : program_name,
                          probe, context->cancel_fd, ret, err);
    if (r == 0 && sscanf(ret->version, "v%4u.", &major) == 1 && major < VERSION_LEAST)
        r = error_set(err, EOPNOTSUPP, "%s is Cloud Hypervisor %s, and v%d or later is needed",
                      ret->path, ret->version, VERSION_LEAST);
    return r;
}

/* In v53.0 a pause leaves a part of an overlay's tables in memory, so that a copy of the file lacks
 * what was written last. And 81 commits later the last error that loses data was known. */
bool cloud_hypervisor_has_overlays(const char *version)
{
    int major, minor, commits = 0;
    if (!version || sscanf(version, "v%4d.%4d-%6d", &major, &minor, &commits) < 2)
        return false;
    return major > VERSION_LEAST || (major == VERSION_LEAST && commits >= OVERLAY_COMMITS);
}

static int spawn(const struct hypervisor *hypervisor, const struct vmm_context *context,
                 const struct arguments *confine, const char *program, struct vmm **ret,
                 struct error *err)
{
    char *arguments[] = {(char *)(uintptr_t)program, (char[]){"--api-socket"},
                         (char[]){VMM_API_SOCKET_NAME}, NULL};
    return vmm_api_spawn(hypervisor, context, arguments, confine, ret, err);
}

/* Nothing in what it saves names its version, and it takes what another has saved. */
static int check_version(const struct vmm_context *context, struct vmm *vmm,
                         const struct program *program, struct error *err)
{
    auto_json cJSON *answer = NULL;
    int r = vmm_api_greet(context, vmm, "/api/v1/vmm.ping", &answer, err);
    if (r < 0)
        return r;
    const char *told = json_get_text(answer, "build_version");
    char version[PROGRAM_VERSION_SIZE];
    if (!told)
        return error_set(err, EIO, "GET /api/v1/vmm.ping: it answers without a build_version");
    read_version(told, version);
    return strcmp(version, program->version) == 0
               ? 0
               : error_set(err, EIO,
                           "GET /api/v1/vmm.ping: it is %s, and its --version said %s: has it been "
                           "replaced? Then mount again",
                           version, program->version);
}

int cloud_hypervisor_start(const struct vmm_context *context, const struct machine *machine,
                           const char *image, const struct program *program, struct vmm **ret,
                           struct error *err)
{
    struct arguments confined = {0};
    int r = machine_check_taps(machine, err);
    if (r == 0 && context->confine)
        confine_begin(&confined, context, machine, image, program->path);
    if (r == 0)
        r = spawn(machine->hypervisor, context, &confined, program->path, ret, err);
    arguments_finish(&confined);
    return r == 0 ? check_version(context, *ret, program, err) : r;
}

/* ---- requests ---- */

int cloud_hypervisor_put(const struct vmm_context *context, struct vmm *vmm, const char *path,
                         cJSON *body, struct error *err)
{
    struct vmm_api_call call = {.method = "PUT", .path = path, .body = body};
    return vmm_api_call(context, vmm, &call, NULL, err);
}

int cloud_hypervisor_put_bare(const struct vmm_context *context, struct vmm *vmm, const char *path,
                              struct error *err)
{
    struct vmm_api_call call = {.method = "PUT", .path = path, .bare = true};
    return vmm_api_call(context, vmm, &call, NULL, err);
}
