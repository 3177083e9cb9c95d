/* SPDX-License-Identifier: MIT */
/* scan: lists the mailboxes in memory images that any tool saved. It needs no mount, no store and
 * no daemon, and changes nothing. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/progress.h"
#include "mailbox/scan.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

static const char help[] =
    "Usage: hypefs scan [OPTION]… FILE…\n"
    "List the mailboxes in raw memory images of virtual machines. The output contains the\n"
    "mailboxes' tokens.\n"
    "\n"
    "  --json      print JSON, not a table\n"
    "  -h, --help  print this\n";

static const struct cli_command command = {"hypefs scan", help};

static bool draw(void *context, uint64_t done, uint64_t size)
{
    progress_draw(context, done, size);
    return true;
}

static int scan_file(const char *path, struct scan *ret, uint64_t *ret_size, struct error *err)
{
    struct progress progress;
    struct stat st;

    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot open it");
    progress_begin(&progress, "scanning");
    int r = scan_image(fd, draw, &progress, ret, err);
    progress_end(&progress);
    if (r == 0)
        *ret_size = (uint64_t)st.st_size;
    return r;
}

static void print_token(const struct frame_marker *marker)
{
    bool plain = true;
    for (size_t i = 0; i < marker->token_size; i++)
        plain = plain && marker->token[i] > ' ' && marker->token[i] < 0x7F;
    if (plain)
        printf("%.*s\n", (int)marker->token_size, (const char *)marker->token);
    for (size_t i = 0; !plain && i < marker->token_size; i++)
        printf("%s%02x%s", i ? "" : "hex:", marker->token[i],
               i + 1 < marker->token_size ? "" : "\n");
}

static void print_table(const struct scan *scan, uint64_t size)
{
    int width = (int)strlen("(network)");
    for (size_t i = 0; i < scan->count; i++)
        if ((int)strlen(scan->candidates[i].marker.name) > width)
            width = (int)strlen(scan->candidates[i].marker.name);
    if (scan->count > 0)
        printf("%-*s  %14s  %-7s  %-7s  %8s  %s\n", width, "NAME", "OFFSET", "ALIGNED", "STATE",
               "CAPACITY", "TOKEN");
    for (size_t i = 0; i < scan->count; i++) {
        const struct candidate *candidate = &scan->candidates[i];
        const char *name = candidate->marker.name;
        printf("%-*s  %14" PRIu64 "  %-7s  %-7s  %8" PRIu32 "  ", width, *name ? name : "(network)",
               candidate->offset, candidate->page_aligned ? "yes" : "no",
               candidate->pending ? "pending" : "armed", candidate->capacity);
        print_token(&candidate->marker);
    }
    printf("%zu %s in %" PRIu64 " bytes, %" PRIu64 " of them data; stray magic strings: %" PRIu64
           "%s\n",
           scan->count, scan->count == 1 ? "frame" : "frames", size, scan->data_bytes, scan->noise,
           scan->truncated ? "; there are more frames than can be listed" : "");
}

static void add_json(cJSON *images, const char *name, const struct scan *scan, uint64_t size)
{
    cJSON *image = cJSON_CreateObject();
    json_add_string(image, "file", name);
    json_add_number(image, "size_bytes", (double)size);
    json_add_number(image, "data_bytes", (double)scan->data_bytes);
    json_add_number(image, "noise", (double)scan->noise);
    json_add_bool(image, "truncated", scan->truncated);
    cJSON *mailboxes = json_add_array(image, "mailboxes");
    for (size_t i = 0; (i = scan_next_name(scan, i)) < scan->count; i++)
        json_append(mailboxes, scan_describe(scan, scan->candidates[i].marker.name));
    cJSON *network = scan_describe(scan, "");
    json_add(image, "network", network ? network : cJSON_CreateNull());
    json_append(images, image);
}

/* One file into the array, or as a table where there is none. */
static int show(const char *path, const char *name, bool heading, cJSON *images, struct error *err)
{
    struct scan scan = {0};
    uint64_t size = 0;
    int r = scan_file(path, &scan, &size, err);

    if (r == 0 && images) {
        add_json(images, name, &scan, size);
    } else if (r == 0) {
        if (heading)
            printf("%s:\n", name);
        print_table(&scan, size);
    }
    scan_finish(&scan);
    return r;
}

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "hypefs scan: %s: %s\n", what, why);
    return 1;
}

static int show_all(int count, char **paths, bool as_json)
{
    auto_json cJSON *json = as_json ? cJSON_CreateObject() : NULL;
    cJSON *images = json_add_array(json, "images");
    struct error err = {0};
    int status = 0;

    if (as_json && !images)
        return fail("JSON", strerror(ENOMEM));
    for (int i = 0; i < count; i++) {
        auto_free char *name = text_escaped(paths[i], strlen(paths[i]), "");
        if (!name)
            return fail("a file's name", strerror(ENOMEM));
        if (show(paths[i], name, count > 1, images, &err) < 0)
            status = fail(name, err.text); /* the others may be readable */
    }
    auto_free char *text = as_json ? json_print(json) : NULL;
    if (as_json && !text)
        return fail("JSON", strerror(ENOMEM));
    if (text)
        fputs(text, stdout);
    return cli_flush(command.name) == CLI_DONE ? status : CLI_FAILED;
}

int cli_scan(int argc, char **argv)
{
    bool json = false;
    const struct cli_option options[] = {{"json", .flag = &json}};
    int status = cli_read_options(&command, argc, argv, options, array_length(options), NULL);
    if (status != CLI_GO_ON)
        return status;
    if (optind == argc)
        return cli_misuse(&command, "no FILE given");
    return show_all(argc - optind, argv + optind, json);
}
