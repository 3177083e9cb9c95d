/* SPDX-License-Identifier: MIT */
/* What the guest library reads of an identity. Applying one changes the machine that it runs on:
 * that is tested in a VM (vm/test_memory.c). */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "guest/internal.h"
#include "test.h"

#define GENERATION "00112233445566778899aabbccddeeff"
#define SEED GENERATION "ffeeddccbbaa99887766554433221100"
#define MEMBER(id, generation, seed, time)                                                         \
    "{\"a\":1,\"fork\":{\"id\":\"" id "\",\"generation\":\"" generation "\",\"seed\":\"" seed      \
    "\",\"time\":" time "}}"

static int read_from(const char *payload, struct hypefs_identity *ret)
{
    static struct hypefs_mailbox box;
    box.in_hand = payload != NULL;
    box.payload_size = payload ? strlen(payload) : 0;
    snprintf(box.payload, sizeof box.payload, "%s", payload ? payload : "");
    return hypefs_identity_read(&box, ret);
}

static void identity_is_read_as_the_host_writes_it(void **state)
{
    (void)state;
    struct hypefs_identity identity;
    assert_int_equal(read_from(MEMBER("web-1", GENERATION, SEED, "1795557600000000001"), &identity),
                     0);
    assert_string_equal(identity.id, "web-1");
    assert_string_equal(identity.generation, GENERATION);
    assert_int_equal(identity.time_ns, INT64_C(1795557600000000001));
    assert_int_equal(identity.seed[1], 0x11);
    assert_int_equal(identity.seed[HYPEFS_IDENTITY_SEED_SIZE - 2], 0x11);
    /* A host whose clock is not set. */
    assert_int_equal(read_from(MEMBER("web-1", GENERATION, SEED, "                 7"), &identity),
                     0);
    assert_int_equal(identity.time_ns, 7);
}

static void identity_that_is_not_complete_is_refused(void **state)
{
    static const char *const wrong[] = {
        "{\"fork\":{}}",
        "{\"fork\":7}",
        "{\"fork\":null}",
        MEMBER("", GENERATION, SEED, "1"),
        MEMBER("web-1", "", SEED, "1"),
        MEMBER("web-1", GENERATION "0", SEED, "1"),
        MEMBER("web-1", GENERATION, GENERATION, "1"),
        MEMBER("web-1", GENERATION, SEED "00", "1"),
        MEMBER("web-1", GENERATION, "x" SEED, "1"),
        MEMBER("web-1", GENERATION, SEED, "-1"),
        MEMBER("web-1", GENERATION, SEED, "1.5"),
        MEMBER("web-1", GENERATION, SEED, "\"1\""),
        MEMBER("web-1", GENERATION, SEED, "9223372036854775808"),
        "{\"fork\":{\"id\":\"a\",\"generation\":\"b\",\"seed\":\"" SEED "\"}}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct hypefs_identity identity = {.time_ns = 17};
        if (read_from(wrong[i], &identity) != -EINVAL)
            fail_msg("%s", wrong[i]);
        assert_int_equal(identity.time_ns, 17);
    }
}

static void identity_that_is_not_there_is_enoent(void **state)
{
    struct hypefs_identity identity;
    (void)state;
    assert_int_equal(read_from("{}", &identity), -ENOENT);
    assert_int_equal(read_from("{\"a\":{\"fork\":{}}}", &identity), -ENOENT);
    assert_int_equal(read_from(NULL, &identity), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity_is_read_as_the_host_writes_it),
        cmocka_unit_test(identity_that_is_not_complete_is_refused),
        cmocka_unit_test(identity_that_is_not_there_is_enoent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
