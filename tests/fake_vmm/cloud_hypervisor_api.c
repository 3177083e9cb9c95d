/* SPDX-License-Identifier: MIT */
/* cloud_hypervisor_api: which calls there are, and when. Members are not looked at. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cloud_hypervisor.h"
#include "util/cleanup.h"
#include "util/json.h"

/* A call: 0 with the object of a GET, or -1 with why. */
typedef int act(struct fake *fake, const cJSON *body, struct fake_reply *reply, cJSON **ret,
                char *fault);

static int refuse(char *fault, const char *text)
{
    snprintf(fault, FAKE_TEXT_SIZE, "%s", text);
    return -1;
}

static int ping(struct fake *fake, const cJSON *body, struct fake_reply *reply, cJSON **ret,
                char *fault)
{
    (void)body;
    (void)reply;
    (void)fault;
    *ret = cJSON_CreateObject();
    cJSON_AddStringToObject(*ret, "build_version", fake->version);
    cJSON_AddStringToObject(*ret, "version", fake->version + 1);
    return 0;
}

static int info(struct fake *fake, const cJSON *body, struct fake_reply *reply, cJSON **ret,
                char *fault)
{
    static const char *const states[] = {"Created", "Running", "Paused"};
    (void)body;
    (void)fault;
    if (!fake->config) {
        reply->status = 404;
        return refuse(fault, "VM is not created");
    }
    *ret = cJSON_CreateObject();
    cJSON_AddItemToObject(*ret, "config", cJSON_Duplicate(fake->config, true));
    cJSON_AddStringToObject(*ret, "state", states[fake->state]);
    return 0;
}

static int create(struct fake *fake, const cJSON *body, struct fake_reply *reply, cJSON **ret,
                  char *fault)
{
    (void)reply;
    (void)ret;
    if (fake->config)
        return refuse(fault, "VM is already created");
    if (!json_get_text(json_get(body, "payload"), "kernel"))
        return refuse(fault, "Kernel is missing");
    fake->config = cJSON_Duplicate(body, true);
    return 0;
}

static int boot(struct fake *fake, const cJSON *body, struct fake_reply *reply, cJSON **ret,
                char *fault)
{
    (void)body;
    (void)reply;
    (void)ret;
    return fake->config ? cloud_hypervisor_boot(fake, fault) : refuse(fault, "VM is not created");
}

static int pause_vm(struct fake *fake, const cJSON *body, struct fake_reply *reply, cJSON **ret,
                    char *fault)
{
    (void)body;
    (void)reply;
    (void)ret;
    if (fake->state != FAKE_RUNNING)
        return refuse(fault, "Invalid transition: InvalidStateTransition(Paused, Paused)");
    pthread_mutex_lock(&fake->running);
    fake->state = FAKE_PAUSED;
    return 0;
}

static int resume(struct fake *fake, const cJSON *body, struct fake_reply *reply, cJSON **ret,
                  char *fault)
{
    (void)body;
    (void)reply;
    (void)ret;
    if (fake->state != FAKE_PAUSED)
        return refuse(fault, "Invalid transition: InvalidStateTransition(Running, Running)");
    vm_resume(fake);
    return 0;
}

/* Of a URL of a directory; NULL: it is none. */
static const char *folder_of(const cJSON *body, const char *name)
{
    static const char scheme[] = "file://";
    const char *url = json_get_text(body, name);
    struct stat file;
    if (!url || strncmp(url, scheme, strlen(scheme)) != 0)
        return NULL;
    url += strlen(scheme);
    return stat(url, &file) == 0 && S_ISDIR(file.st_mode) ? url : NULL;
}

static int snapshot(struct fake *fake, const cJSON *body, struct fake_reply *reply, cJSON **ret,
                    char *fault)
{
    (void)reply;
    (void)ret;
    const char *folder = folder_of(body, "destination_url");
    if (!folder)
        return refuse(fault, "Failed to parse the URL of the destination");
    if (fake->state != FAKE_PAUSED)
        return refuse(fault, "Trying to snapshot while VM is running");
    return cloud_hypervisor_save(fake, folder, fault);
}

static int restore(struct fake *fake, const cJSON *body, struct fake_reply *reply, cJSON **ret,
                   char *fault)
{
    (void)ret;
    const char *folder = folder_of(body, "source_url");
    if (fake->config)
        return refuse(fault, "VM is already created");
    if (!folder)
        return refuse(fault, "Failed to parse the URL of the source");
    return cloud_hypervisor_restore(fake, folder, &reply->end, fault);
}

/* The names are those that a Firecracker's calls of the same purpose have in FAKE_VMM_FAULT. */
static const struct call {
    const char *method, *path, *name;
    act *act;
    bool bare;
} calls[] = {
    {"GET", "/api/v1/vmm.ping", "version", ping, true},
    {"GET", "/api/v1/vm.info", "info", info, true},
    {"PUT", "/api/v1/vm.create", "machine-config", create, false},
    {"PUT", "/api/v1/vm.boot", "actions", boot, true},
    {"PUT", "/api/v1/vm.pause", "vm", pause_vm, true},
    {"PUT", "/api/v1/vm.resume", "vm", resume, true},
    {"PUT", "/api/v1/vm.snapshot", "create", snapshot, false},
    {"PUT", "/api/v1/vm.restore", "load", restore, false},
};

static const struct call *find(const char *method, const char *path)
{
    for (size_t i = 0; i < array_length(calls); i++)
        if (strcmp(calls[i].method, method) == 0 && strcmp(calls[i].path, path) == 0)
            return &calls[i];
    return NULL;
}

const char *api_name(const char *method, const char *path)
{
    const struct call *call = find(method, path);
    return call ? call->name : "unknown";
}

char *api_refusal(const char *words)
{
    auto_json cJSON *list = cJSON_CreateArray();
    cJSON_AddItemToArray(list, cJSON_CreateString("Error from API"));
    cJSON_AddItemToArray(list, cJSON_CreateString(words));
    return cJSON_PrintUnformatted(list);
}

void api_call(struct fake *fake, const char *method, const char *path, const char *body,
              size_t body_size, struct fake_reply *ret)
{
    const struct call *call = find(method, path);
    char fault[FAKE_TEXT_SIZE] = "Bad Request";
    auto_json cJSON *json = NULL, *answer = NULL;
    int r = -1;
    *ret = (struct fake_reply){.status = call ? 500 : 404};
    if (call && call->bare != (body_size == 0))
        ret->status = 400;
    else if (call && !call->bare && json_parse(body, body_size, &json, NULL) < 0)
        ret->status = 400;
    else if (call)
        r = call->act(fake, json, ret, &answer, fault);
    if (r < 0) {
        ret->body = api_refusal(fault);
        fake_log(fake, "HTTP API error response: %s", fault);
        return;
    }
    ret->status = answer ? 200 : 204;
    ret->body = answer ? cJSON_PrintUnformatted(answer) : NULL;
}
