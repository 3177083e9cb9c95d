/* SPDX-License-Identifier: MIT */
/* The bytes below are the contract with guests: they are written out, not computed. */
#include <string.h>

#include "mailbox/frame.h"
#include "test.h"

#define FORK_MAGIC "HYPEMAN_FORK_MAILBOX_V1\0"
#define NETWORK_MAGIC "HYPEMAN_RESUME_NETWORK_MAILBOX_V1\0"
#define TOKEN_30 "abcdefghijklmnopqrstuvwxyz0123"

static const uint8_t fork_vector[256] = {
    0x48, 0x59, 0x50, 0x45, 0x4D, 0x41, 0x4E, 0x5F, 0x46, 0x4F, 0x52, 0x4B, /* HYPEMAN_FORK */
    0x5F, 0x4D, 0x41, 0x49, 0x4C, 0x42, 0x4F, 0x58, 0x5F, 0x56, 0x31, 0x00, /* _MAILBOX_V1 NUL */
    0x6B, 0x65, 0x72, 0x6E, 0x65, 0x6C, 0x2E, 0x69, 0x64, 0x2E, 0x76, 0x31, /* kernel.id.v1 */
    0x00, 0x74, 0x6F, 0x6B, 0x65, 0x6E, 0xFF,                               /* NUL token 0xFF */
};

static const uint8_t network_vector[64] = {
    0x48, 0x59, 0x50, 0x45, 0x4D, 0x41, 0x4E, 0x5F, 0x52, 0x45, 0x53, 0x55, /* HYPEMAN_RESU */
    0x4D, 0x45, 0x5F, 0x4E, 0x45, 0x54, 0x57, 0x4F, 0x52, 0x4B, 0x5F, 0x4D, /* ME_NETWORK_M */
    0x41, 0x49, 0x4C, 0x42, 0x4F, 0x58, 0x5F, 0x56, 0x31, 0x00,             /* AILBOX_V1 NUL */
    0x74, 0x6F, 0x6B, 0x65, 0x6E,                                           /* token */
};

static struct frame_marker marker_of(enum frame_kind kind, const char *name, const char *token)
{
    struct frame_marker marker = {.kind = kind, .token_size = strlen(token)};
    strncpy(marker.name, name, sizeof marker.name - 1);
    memcpy(marker.token, token, marker.token_size);
    return marker;
}

static void layouts_are_those_of_version_1(void **state)
{
    const struct frame_layout *fork = &frame_layouts[FRAME_FORK];
    const struct frame_layout *network = &frame_layouts[FRAME_NETWORK];

    (void)state;
    assert_int_equal(fork->magic_size, 24);
    assert_memory_equal(fork->magic, FORK_MAGIC, 24);
    assert_int_equal(fork->sequence, 256);
    assert_int_equal(fork->length, 260);
    assert_int_equal(fork->payload, 264);
    assert_int_equal(FRAME_SIZE - fork->payload, FRAME_CAPACITY);
    assert_int_equal(network->magic_size, 34);
    assert_memory_equal(network->magic, NETWORK_MAGIC, 34);
    assert_int_equal(network->sequence, 64);
    assert_int_equal(network->length, 68);
    assert_int_equal(network->payload, 72);
}

static void encode_marker_of_a_fork_mailbox_gives_the_known_bytes(void **state)
{
    struct frame_marker marker = marker_of(FRAME_FORK, "kernel.id.v1", "token\xFF");
    uint8_t bytes[256];

    (void)state;
    memset(bytes, 0xAA, sizeof bytes);
    assert_int_equal(frame_encode_marker(&marker, bytes), 43);
    assert_memory_equal(bytes, fork_vector, sizeof bytes);
}

static void encode_marker_of_a_network_mailbox_gives_the_known_bytes(void **state)
{
    struct frame_marker marker = marker_of(FRAME_NETWORK, "", "token");
    uint8_t bytes[65];

    (void)state;
    memset(bytes, 0xAA, sizeof bytes);
    assert_int_equal(frame_encode_marker(&marker, bytes), 39);
    assert_memory_equal(bytes, network_vector, 64);
    assert_int_equal(bytes[64], 0xAA);
}

static void encode_marker_when_name_or_token_is_not_valid_writes_nothing(void **state)
{
    static const struct {
        enum frame_kind kind;
        const char *name, *token;
    } bad[] = {
        {FRAME_FORK, "", "t"},       {FRAME_FORK, "a b", "t"},          {FRAME_FORK, ".", "t"},
        {FRAME_FORK, "n", ""},       {FRAME_FORK, "n", " \t"},          {FRAME_NETWORK, "", ""},
        {FRAME_NETWORK, "", "\n\r"}, {FRAME_NETWORK, "", TOKEN_30 "4"},
    };
    uint8_t bytes[256], before[256];

    (void)state;
    memset(bytes, 0xAA, sizeof bytes);
    memset(before, 0xAA, sizeof before);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct frame_marker marker = marker_of(bad[i].kind, bad[i].name, bad[i].token);
        assert_int_equal(frame_encode_marker(&marker, bytes), 0);
        assert_memory_equal(bytes, before, sizeof bytes);
    }
}

