/* SPDX-License-Identifier: MIT */
#include "hypervisor/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include "hypervisor/disks.h"
#include "mailbox/address.h"
#include "util/cleanup.h"
#include "util/json.h"

enum {
    CPUINFO_MAX = 16384, /* the first processor's part is enough */
    HASH_SIZE = 17,      /* 64 bits in hex with the NUL */
    TICK_TRIES = 16,
    TICK_NS = 20000000,
    NS_PER_S = 1000000000,
    NS_PER_MS = 1000000,
};

const char *const machine_board_names[MACHINE_BOARDS + 1] = {"microvm", "q35", NULL};
const char *const machine_accel_names[ACCELS + 1] = {"auto", "kvm", "tcg", NULL};
const char *const machine_network_names[NETWORK_MODES + 1] = {"none", "user", "tap", NULL};

static void finish_interfaces(struct machine *machine)
{
    for (size_t i = 0; i < machine->interface_count; i++) {
        free(machine->interfaces[i].id);
        free(machine->interfaces[i].tap);
        free(machine->interfaces[i].mac);
    }
    free(machine->interfaces);
}

uint64_t machine_log_max(const struct machine *machine)
{
    return machine->console_max_bytes ? machine->console_max_bytes : MACHINE_LOG_MAX_DEFAULT;
}

void machine_finish(struct machine *machine)
{
    if (!machine)
        return;
    disks_finish(machine);
    finish_interfaces(machine);
    free(machine->vsock);
    free(machine->kernel);
    free(machine->initrd);
    free(machine->cmdline);
    free(machine->type);
    free(machine->cpu);
    free(machine->host_cpu);
    free(machine->version);
    *machine = (struct machine){0};
}

static int replace_tap(struct machine_interface *interface, const char *tap, struct error *err)
{
    char *copy = strdup(tap);
    if (!copy)
        return error_set(err, ENOMEM, "no memory for a machine's description");
    interface->replaced = interface->replaced || strcmp(interface->tap, tap) != 0;
    free(interface->tap);
    interface->tap = copy;
    return 0;
}

int machine_set_tap(struct machine *machine, const char *tap, struct error *err)
{
    if (machine->interface_count == 0)
        return error_set(err, EINVAL, "the machine has no interface on a tap");
    if (machine->interface_count > 1)
        return error_set(err, EINVAL,
                         "the machine has %zu interfaces on taps, and only one tap is given: name "
                         "them with \"taps\"",
                         machine->interface_count);
    return replace_tap(&machine->interfaces[0], tap, err);
}

static struct machine_interface *find_interface(const struct machine *machine, const char *id)
{
    for (size_t i = 0; i < machine->interface_count; i++)
        if (machine->interfaces[i].id && strcmp(machine->interfaces[i].id, id) == 0)
            return &machine->interfaces[i];
    return NULL;
}

/* Each is one VM's, and there one interface's. */
static int check_distinct(const struct machine *machine, struct error *err)
{
    for (size_t i = 0; i < machine->interface_count; i++)
        for (size_t k = 0; k < i; k++)
            if (strcmp(machine->interfaces[i].tap, machine->interfaces[k].tap) == 0)
                return error_set(err, EINVAL, "two interfaces of the machine are on the tap %s",
                                 machine->interfaces[i].tap);
    return 0;
}

int machine_set_taps(struct machine *machine, const cJSON *taps, struct error *err)
{
    const cJSON *tap;
    cJSON_ArrayForEach (tap, taps) {
        struct machine_interface *interface = find_interface(machine, tap->string);
        if (!interface)
            return error_set(err, EINVAL,
                             "the machine has no interface with the id \"%.40s\" on a tap "
                             "(QEMU's has no id: use \"tap\")",
                             tap->string);
        int r = replace_tap(interface, tap->valuestring, err);
        if (r < 0)
            return r;
    }
    return check_distinct(machine, err);
}

void machine_settle(struct machine *machine)
{
    for (size_t i = 0; i < machine->disk_count; i++)
        if (machine->disks[i].frozen)
            free(steal_pointer(machine->disks[i].saved_path));
    for (size_t i = 0; i < machine->interface_count; i++)
        machine->interfaces[i].replaced = false;
    machine->huge_pages = false;
}

int machine_check_taps(const struct machine *machine, struct error *err)
{
    for (size_t i = 0; i < machine->interface_count; i++) {
        const char *tap = machine->interfaces[i].tap;
        if (if_nametoindex(tap) == 0)
            return error_set(err, EIO, "the tap %s: %s: make it first, with ip tuntap add", tap,
                             strerrordesc_np(errno));
    }
    return 0;
}

