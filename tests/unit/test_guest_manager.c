/* SPDX-License-Identifier: MIT */
/* What manages a guest's networks is told to leave an interface alone: with tools of the test's
 * own. With real ones in check_debian_guest.sh. */
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/manager.h"
#include "test.h"

enum { INDEX = 7, TEXT_MAX = 512, PATIENCE_MS = 30000, SHORT_PATIENCE_MS = 700 };

static char root[64];

static const char *at(const char *path)
{
    static char ret[256];
    snprintf(ret, sizeof ret, "%s/%s", root, path);
    return ret;
}

static void make_directories(const char *path)
{
    char whole[256];
    snprintf(whole, sizeof whole, "%s", at(path));
    for (char *slash = whole + strlen(root) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = '\0';
        mkdir(whole, 0755);
    }
    assert_true(mkdir(whole, 0755) == 0 || errno == EEXIST);
}

static void put(const char *path, const char *text, mode_t mode)
{
    FILE *file = fopen(at(path), "we");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(at(path), mode), 0);
}

/* "" if it is not there. */
static const char *get(const char *path)
{
    static char text[TEXT_MAX];
    FILE *file = fopen(at(path), "re");
    size_t size = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file)
        fclose(file);
    text[size] = '\0';
    return text;
}

/* A tool that notes how it was called, and does `more`. */
static void put_tool(const char *name, const char *more)
{
    char path[64], script[2 * TEXT_MAX];
    snprintf(path, sizeof path, "bin/%s", name);
    snprintf(script, sizeof script, "#!/bin/sh\necho %s \"$@\" >> %s/called\n%s\n", name, root,
             more);
    put(path, script, 0755);
}

static void run_unit(const char *unit)
{
    char path[128];
    snprintf(path, sizeof path, "sys/fs/cgroup/system.slice/%s.service", unit);
    make_directories(path);
}

static int set_up(void **state)
{
    char path[TEXT_MAX];
    (void)state;
    snprintf(root, sizeof root, "/tmp/hypefs-manager-XXXXXX");
    assert_non_null(mkdtemp(root));
    make_directories("bin");
    make_directories("run/systemd/netif/links");
    snprintf(path, sizeof path, "%s/bin", root);
    setenv("PATH", path, 1);
    put_tool("networkctl", "");
    put_tool("nmcli", "");
    return 0;
}

static int erase(const char *path, const struct stat *st, int flag, struct FTW *where)
{
    (void)st;
    (void)flag;
    (void)where;
    return remove(path);
}

static int tear_down(void **state)
{
    (void)state;
    return nftw(root, erase, 8, FTW_DEPTH | FTW_PHYS);
}

static void interface_when_no_manager_runs_is_nobodys(void **state)
{
    (void)state;
    put("run/systemd/netif/links/7", "ADMIN_STATE=configured\n",
        0644); /* left from an earlier one */
    assert_int_equal(manager_release(root, "eth0", INDEX, PATIENCE_MS), 0);
    assert_string_equal(get("called"), "");
    assert_string_equal(get("run/systemd/network/00-hypefs-eth0.network"), "");
}

static void networkd_is_told_by_a_file_and_waited_for(void **state)
{
    char more[TEXT_MAX];
    (void)state;
    run_unit("systemd-networkd");
    put("run/systemd/netif/links/7", "# x\nADMIN_STATE=configured\nOPER_STATE=routable\n", 0644);
    snprintf(more, sizeof more,
             "(/bin/sleep 0.1; echo ADMIN_STATE=unmanaged > %s/links.new; "
             "/bin/mv %s/links.new %s/run/systemd/netif/links/7) > /dev/null 2>&1 &",
             root, root, root);
    put_tool("networkctl", more);
    assert_int_equal(manager_release(root, "eth0", INDEX, PATIENCE_MS), 0);
    assert_string_equal(get("called"), "networkctl reload\n");
    assert_string_equal(get("run/systemd/network/00-hypefs-eth0.network"),
                        "[Match]\nName=eth0\n[Link]\nUnmanaged=yes\n");
    assert_string_equal(get("run/systemd/netif/links/7"), "ADMIN_STATE=unmanaged\n");
    /* The next clone of this one has nothing to tell. */
    assert_int_equal(manager_release(root, "eth0", INDEX, PATIENCE_MS), 0);
    assert_string_equal(get("called"), "networkctl reload\n");
}

