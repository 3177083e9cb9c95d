/* SPDX-License-Identifier: MIT */
#include "guest/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PATH_SIZE = 256, TEXT_SIZE = 64, PTP_CLOCKS = 8, MS_PER_S = 1000, NS_PER_MS = 1000000 };

/* "" if it cannot be read. */
static void read_text(const char *root, const char *path, char ret[static TEXT_SIZE])
{
    char whole[PATH_SIZE];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    int fd = open(whole, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, ret, TEXT_SIZE - 1) : 0;
    ret[size > 0 ? size : 0] = '\0';
    if (fd >= 0)
        close(fd);
}

static int64_t to_ms(const struct timespec *time)
{
    return (int64_t)time->tv_sec * MS_PER_S + time->tv_nsec / NS_PER_MS;
}

/* By sysfs: the device itself can be opened by one program at a time. */
static int read_rtc(const char *root, int64_t *ret)
{
    char text[TEXT_SIZE], end;
    int64_t seconds;
    read_text(root, "/sys/class/rtc/rtc0/since_epoch", text);
    if (sscanf(text, "%" SCNd64 "%c", &seconds, &end) != 2 || end != '\n' || seconds <= 0 ||
        seconds > INT64_MAX / MS_PER_S - 1)
        return -ENODEV;
    *ret = seconds * MS_PER_S + MS_PER_S / 2;
    return 0;
}

/* Of the kernel's module ptp_kvm; other PTP clocks need not tell the host's time. */
static int read_ptp(const char *root, int64_t *ret)
{
    char path[PATH_SIZE], text[TEXT_SIZE];
    struct timespec time;
    for (int i = 0; i < PTP_CLOCKS; i++) {
        snprintf(path, sizeof path, "/sys/class/ptp/ptp%d/clock_name", i);
        read_text(root, path, text);
        if (strcmp(text, "KVM virtual PTP\n") != 0)
            continue;
        snprintf(path, sizeof path, "%s/dev/ptp%d", root, i);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return -errno;
        int r = clock_gettime((clockid_t)(~(unsigned)fd << 3 | 3), &time) < 0 ? -errno : 0;
        close(fd);
        if (r == 0)
            *ret = to_ms(&time);
        return r;
    }
    return -ENODEV;
}

int clock_host_ms(const char *root, int64_t *ret)
{
    return read_ptp(root, ret) == 0 ? 0 : read_rtc(root, ret);
}

int clock_mend(const char *root, int64_t *ret_late_ms)
{
    struct timespec now;
    int64_t host;
    int r = clock_host_ms(root, &host);
    if (r < 0)
        return r;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t late = host - to_ms(&now);
    *ret_late_ms = 0;
    if (late <= CLOCK_TOLERANCE_MS && late >= -CLOCK_TOLERANCE_MS)
        return 0;
    now = (struct timespec){.tv_sec = (time_t)(host / MS_PER_S),
                            .tv_nsec = (long)(host % MS_PER_S) * NS_PER_MS};
    if (clock_settime(CLOCK_REALTIME, &now) < 0)
        return -errno;
    *ret_late_ms = late;
    return 0;
}
