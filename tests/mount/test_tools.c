/* SPDX-License-Identifier: MIT */
/* Staging with the tools that people use. */
#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

/* Run in the draft's mailboxes/, with $T/good ({"n":1}), $T/bad ([1]) and $T/cut ({"n":). `m` is
 * what the file m holds then; NULL: it is not there. `marked`: it cannot be committed. */
static const struct script {
    const char *tool, *script;
    bool fails;
    const char *m;
    bool marked;
} scripts[] = {
    {"bash", "echo '{\"a\":1}' > m", false, "{\"a\":1}\n", false},
    {"dash", "echo '{\"a\":1}' > m", false, "{\"a\":1}\n", false},
    {"bash", "printf '{\\n\"a\":\\n%d}' 1 > m", false, "{\n\"a\":\n1}", false},
    {"dash", "printf '{\\n\"a\":\\n%d}' 1 > m", false, "{\n\"a\":\n1}", false},
    {"bash", "echo '[1]' > m", true, "", true},
    {"dash", "echo '[1]' > m", true, "", true},
    {"bash", "cp $T/good m; echo '[1]' > m", true, "", true},
    {"bash", "echo '{\"a\":' > m", false, "{\"a\":\n", true},
    {"bash", "cp $T/good m; : > m", false, "", true},
    {"jq", "cp $T/good m; jq . $T/cut > m", true, "", true},
    {"jq", "jq -n '{a:[1,2]}' > m && jq -c '.a[0]' m", false,
     "{\n  \"a\": [\n    1,\n    2\n  ]\n}\n", false},
    {"jq", "cp $T/good m; jq '.n=2' m > m", false, "", true},
    {"bash", "{ echo '{\"a\":'; cat $T/good; echo '}'; } > m", false, "{\"a\":\n{\"n\":1}\n}\n",
     false},
    {"dash", "{ echo '{\"a\":'; cat $T/good; echo '}'; } > m", false, "{\"a\":\n{\"n\":1}\n}\n",
     false},
    {"bash", "{ cat $T/cut; echo; /bin/echo 1; } > m", false, "{\"n\":\n1\n", true},
    {"bash", "exec 3> m; echo '{' >&3; /bin/echo '\"a\":1' >&3; echo '}' >&3; exec 3>&-", false,
     "{\n\"a\":1\n}\n", false},
    {"bash", "echo '{\"a\":' >> m; stat m > /dev/null; ls -l m > /dev/null; echo '1}' >> m", false,
     "{\"a\":\n1}\n", false},
    {"bash", "set -C; echo '{}' > m", false, "{}\n", false},
    {"bash", "set -C; echo '{}' > m; echo '{\"b\":1}' > m", true, "{}\n", false},
    {"bash", "set -C; echo '{}' > m; echo '{\"b\":1}' >| m", false, "{\"b\":1}\n", false},
    {"dash", "set -C; echo '{}' > m; echo '{\"b\":1}' > m", true, "{}\n", false},
    {"cp", "cp $T/good m", false, "{\"n\":1}\n", false},
    {"cp", "cp -a $T/good m && cp -a $T/good m", false, "{\"n\":1}\n", false},
    {"cp", "cp --sparse=always $T/good m", false, "{\"n\":1}\n", false},
    {"cp", "cp $T/bad m", true, "", true},
    {"cp", "cp $T/cut m", true, "{\"n\":", true},
    {"cp", "cp -f $T/good m && cp m a && cp --remove-destination a m && rm a", false, "{\"n\":1}\n",
     false},
    {"cp", "cp -b $T/good m && cp -b $T/good m && rm m~", false, "{\"n\":1}\n", false},
    {"install", "install -m 644 $T/good m", false, "{\"n\":1}\n", false},
    {"mv", "cp $T/good $T/it && mv $T/it m", false, "{\"n\":1}\n", false},
    {"mv", "cp $T/good a && mv a m", false, "{\"n\":1}\n", false},
    {"mv", "cp $T/good m; cp $T/bad $T/it; mv $T/it m && exit 0; rm $T/it; exit 1", true, "", true},
    {"cat", "cat $T/good > m", false, "{\"n\":1}\n", false},
    {"cat", "cat $T/bad > m", true, "", true},
    {"cat", "cat $T/cut > m", true, "{\"n\":", true},
    {"tee", "tee m < $T/good", false, "{\"n\":1}\n", false},
    {"tee", "tee m < $T/bad", true, "", true},
    {"tee", "echo '}' | cat $T/cut - | tee m", true, "", true},
    {"dd", "dd if=$T/good of=m bs=3", false, "{\"n\":1}\n", false},
    {"dd", "dd if=$T/good of=m bs=1", false, "{\"n\":1}\n", false},
    {"dd", "dd if=$T/bad of=m", true, "", true},
    {"dd", "cp $T/good m; echo -n 7 | dd of=m bs=1 seek=5 conv=notrunc", false, "{\"n\":7}\n",
     false},
    {"dd", "dd if=$T/good of=m oflag=direct conv=fsync", false, "{\"n\":1}\n", false},
    {"sed", "cp $T/good m; sed -i s/1/2/ m", false, "{\"n\":2}\n", false},
    {"sed", "cp $T/good m; sed -i.swp s/1/2/ m; ls", false, "{\"n\":2}\n", false},
    {"sed", "sed s/n/k/ $T/good > a; sed -n wm a; rm a", false, "{\"k\":1}\n", false},
    {"perl", "cp $T/good m; perl -pi -e s/1/2/ m", false, "{\"n\":2}\n", false},
    {"python3", "python3 -c 'import json; json.dump({\"a\": [1, 2]}, open(\"m\", \"w\"))'", false,
     "{\"a\": [1, 2]}", false},
    {"python3",
     "python3 -c 'open(\"m\", \"w\").write(\"[1]\")' 2>&1 | grep -q 'Errno 22' && exit 1", true, "",
     true},
    {"python3", "python3 -c '\nwith open(\"m\", \"w\") as f:\n  f.write(\"{\")'", true, "{", true},
    {"python3",
     "python3 -c '\nwith open(\"m\", \"wb\", buffering=0) as f:\n  f.write(b\"{\")\n"
     "  f.write(b\"}\")'",
     false, "{}", false},
    {"sort", "cp $T/good m && sort -o m m", false, "{\"n\":1}\n", false},
    {"truncate", "cp $T/good m && truncate -s 0 m", false, "", true},
    {"truncate", "cp $T/good m && truncate -s +1 m", true, "{\"n\":1}\n", false},
    {"rm", "cp $T/good m && rm m", false, NULL, false},
    {"touch", "cp $T/good m && touch -d yesterday m", false, "{\"n\":1}\n", false},
    {"vim", "cp $T/good m; vim -N -u NONE -es -c '%s/1/2/' -c wq m", false, "{\"n\":2}\n", false},
    {"vim",
     "cp $T/good m; vim -N -u NONE -es -c 'set backup backupskip= backupcopy=no swapfile' "
     "-c '%s/1/2/' -c preserve -c wq m && rm m~",
     false, "{\"n\":2}\n", false},
    {"vim", "vim -N -u NONE -es -c 'set swapfile bin noeol' -c 'normal i{}' -c wq m", false, "{}",
     false},
    {"busybox", "busybox cp $T/good m && busybox sed -i s/1/2/ m", false, "{\"n\":2}\n", false},
    {"busybox", "busybox vi m < /dev/null; busybox sh -c 'echo {} > m'", false, "{}\n", false},
};

