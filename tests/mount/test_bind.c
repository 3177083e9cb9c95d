/* SPDX-License-Identifier: MIT */
/* hypefs-bind, which becomes a VMM that finds files where the host has others, or none. */
#include "fixture.h"

#include "util/cleanup.h"

/* In $T/at, with the files a and b, which say so; $B is the program. */
static const struct {
    const char *script;
    int status;
    const char *out, *err; /* the whole; a part */
} cases[] = {
    {"$B /hypefs-none-$$ a -- cat /hypefs-none-$$; [ ! -e /hypefs-none-$$ ]", 0, "a\n", ""},
    {"$B $T/new/deep/x a $T/new/y b -- cat $T/new/deep/x $T/new/y; [ ! -e $T/new ]", 0, "a\nb\n",
     ""},
    {"$B $T/at/a b $T/at/b a -- cat a b && cat a b", 0, "b\na\na\nb\n", ""},
    {"$B $T/new a -- sh -c 'pwd; ls -d $T/at $T/l; cat $T/l; exit 7'", 7, NULL, ""},
    {"$B $T/l b -- cat $T/l a", 0, "b\nb\n", ""}, /* a link is followed */
    {"$B $T/../x a -- true", 126, "", "/../x: it has \"//\", \".\" or \"..\" in it"},
    {"$B x a -- true", 126, "", "at x: it is not the absolute path of a file"},
    {"$B $T//x a -- true", 126, "", "it has \"//\""},
    {"$B /etc/passwd a -- true", 126, "", "at /etc/passwd: it is in a folder of the system"},
    {"ln -s /etc $T/e; $B $T/e/none a -- true", 126, "",
     "/e/none: it is in a folder of the system"},
    {"$B /proc/none/x a -- true", 126, "", "it is in a folder of the system"},
    {"$B $T/at/none a -- true", 126, "", "cannot cover the working directory"},
    {"$B $T/at/a/x a -- true", 126, "", "/at/a/x: Not a directory"},
    {"$B $T/new none -- true", 126, "", "hypefs-bind: none: No such file or directory"},
    {"$B $T/new $T -- true", 126, "", "is not a regular file"},
    {"cp /bin/true t; $B $T/new t -- $T/new", 127, "", "/new: Permission denied"},
    {"$B $T/new a -- /none", 127, "", "hypefs-bind: /none: No such file or directory"},
    {"$B $T/new a --", 126, "", "usage: "},
    {"$B $T/new a", 126, "", "usage: "},
};

static void bind_is_for_the_program_alone(void **state)
{
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(cases); i++) {
        struct harness_result result = harness_shell(
            h, "bash",
            harness_format(h,
                           "H=${HYPEFS%%/*}; B=$H/../bind/hypefs-bind; "
                           "[ -x $B ] || B=$H/../libexec/hypefs/hypefs-bind; export T; "
                           "rm -rf $T/at $T/e && mkdir $T/at && cd $T/at && echo a > a && "
                           "echo b > b && ln -sf at/a $T/l && { %s; }",
                           cases[i].script));
        if (result.status != cases[i].status || !strstr(result.err, cases[i].err) ||
            (cases[i].out && strcmp(result.out, cases[i].out) != 0))
            fail_msg("%s: %d, %s%s", cases[i].script, result.status, result.out, result.err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(bind_is_for_the_program_alone, harness_setup,
                                        harness_teardown),
    };
    harness_enter();
    return cmocka_run_group_tests_name("bind", tests, NULL, NULL);
}