/* True, too, if the host does not tell. */
static bool is_tap(const char *name)
{
    struct ethtool_drvinfo driver = {.cmd = ETHTOOL_GDRVINFO};
    struct ifreq request = {.ifr_data = (void *)&driver};
    auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    if (fd < 0 || ioctl(fd, SIOCETHTOOL, &request) < 0)
        return errno != EOPNOTSUPP;
    return strcmp(driver.driver, "tun") == 0 && strcmp(driver.bus_info, "tap") == 0;
}

void machine_explain_taps(const struct machine *machine, struct error *err)
{
    for (size_t i = 0; i < machine->interface_count; i++) {
        const char *tap = machine->interfaces[i].tap;
        if (if_nametoindex(tap) != 0 && !is_tap(tap))
            error_append(err, " (the interface %s is no tap: give one that ip tuntap add has made)",
                         tap);
        else if (err && strstr(err->text, "os error 1)"))
            error_append(err,
                         " (the tap %s may be another user's or a group's: make it with neither, ip "
                         "tuntap add %s mode tap)",
                         tap, tap);
    }
}

bool machine_tap_valid(const char *tap)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    size_t length = strlen(tap);
    return length > 0 && length <= MACHINE_TAP_MAX && strspn(tap, allowed) == length &&
           strcmp(tap, ".") != 0 && strcmp(tap, "..") != 0;
}

bool machine_mac_valid(const char *mac)
{
    uint8_t bytes[ADDRESS_MAC_SIZE];
    return address_parse_mac(mac, bytes);
}

/* The value in the line "key : value" of the first processor, or NULL; `ret_size` bytes. */
static const char *cpuinfo_value(const char *cpuinfo, const char *key, size_t *ret_size)
{
    size_t key_size = strlen(key);
    for (const char *line = cpuinfo; *line && *line != '\n';) {
        size_t size = strcspn(line, "\n");
        const char *colon = memchr(line, ':', size);
        if (colon && strncmp(line, key, key_size) == 0 &&
            strspn(line + key_size, "\t ") == (size_t)(colon - line) - key_size) {
            *ret_size = size - (size_t)(colon + 1 - line);
            return colon + 1;
        }
        line += size + (line[size] == '\n');
    }
    return NULL;
}

bool machine_cpuinfo_has(const char *cpuinfo, const char *flag)
{
    size_t size = 0;
    const char *flags = cpuinfo_value(cpuinfo, "flags", &size);
    for (size_t i = 0; flags && i < size;) {
        size_t length = strcspn(flags + i, " \n");
        if (length == strlen(flag) && memcmp(flags + i, flag, length) == 0)
            return true;
        i += length + 1;
    }
    return false;
}

int machine_cpuinfo_hash(const char *cpuinfo, char **ret, struct error *err)
{
    static const char *const keys[] = {"vendor_id",       "cpu family",       "model",
                                       "model name",      "stepping",         "flags",
                                       "CPU implementer", "CPU architecture", "CPU variant",
                                       "CPU part",        "CPU revision",     "Features"};
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < array_length(keys); i++) {
        size_t size = 0;
        const char *value = cpuinfo_value(cpuinfo, keys[i], &size);
        for (size_t j = 0; j <= size; j++) {
            hash ^= j < size ? (unsigned char)value[j] : '\n';
            hash *= UINT64_C(0x100000001b3);
        }
    }
    char *text = malloc(HASH_SIZE);
    if (!text)
        return error_set(err, ENOMEM, "no memory for the host's CPU");
    snprintf(text, HASH_SIZE, "%016" PRIx64, hash);
    *ret = text;
    return 0;
}

static int read_cpuinfo(char text[static CPUINFO_MAX + 1], struct error *err)
{
    auto_fclose FILE *file = fopen("/proc/cpuinfo", "re");
    if (!file)
        return error_errno(err, errno, "/proc/cpuinfo cannot be opened");
    size_t size = fread(text, 1, CPUINFO_MAX, file);
    text[size] = '\0';
    return 0;
}

int machine_host_cpu(char **ret, struct error *err)
{
    char cpuinfo[CPUINFO_MAX + 1];
    int r = read_cpuinfo(cpuinfo, err);
    return r < 0 ? r : machine_cpuinfo_hash(cpuinfo, ret, err);
}