/* They are all in the list of packages of tests/run.sh, or in every Debian. */
static void assert_installed(const char *tool)
{
    if (!harness_has(tool))
        fail_msg("%s is not installed", tool);
}

static void check_marks(struct harness *h, const struct script *row)
{
    const char *path = harness_path(h, "snapshots/base/forks/own/error");
    const char *error = harness_get(h, path);
    if ((error[0] != 0) != row->marked)
        fail_msg("%s: error says \"%s\"", row->script, error);
    if (!row->marked)
        return;
    assert_contains(error, "mailboxes/m: ");
    assert_contains(assert_shell("bash", "echo own > snapshots/base/forks/own/commit", 1).err,
                    "Invalid argument");
    error = harness_get(h, path);
    if (!strstr(error, "mailboxes/m is unfinished") && !strstr(error, "mailboxes/m was refused"))
        fail_msg("%s: of a commit, error says \"%s\"", row->script, error);
    assert_no_instance(h);
}

static void check(struct harness *h, const struct script *row)
{
    assert_installed(row->tool);
    const char *shell = strcmp(row->tool, "dash") == 0 ? "dash" : "bash";
    const char *m = harness_path(h, "snapshots/base/forks/own/mailboxes/m");
    struct harness_result result = harness_shell(
        h, shell, harness_format(h, "cd snapshots/base/forks/own/mailboxes; %s", row->script));
    if ((result.status != 0) != row->fails)
        fail_msg("%s: status %d: %s%s", row->script, result.status, result.out, result.err);
    check_marks(h, row);
    if (!row->m)
        assert_fails(access(m, F_OK), ENOENT);
    else if (strcmp(harness_get(h, m), row->m) != 0)
        fail_msg("%s: it is \"%s\"", row->script, harness_get(h, m));
    const char *left = assert_shell("bash", "ls -A snapshots/base/forks/own/mailboxes", 0).out;
    if (strcmp(left, row->m ? "m\n" : "") != 0 && strcmp(left, "m\nm.swp\n") != 0)
        fail_msg("%s leaves %s", row->script, left);
    assert_shell("bash", "rm -f snapshots/base/forks/own/mailboxes/*", 0);
}

