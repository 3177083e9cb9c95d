/* SPDX-License-Identifier: MIT */
/* What the agent reads of the VM's clocks. That it sets its own is tested in a VM
 * (vm/test_agent.c). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/clock.h"
#include "test.h"

static const char *const directories[] = {"/sys", "/sys/class", "/sys/class/rtc",
                                          "/sys/class/rtc/rtc0"};
enum { DIRECTORIES = sizeof directories / sizeof *directories };

struct place {
    char root[64], rtc[128];
};

static int set_up(void **state)
{
    static struct place place;
    char path[128];
    snprintf(place.root, sizeof place.root, "/tmp/hypefs-clock-XXXXXX");
    assert_non_null(mkdtemp(place.root));
    for (size_t i = 0; i < DIRECTORIES; i++) {
        snprintf(path, sizeof path, "%s%s", place.root, directories[i]);
        assert_int_equal(mkdir(path, 0755), 0);
    }
    snprintf(place.rtc, sizeof place.rtc, "%s/sys/class/rtc/rtc0/since_epoch", place.root);
    *state = &place;
    return 0;
}

static int tear_down(void **state)
{
    const struct place *place = *state;
    char path[128];
    unlink(place->rtc);
    for (size_t i = DIRECTORIES; i-- > 0;) {
        snprintf(path, sizeof path, "%s%s", place->root, directories[i]);
        rmdir(path);
    }
    return rmdir(place->root);
}

static void put(const struct place *place, const char *text)
{
    FILE *file = fopen(place->rtc, "we");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void time_of_the_real_time_clock_is_the_middle_of_its_second(void **state)
{
    const struct place *place = *state;
    int64_t ms = 0;
    put(place, "1795557600\n");
    assert_int_equal(clock_host_ms(place->root, &ms), 0);
    assert_int_equal(ms, INT64_C(1795557600500));
}

static void clock_that_is_none_or_tells_nonsense_is_not_there(void **state)
{
    static const char *const bad[] = {"",
                                      "\n",
                                      "x\n",
                                      "-1\n",
                                      "0\n",
                                      "12",
                                      "12 13\n",
                                      "99999999999999999999\n",
                                      "9223372036854775807\n"};
    const struct place *place = *state;
    int64_t ms = 7;
    assert_int_equal(clock_host_ms(place->root, &ms), -ENODEV);
    assert_int_equal(clock_mend(place->root, &ms), -ENODEV);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(place, bad[i]);
        assert_int_equal(clock_host_ms(place->root, &ms), -ENODEV);
    }
    assert_int_equal(ms, 7);
}

#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(time_of_the_real_time_clock_is_the_middle_of_its_second),
        test(clock_that_is_none_or_tells_nonsense_is_not_there),
    };
    return cmocka_run_group_tests_name("guest_clock", tests, NULL, NULL);
}
