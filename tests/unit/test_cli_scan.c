/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/cli.h"
#include "frames.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"

/* An image and what the command printed. */
struct run {
    int image;
    char path[64]; /* of the image */
    char out[8192], err[1024];
};

static int setup(void **state)
{
    static uint8_t bytes[4 * FRAME_SIZE];
    struct run *run = calloc(1, sizeof *run);
    if (!run)
        return -1;
    frames_arm(bytes + FRAME_SIZE, "kernel.identity.v1", "template-token");
    frames_put(bytes + 2 * FRAME_SIZE, FRAME_FORK, "x", "a\x1B", 1, "{}");
    frames_put(bytes + 3 * FRAME_SIZE, FRAME_NETWORK, "", "t", 0, "");
    memcpy(bytes + 100, "HYPEMAN_FORK_MAILBOX_V1", 24);
    run->image = memfd_create("image", MFD_CLOEXEC);
    snprintf(run->path, sizeof run->path, "/proc/self/fd/%d", run->image);
    *state = run;
    return write(run->image, bytes, sizeof bytes) == sizeof bytes ? 0 : -1;
}

static int teardown(void **state)
{
    struct run *run = *state;
    cleanup_close(&run->image);
    free(run);
    return 0;
}

/* Puts a file in the stream's place; the stream's own descriptor comes back with restore(). */
static int divert(FILE *stream, int to)
{
    fflush(stream);
    int kept = dup(fileno(stream));
    assert_true(kept >= 0);
    assert_true(dup2(to, fileno(stream)) >= 0);
    return kept;
}

static void restore(FILE *stream, int kept, int from, char *text, size_t size)
{
    fflush(stream);
    clearerr(stream);
    dup2(kept, fileno(stream));
    close(kept);
    ssize_t n = pread(from, text, size - 1, 0);
    text[n > 0 ? n : 0] = 0;
}

static int scan_to(struct run *run, int out, const char *first, const char *second)
{
    char *argv[] = {(char *)"scan", (char *)first, (char *)second, NULL};
    auto_close int err = memfd_create("err", MFD_CLOEXEC);

    int kept_out = divert(stdout, out), kept_err = divert(stderr, err);
    int status = cli_scan(1 + (first != NULL) + (second != NULL), argv);
    restore(stderr, kept_err, err, run->err, sizeof run->err);
    restore(stdout, kept_out, out, run->out, sizeof run->out);
    return status;
}

static int scan(struct run *run, const char *first, const char *second)
{
    auto_close int out = memfd_create("out", MFD_CLOEXEC);
    return scan_to(run, out, first, second);
}

static void scan_of_an_image_prints_a_table(void **state)
{
    struct run *run = *state;

    assert_int_equal(scan(run, run->path, NULL), 0);
    assert_string_equal(run->err, "");
    assert_string_equal(
        run->out, "NAME                        OFFSET  ALIGNED  STATE    CAPACITY  TOKEN\n"
                  "kernel.identity.v1            4096  yes      armed        3832  template-token\n"
                  "x                             8192  yes      pending      3832  hex:611b\n"
                  "(network)                    12288  yes      armed        4024  t\n"
                  "3 frames in 16384 bytes, 16384 of them data; stray magic strings: 1\n");
}

static void scan_of_several_images_heads_each_table_with_its_file(void **state)
{
    struct run *run = *state;
    char heading[80];

    assert_int_equal(scan(run, run->path, run->path), 0);
    snprintf(heading, sizeof heading, "%s:\nNAME", run->path);
    assert_int_equal(strncmp(run->out, heading, strlen(heading)), 0);
    assert_non_null(strstr(run->out + 1, heading));
}

static void scan_with_json_prints_an_object_for_each_image(void **state)
{
    struct run *run = *state;
    auto_json cJSON *json = NULL;

    assert_int_equal(scan(run, "--json", run->path), 0);
    assert_int_equal(json_parse(run->out, strlen(run->out), &json, NULL), 0);
    cJSON *image = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(json, "images"), 0);
    assert_non_null(image);
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(image, "file")->valuestring, run->path);
    assert_int_equal(cJSON_GetObjectItemCaseSensitive(image, "size_bytes")->valueint, 16384);
    assert_int_equal(cJSON_GetObjectItemCaseSensitive(image, "noise")->valueint, 1);
    cJSON *mailboxes = cJSON_GetObjectItemCaseSensitive(image, "mailboxes");
    assert_int_equal(cJSON_GetArraySize(mailboxes), 2);
    cJSON *second = cJSON_GetArrayItem(mailboxes, 1);
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(second, "name")->valuestring, "x");
    assert_true(cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(image, "network")));
}

static void scan_when_a_file_cannot_be_read_fails_with_one_line(void **state)
{
    struct run *run = *state;

    assert_int_equal(scan(run, "/nonexistent/a\nb", NULL), 1);
    assert_string_equal(run->err, "hypefs scan: /nonexistent/a\\u000ab: cannot open it: "
                                  "No such file or directory\n");
    assert_string_equal(run->out, "");
    assert_int_equal(scan(run, "/", NULL), 1);
    assert_string_equal(run->err, "hypefs scan: /: not a regular file\n");
    assert_int_equal(scan(run, "/dev/null", NULL), 1);
}

static void scan_when_nothing_can_be_printed_fails(void **state)
{
    struct run *run = *state;
    auto_fclose FILE *full = fopen("/dev/full", "we");

    assert_non_null(full);
    assert_int_equal(scan_to(run, fileno(full), run->path, NULL), 1);
    assert_string_equal(run->err, "hypefs scan: standard output: No space left on device\n");
}

static void scan_when_used_wrongly_says_how_and_gives_2(void **state)
{
    struct run *run = *state;
    static const char *const wrong[] = {"--foo", "-x", "--json=1", NULL};

    for (size_t i = 0; i < array_length(wrong); i++) {
        assert_int_equal(scan(run, wrong[i], wrong[i] ? run->path : NULL), 2);
        assert_int_equal(strncmp(run->err, "hypefs scan: ", 13), 0);
        assert_non_null(strstr(run->err, "try: hypefs scan --help\n"));
        assert_string_equal(run->out, "");
    }
}

static void scan_with_help_prints_it_on_stdout(void **state)
{
    struct run *run = *state;

    assert_int_equal(scan(run, "--help", NULL), 0);
    assert_non_null(strstr(run->out, "--json"));
    assert_string_equal(run->err, "");
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(scan_of_an_image_prints_a_table),
        TEST(scan_of_several_images_heads_each_table_with_its_file),
        TEST(scan_with_json_prints_an_object_for_each_image),
        TEST(scan_when_a_file_cannot_be_read_fails_with_one_line),
        TEST(scan_when_nothing_can_be_printed_fails),
        TEST(scan_when_used_wrongly_says_how_and_gives_2),
        TEST(scan_with_help_prints_it_on_stdout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
