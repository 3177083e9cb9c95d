/* SPDX-License-Identifier: MIT */
/* Trees that are built while memory runs out, at each place in turn. */
#include <stdlib.h>
#include <string.h>

#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"

/* The allocation that fails, counted from 1; 0: none. */
static unsigned fail_at, count;

static void *allocate(size_t size)
{
    return ++count == fail_at ? NULL : malloc(size);
}

static int setup(void **state)
{
    (void)state;
    fail_at = 0;
    cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = allocate, .free_fn = free});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cJSON_InitHooks(NULL);
    return 0;
}

/* Something of each kind, at more than one depth. */
static cJSON *build(void)
{
    cJSON *json = cJSON_CreateObject();
    json_add_string(json, "text", "a");
    json_add_number(json, "number", 1);
    json_add_bool(json, "bool", true);
    json_add_null(json, "null");
    cJSON *object = json_add_object(json, "object");
    json_add_string(object, "text", "b");
    cJSON *array = json_add_array(object, "array");
    json_append(array, cJSON_CreateString("c"));
    json_add(json, "item", cJSON_CreateNumber(2));
    cJSON *outer = cJSON_CreateObject();
    json_add(outer, "copy", cJSON_Duplicate(json, true));
    json_add(outer, "inner", json);
    return outer;
}

static void tree_when_memory_runs_out_anywhere_is_not_whole_and_not_printed(void **state)
{
    (void)state;
    auto_json cJSON *complete = build();
    unsigned allocations = count;
    auto_free char *whole = json_print(complete), *line = json_print_line(complete);
    assert_non_null(whole);
    assert_non_null(line);
    assert_string_equal(line, "{\"copy\":{\"text\":\"a\",\"number\":1,\"bool\":true,\"null\":null,"
                              "\"object\":{\"text\":\"b\",\"array\":[\"c\"]},\"item\":2},"
                              "\"inner\":{\"text\":\"a\",\"number\":1,\"bool\":true,\"null\":null,"
                              "\"object\":{\"text\":\"b\",\"array\":[\"c\"]},\"item\":2}}");
    assert_true(allocations > 20);
    for (unsigned i = 1; i <= allocations; i++) {
        count = 0;
        fail_at = i;
        auto_json cJSON *json = build();
        fail_at = 0;
        assert_false(json_is_whole(json));
        assert_null(json_print(json));
        assert_null(json_print_line(json));
        auto_json cJSON *copy = cJSON_Duplicate(json, true);
        assert_false(json_is_whole(copy));
    }
}

static void tree_when_it_is_printed_without_memory_is_null(void **state)
{
    (void)state;
    auto_json cJSON *json = build();
    count = 0;
    fail_at = 1;
    assert_null(json_print(json));
    count = 0;
    assert_null(json_print_line(json));
    fail_at = 0;
    assert_true(json_is_whole(json));
}

static void nothing_is_not_whole_and_takes_what_is_added(void **state)
{
    (void)state;
    assert_false(json_is_whole(NULL));
    assert_null(json_print(NULL));
    json_add(NULL, "x", cJSON_CreateNull());
    json_append(NULL, cJSON_CreateNull());
    json_add_string(NULL, "x", "y");
    assert_null(json_add_object(NULL, "x"));
}

#define HOOKED(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        HOOKED(tree_when_memory_runs_out_anywhere_is_not_whole_and_not_printed),
        HOOKED(tree_when_it_is_printed_without_memory_is_null),
        HOOKED(nothing_is_not_whole_and_takes_what_is_added),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