static void decode_marker_of_the_known_bytes_gives_name_and_token(void **state)
{
    struct frame_marker marker;

    (void)state;
    assert_true(frame_decode_marker(FRAME_FORK, fork_vector, 256, &marker));
    assert_int_equal(marker.kind, FRAME_FORK);
    assert_string_equal(marker.name, "kernel.id.v1");
    assert_int_equal(marker.token_size, 6);
    assert_memory_equal(marker.token, "token\xFF", 6);
    assert_true(frame_decode_marker(FRAME_NETWORK, network_vector, 64, &marker));
    assert_int_equal(marker.kind, FRAME_NETWORK);
    assert_string_equal(marker.name, "");
    assert_int_equal(marker.token_size, 5);
    assert_memory_equal(marker.token, "token", 5);
}

static void decode_marker_when_bytes_are_missing_or_of_the_other_kind_fails(void **state)
{
    struct frame_marker marker;

    (void)state;
    assert_false(frame_decode_marker(FRAME_FORK, fork_vector, 255, &marker));
    assert_false(frame_decode_marker(FRAME_FORK, fork_vector, 0, &marker));
    assert_false(frame_decode_marker(FRAME_NETWORK, network_vector, 63, &marker));
    assert_false(frame_decode_marker(FRAME_NETWORK, fork_vector, 256, &marker));
}

static void decode_marker_when_any_byte_behind_the_token_is_set_fails(void **state)
{
    struct frame_marker marker;

    (void)state;
    for (size_t i = 44; i < 256; i++) {
        uint8_t bytes[256];
        memcpy(bytes, fork_vector, sizeof bytes);
        bytes[i] = 1;
        assert_false(frame_decode_marker(FRAME_FORK, bytes, sizeof bytes, &marker));
    }
}

static void decode_marker_when_the_text_is_not_well_formed_fails(void **state)
{
    static const struct {
        const char *text;
        size_t size;
    } bad[] = {
#define TEXT(text) {text, sizeof text - 1}
        TEXT(FORK_MAGIC "\0token"),
        TEXT(FORK_MAGIC "..\0token"),
        TEXT(FORK_MAGIC "a/b\0token"),
        TEXT(FORK_MAGIC "\xC3\xA4\0token"),
        TEXT(FORK_MAGIC "name"),
        TEXT(FORK_MAGIC "name\0"),
        TEXT(FORK_MAGIC "name\0 \t\n\v\f\r"),
        TEXT(FORK_MAGIC "name\0tok\0en"),
        TEXT("HYPEMAN_FORK_MAILBOX_V1 name\0token"),
        TEXT("HYPEMAN_FORK_MAILBOX_V2\0name\0token"),
#undef TEXT
    };
    struct frame_marker marker = {.token_size = 77};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t bytes[256] = {0};
        memcpy(bytes, bad[i].text, bad[i].size);
        assert_false(frame_decode_marker(FRAME_FORK, bytes, sizeof bytes, &marker));
    }
    assert_int_equal(marker.token_size, 77);
}

static void decode_marker_when_lengths_are_at_their_limits_keeps_to_them(void **state)
{
    uint8_t bytes[256] = {0};
    struct frame_marker marker;

    (void)state;
    memcpy(bytes, FORK_MAGIC, 24);
    memset(bytes + 24, 'n', 64);
    memset(bytes + 89, 't', 128);
    assert_true(frame_decode_marker(FRAME_FORK, bytes, sizeof bytes, &marker));
    assert_int_equal(strlen(marker.name), 64);
    assert_int_equal(marker.token_size, 128);
    bytes[89 + 128] = 't';
    assert_false(frame_decode_marker(FRAME_FORK, bytes, sizeof bytes, &marker));
    bytes[89 + 128] = 0;
    bytes[88] = 'n';
    assert_false(frame_decode_marker(FRAME_FORK, bytes, sizeof bytes, &marker));
}

static void network_token_of_30_bytes_reaches_up_to_the_sequence(void **state)
{
    struct frame_marker marker = marker_of(FRAME_NETWORK, "", TOKEN_30), again;
    uint8_t bytes[72];

    (void)state;
    memset(bytes, 0xFF, sizeof bytes);
    assert_int_equal(frame_encode_marker(&marker, bytes), 64);
    assert_memory_equal(bytes, NETWORK_MAGIC TOKEN_30 "\xFF\xFF", 66);
    assert_true(frame_decode_marker(FRAME_NETWORK, bytes, sizeof bytes, &again));
    assert_true(frame_marker_equal(&marker, &again));
}

