/* SPDX-License-Identifier: MIT */
/* Any bytes as the text of an instance's config. One that is taken says the same when it is printed
 * with all its defaults and read again. */
#include "fuzz.h"
#include "instance/config.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/utf8.h"

bool fuzz(const uint8_t *data, size_t size)
{
    struct machine machine, again;
    struct error err = {0};
    int r = config_parse((const char *)data, size, &machine, &err);
    if (r < 0) {
        MUST(err.code == -r && err.text[0] && utf8_valid(err.text, strlen(err.text)));
        return false;
    }
    MUST(machine.memory_bytes > 0 && machine.vcpus > 0 && machine.hypervisor &&
         machine.disk_count <= CONFIG_DISKS_MAX);
    auto_json cJSON *json = config_to_json(&machine);
    auto_free char *text = json_print(json);
    MUST(text);
    MUST(config_parse(text, strlen(text), &again, &err) == 0);
    auto_json cJSON *json_again = config_to_json(&again);
    MUST(cJSON_Compare(json, json_again, true));
    machine_finish(&machine);
    machine_finish(&again);
    return true;
}