static void scripts_that_stage_leave_what_they_say(void **state)
{
    struct harness *h = *state;
    harness_put(harness_format(h, "%s/good", h->directory), "{\"n\":1}\n");
    harness_put(harness_format(h, "%s/bad", h->directory), "[1]\n");
    harness_put(harness_format(h, "%s/cut", h->directory), "{\"n\":");
    for (size_t i = 0; i < array_length(scripts); i++)
        check(h, &scripts[i]);
}

/* Editors need room for a second file, even where 16 mailboxes are staged. */
static void editors_where_16_mailboxes_are_staged_have_room(void **state)
{
    struct harness *h = *state;
    assert_shell("bash",
                 "cd snapshots/base/forks/own/mailboxes && for i in {1..16}; do echo '{\"n\":1}' "
                 "> m$i || exit; done && sed -i s/1/2/ m* && grep -L 2 m* | wc -l | grep -qx 0",
                 0);
    assert_installed("vim");
    assert_shell(
        "bash",
        "cd snapshots/base/forks/own/mailboxes && vim -N -u NONE -es -c 'set backup backupskip= "
        "swapfile' -c '%s/2/3/' -c preserve -c '!ls -A > $T/seen' -c wq m7 && grep -qx .m7.swp "
        "$T/seen",
        0);
    assert_file_contains(harness_path(h, "snapshots/base/forks/own/mailboxes/m7"), "3");
    assert_string_equal(harness_get(h, harness_path(h, "snapshots/base/forks/own/error")), "");
}

static void readers_of_any_kind_see_the_whole_text(void **state)
{
    struct harness *h = *state;
    assert_installed("jq");
    assert_installed("python3");
    assert_shell(
        "bash",
        "cd snapshots/base && t=$(cat info; echo x) && t=${t%x} && n=${#t} && "
        "[ $(wc -c < info) = $n ] && [ $(stat -c %s info) = $n ] && [ -s info ] && "
        "[ ! -s forks/own/error ] && [ \"$(tail -c 2 info)\" = '}' ] && "
        "[ \"$(head -c 1 info)\" = '{' ] && [ \"$(tac info | tac)\" = \"$(cat info)\" ] && "
        "[ \"$(dd if=info bs=7 2> $T/dd)\" = \"$(cat info)\" ] && "
        "cp info $T/info && cmp info $T/info && jq -e .id info && "
        "python3 -c 'import json; print(json.load(open(\"info\"))[\"id\"])' | grep -qx base",
        0);
}

/* The draft stays as it was staged when its commit fails. */
static int setup(void **state)
{
    return fixture_setup(state) < 0 ? -1
                                    : mkdir(harness_path(*state, "snapshots/base/forks/own"), 0755);
}

#define draft_test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        draft_test(scripts_that_stage_leave_what_they_say),
        draft_test(editors_where_16_mailboxes_are_staged_have_room),
        draft_test(readers_of_any_kind_see_the_whole_text),
    };
    harness_enter();
    return cmocka_run_group_tests_name("tools", tests, NULL, NULL);
}