static void networkd_that_does_not_know_the_interface_is_not_told(void **state)
{
    (void)state;
    run_unit("systemd-networkd");
    assert_int_equal(manager_release(root, "eth0", INDEX, PATIENCE_MS), 0);
    assert_string_equal(get("called"), "");
}

static void networkd_that_keeps_the_interface_is_a_failure(void **state)
{
    (void)state;
    run_unit("systemd-networkd");
    put("run/systemd/netif/links/7", "ADMIN_STATE=configured\n", 0644);
    assert_int_equal(manager_release(root, "eth0", INDEX, SHORT_PATIENCE_MS), -ETIMEDOUT);
}

static void network_manager_is_told(void **state)
{
    (void)state;
    run_unit("NetworkManager");
    assert_int_equal(manager_release(root, "eth0", INDEX, PATIENCE_MS), 0);
    assert_string_equal(get("called"), "nmcli device set eth0 managed no\n");
}

static void tool_that_fails_or_is_not_there_is_a_failure(void **state)
{
    (void)state;
    run_unit("NetworkManager");
    put_tool("nmcli", "exit 10");
    assert_int_equal(manager_release(root, "eth0", INDEX, PATIENCE_MS), -EIO);
    assert_int_equal(unlink(at("bin/nmcli")), 0);
    assert_int_equal(manager_release(root, "eth0", INDEX, PATIENCE_MS), -ENOENT);
}

static void tool_that_hangs_is_ended(void **state)
{
    (void)state;
    run_unit("NetworkManager");
    put_tool("nmcli", "exec /bin/sleep 600");
    assert_int_equal(manager_release(root, "eth0", INDEX, SHORT_PATIENCE_MS), -ETIMEDOUT);
}

/* Each alone is fast enough: it is the sum that the host waits for. */
static void managers_that_take_too_long_together_are_a_failure(void **state)
{
    char more[TEXT_MAX];
    (void)state;
    run_unit("systemd-networkd");
    run_unit("NetworkManager");
    put("run/systemd/netif/links/7", "ADMIN_STATE=configured\n", 0644);
    snprintf(more, sizeof more,
             "/bin/sleep 0.6\necho ADMIN_STATE=unmanaged > %s/run/systemd/netif/links/7", root);
    put_tool("networkctl", more);
    put_tool("nmcli", "exec /bin/sleep 0.6");
    assert_int_equal(manager_release(root, "eth0", INDEX, 1000), -ETIMEDOUT);
    /* A deadline that has passed is no reason to wait for ever. */
    put("run/systemd/netif/links/7", "ADMIN_STATE=unmanaged\n", 0644);
    put_tool("nmcli", "exec /bin/sleep 600");
    assert_int_equal(manager_release(root, "eth0", INDEX, -1), -ETIMEDOUT);
    put_tool("nmcli", "");
    assert_int_equal(manager_release(root, "eth0", INDEX, PATIENCE_MS), 0);
}

#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(interface_when_no_manager_runs_is_nobodys),
        test(networkd_is_told_by_a_file_and_waited_for),
        test(networkd_that_does_not_know_the_interface_is_not_told),
        test(networkd_that_keeps_the_interface_is_a_failure),
        test(network_manager_is_told),
        test(tool_that_fails_or_is_not_there_is_a_failure),
        test(tool_that_hangs_is_ended),
        test(managers_that_take_too_long_together_are_a_failure),
    };
    return cmocka_run_group_tests_name("guest_manager", tests, NULL, NULL);
}
