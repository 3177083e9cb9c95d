/* SPDX-License-Identifier: MIT */
/* The names in a store, and what else is told in its files without knowing them (store.h). */
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "store/store.h"
#include "util/cleanup.h"
#include "util/hex.h"

const char *const store_kind_names[STORE_KINDS] = {"snapshots", "instances"};

/* What lies in forks/ beside the drafts and records, or will. */
static const char *const reserved_ids[] = {"new", "commit"};

const char store_id_rule[] =
    "1 to 63 of a-z, 0-9 and \"-\", not \"-\" at the beginning or end, not \"new\" or \"commit\"";

bool store_id_valid(const char *id)
{
    size_t size = strlen(id);
    if (size < 1 || size > STORE_ID_MAX || id[0] == '-' || id[size - 1] == '-')
        return false;
    for (size_t i = 0; i < array_length(reserved_ids); i++)
        if (strcmp(id, reserved_ids[i]) == 0)
            return false;
    return strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == size;
}

int store_check_id(const char *id, struct error *err)
{
    return store_id_valid(id)
               ? 0
               : error_set(err, EINVAL, "\"%.80s\" is not an id: %s", id, store_id_rule);
}

void store_random_hex(char *ret, size_t bytes)
{
    enum { AT_ONCE = 16 };
    uint8_t random[AT_ONCE];
    *ret = '\0';
    for (size_t done = 0, count; done < bytes; done += count) {
        count = bytes - done < AT_ONCE ? bytes - done : AT_ONCE;
        while (getrandom(random, count, 0) != (ssize_t)count)
            ;
        hex_encode(random, count, ret + 2 * done);
    }
}

void store_time_now(char ret[STORE_TIME_SIZE])
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(ret, STORE_TIME_SIZE, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(ret + used, STORE_TIME_SIZE - used, ".%03dZ", (int)(now.tv_nsec / 1000000));
}

void store_hidden_name(const char *prefix, char ret[static STORE_HIDDEN_SIZE])
{
    size_t size = strlen(prefix);
    memcpy(ret, prefix, size);
    store_random_hex(ret + size, 8);
}