static bool host_virtualizes(void)
{
    auto_close int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        return false;
#if defined(__x86_64__)
    /* A device alone is not enough: on some nested hosts a stock kernel hangs in it. */
    char cpuinfo[CPUINFO_MAX + 1];
    return read_cpuinfo(cpuinfo, NULL) == 0 &&
           (machine_cpuinfo_has(cpuinfo, "vmx") || machine_cpuinfo_has(cpuinfo, "svm"));
#else
    return true;
#endif
}

enum machine_accel machine_resolve_accel(enum machine_accel wanted)
{
    if (wanted != ACCEL_AUTO)
        return wanted;
    return host_virtualizes() ? ACCEL_KVM : ACCEL_TCG;
}

const struct machine_disk *machine_find_disk(const struct machine *machine, const char *id)
{
    for (size_t i = 0; i < machine->disk_count; i++)
        if (id && machine->disks[i].id && strcmp(machine->disks[i].id, id) == 0)
            return &machine->disks[i];
    return NULL;
}

static int set_id(char **place, const char *kind, size_t index, struct error *err)
{
    free(*place);
    if (asprintf(place, "%s%zu", kind, index) >= 0)
        return 0;
    *place = NULL;
    return error_set(err, ENOMEM, "no memory for a machine's description");
}

static bool is_taken(const struct machine *machine, const struct machine_disk *disk)
{
    for (size_t i = 0; i < machine->disk_count; i++) {
        const struct machine_disk *other = &machine->disks[i];
        if (other != disk && other->id && strcmp(other->id, disk->id) == 0)
            return true;
    }
    return false;
}

int machine_check_plain(const struct machine *machine, struct error *err)
{
    const char *title = machine->hypervisor->title;
    if (machine->network == NETWORK_USER)
        return error_set(err, EINVAL,
                         "\"network\": %s has no network of its own: use \"mode\": \"none\", or "
                         "\"tap\"",
                         title);
    if (machine->board != MACHINE_MICROVM)
        return error_set(err, EINVAL, "\"machine\": with %s it can only be \"microvm\"", title);
    if (machine->accel == ACCEL_TCG)
        return error_set(err, EINVAL, "\"accel\": %s runs VMs with \"kvm\" only", title);
    for (size_t i = 0; i < machine->disk_count; i++)
        if (strcmp(machine->disks[i].format, "raw") != 0)
            return error_set(err, EINVAL, "disk %zu: with %s the format can only be \"raw\"", i,
                             title);
    return 0;
}

int machine_name_devices(struct machine *machine, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < machine->disk_count; i++) {
        struct machine_disk *disk = &machine->disks[i];
        for (size_t number = i; r == 0 && (!disk->id || is_taken(machine, disk)); number++)
            r = set_id(&disk->id, "disk", number, err);
    }
    for (size_t i = 0; i < machine->interface_count && r == 0; i++)
        r = set_id(&machine->interfaces[i].id, "net", i, err);
    return r;
}

int machine_check_host_cpu(const struct machine *machine, struct error *err)
{
    if (machine->accel != ACCEL_KVM || !machine->host_cpu)
        return 0;
    auto_free char *host_cpu = NULL;
    int r = machine_host_cpu(&host_cpu, err);
    if (r < 0)
        return r;
    if (strcmp(host_cpu, machine->host_cpu) != 0)
        return error_set(err, EIO,
                         "the snapshot was saved under KVM on another CPU than this host's");
    return 0;
}

#if defined(__x86_64__)
struct tick {
    uint64_t counter;
    int64_t ns;
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* Counter and clock at one moment: of several tries the one that was interrupted least. */
static struct tick read_tick(void)
{
    struct tick best = {0};
    int64_t least = INT64_MAX;
    for (int i = 0; i < TICK_TRIES; i++) {
        int64_t before = now_ns();
        uint64_t counter = __builtin_ia32_rdtsc();
        int64_t took = now_ns() - before;
        if (took < least) {
            least = took;
            best = (struct tick){.counter = counter, .ns = before + took / 2};
        }
    }
    return best;
}

unsigned machine_host_tsc_khz(void)
{
    char cpuinfo[CPUINFO_MAX + 1];
    if (read_cpuinfo(cpuinfo, NULL) < 0 || !machine_cpuinfo_has(cpuinfo, "constant_tsc"))
        return 0;
    struct tick first = read_tick();
    nanosleep(&(struct timespec){.tv_nsec = TICK_NS}, NULL);
    struct tick last = read_tick();
    double ms = (double)(last.ns - first.ns) / NS_PER_MS;
    return (unsigned)((double)(last.counter - first.counter) / ms + 0.5);
}
#else
unsigned machine_host_tsc_khz(void)
{
    return 0;
}
#endif
