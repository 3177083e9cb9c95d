/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "test.h"
#include "util/page_set.h"

enum { PAGES = 100, PAGE = PAGE_SET_PAGE };

static void set_has_the_pages_of_bytes_that_were_added(void **state)
{
    struct page_set set;
    (void)state;
    assert_int_equal(page_set_create(PAGES * PAGE - 5, &set, NULL), 0);
    assert_false(set.complete);
    page_set_add(&set, 3 * PAGE, 0);
    page_set_add(&set, 7 * PAGE + 10, 1);
    page_set_add(&set, 9 * PAGE - 1, 2);
    page_set_add(&set, 98 * PAGE, 10 * PAGE);
    page_set_add(&set, 200 * PAGE, PAGE);
    for (uint64_t i = 0; i < PAGES + 10; i++)
        assert_int_equal(page_set_has(&set, i * PAGE + 77),
                         (i >= 7 && i <= 9) || i == 98 || i == 99);
    assert_int_equal(page_set_bytes(&set), 5 * PAGE);
    page_set_finish(&set);
    page_set_finish(&set);
}

static void set_is_gone_through_in_pieces(void **state)
{
    static const struct {
        uint64_t from, start, pages;
    } pieces[] = {{0, 5, 2}, {7, 7, 2}, {9, 9, 1}, {10, 40, 2}, {42, 99, 1}};
    struct page_set set;
    uint64_t start, size;
    (void)state;
    assert_int_equal(page_set_create(PAGES * PAGE, &set, NULL), 0);
    assert_false(page_set_next(&set, 0, 2 * PAGE, &start, &size));
    page_set_add(&set, 5 * PAGE, 5 * PAGE);
    page_set_add(&set, 40 * PAGE, 2 * PAGE);
    page_set_add(&set, 99 * PAGE, PAGE);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        assert_true(page_set_next(&set, pieces[i].from * PAGE, 2 * PAGE, &start, &size));
        assert_int_equal(start, pieces[i].start * PAGE);
        assert_int_equal(size, pieces[i].pages * PAGE);
    }
    assert_false(page_set_next(&set, PAGES * PAGE, 2 * PAGE, &start, &size));
    page_set_finish(&set);
}

static void set_of_an_image_without_pages_has_none(void **state)
{
    struct page_set set;
    uint64_t start, size;
    (void)state;
    assert_int_equal(page_set_create(0, &set, NULL), 0);
    page_set_add(&set, 0, PAGE);
    assert_false(page_set_has(&set, 0));
    assert_false(page_set_next(&set, 0, PAGE, &start, &size));
    page_set_finish(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_has_the_pages_of_bytes_that_were_added),
        cmocka_unit_test(set_is_gone_through_in_pieces),
        cmocka_unit_test(set_of_an_image_without_pages_has_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