static void every_name_and_token_size_survives_encode_and_decode(void **state)
{
    (void)state;
    for (size_t n = 1; n <= FRAME_NAME_MAX; n++)
        for (size_t t = 1; t <= FRAME_TOKEN_MAX; t++) {
            struct frame_marker marker = {.kind = FRAME_FORK, .token_size = t}, again;
            uint8_t bytes[256];
            memset(marker.name, 'a', n);
            memset(marker.token, 0x80, t);
            assert_int_equal(frame_encode_marker(&marker, bytes), 25 + n + t);
            assert_true(frame_decode_marker(FRAME_FORK, bytes, sizeof bytes, &again));
            assert_true(frame_marker_equal(&marker, &again));
        }
}

static void name_valid_takes_only_the_names_of_the_format(void **state)
{
    static const char *const good[] = {"a", "A.b_c:d-9", "...", "-", "0123456789"};
    static const char *const bad[] = {"", ".", "..", "a b", "a/b", "a\n", "\xC3\xA4", "a@", "a["};
    char longest[FRAME_NAME_MAX + 1];

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(frame_name_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(frame_name_valid(bad[i], strlen(bad[i])));
    memset(longest, 'x', sizeof longest);
    assert_true(frame_name_valid(longest, FRAME_NAME_MAX));
    assert_false(frame_name_valid(longest, FRAME_NAME_MAX + 1));
    assert_false(frame_name_valid("a\0b", 3));
}

static void token_valid_refuses_nul_white_space_and_wrong_sizes(void **state)
{
    char token[FRAME_TOKEN_MAX + 1];

    (void)state;
    memset(token, 't', sizeof token);
    assert_true(frame_token_valid(FRAME_FORK, token, 1));
    assert_true(frame_token_valid(FRAME_FORK, token, 128));
    assert_false(frame_token_valid(FRAME_FORK, token, 129));
    assert_false(frame_token_valid(FRAME_FORK, token, 0));
    assert_true(frame_token_valid(FRAME_NETWORK, token, 30));
    assert_false(frame_token_valid(FRAME_NETWORK, token, 31));
    assert_true(frame_token_valid(FRAME_FORK, " t ", 3));
    assert_false(frame_token_valid(FRAME_FORK, " \t\n\v\f\r", 6));
    assert_false(frame_token_valid(FRAME_FORK, "a\0b", 3));
    assert_true(frame_token_valid(FRAME_FORK, "\x01\xFF", 2));
}

static void marker_equal_sees_each_difference(void **state)
{
    struct frame_marker marker = marker_of(FRAME_FORK, "name", "token");
    struct frame_marker name = marker_of(FRAME_FORK, "names", "token");
    struct frame_marker token = marker_of(FRAME_FORK, "name", "tokem");
    struct frame_marker longer = marker_of(FRAME_FORK, "name", "token2");
    struct frame_marker kind = marker_of(FRAME_NETWORK, "name", "token");
    struct frame_marker same = marker_of(FRAME_FORK, "name", "token");

    (void)state;
    same.token[100] = 1; /* behind token_size: not part of it */
    assert_true(frame_marker_equal(&marker, &same));
    assert_false(frame_marker_equal(&marker, &name));
    assert_false(frame_marker_equal(&marker, &token));
    assert_false(frame_marker_equal(&marker, &longer));
    assert_false(frame_marker_equal(&marker, &kind));
}

static void u32_is_stored_little_endian_at_any_alignment(void **state)
{
    uint8_t bytes[6] = {0};

    (void)state;
    frame_store_u32(bytes + 1, UINT32_C(0xFEDCBA98));
    assert_memory_equal(bytes, "\0\x98\xBA\xDC\xFE\0", 6);
    assert_int_equal(frame_load_u32(bytes + 1), UINT32_C(0xFEDCBA98));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts_are_those_of_version_1),
        cmocka_unit_test(encode_marker_of_a_fork_mailbox_gives_the_known_bytes),
        cmocka_unit_test(encode_marker_of_a_network_mailbox_gives_the_known_bytes),
        cmocka_unit_test(encode_marker_when_name_or_token_is_not_valid_writes_nothing),
        cmocka_unit_test(decode_marker_of_the_known_bytes_gives_name_and_token),
        cmocka_unit_test(decode_marker_when_bytes_are_missing_or_of_the_other_kind_fails),
        cmocka_unit_test(decode_marker_when_any_byte_behind_the_token_is_set_fails),
        cmocka_unit_test(decode_marker_when_the_text_is_not_well_formed_fails),
        cmocka_unit_test(decode_marker_when_lengths_are_at_their_limits_keeps_to_them),
        cmocka_unit_test(network_token_of_30_bytes_reaches_up_to_the_sequence),
        cmocka_unit_test(every_name_and_token_size_survives_encode_and_decode),
        cmocka_unit_test(name_valid_takes_only_the_names_of_the_format),
        cmocka_unit_test(token_valid_refuses_nul_white_space_and_wrong_sizes),
        cmocka_unit_test(marker_equal_sees_each_difference),
        cmocka_unit_test(u32_is_stored_little_endian_at_any_alignment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
