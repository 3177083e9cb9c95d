/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test.h"
#include "util/cleanup.h"
#include "util/unix_socket.h"

enum { LONG_NAME = 200 };

/* A directory whose path is longer than an address can hold. */
struct fixture {
    char base[64], name[LONG_NAME + 1];
    int base_fd, fd;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    if (!fixture)
        return -1;
    snprintf(fixture->base, sizeof fixture->base, "/tmp/hypefs-socket-XXXXXX");
    memset(fixture->name, 'd', LONG_NAME);
    if (!mkdtemp(fixture->base))
        return -1;
    fixture->base_fd = open(fixture->base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (mkdirat(fixture->base_fd, fixture->name, 0700) < 0)
        return -1;
    fixture->fd = openat(fixture->base_fd, fixture->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    unlinkat(fixture->fd, "s", 0);
    unlinkat(fixture->base_fd, fixture->name, AT_REMOVEDIR);
    rmdir(fixture->base);
    close(fixture->fd);
    close(fixture->base_fd);
    free(fixture);
    return 0;
}

static void connect_when_somebody_listens_in_a_deep_directory_reaches_it(void **state)
{
    const struct fixture *fixture = *state;
    auto_close int listener = -1, client = -1;
    char byte = 0;

    assert_int_equal(unix_socket_listen(fixture->fd, "s", &listener, NULL), 0);
    assert_int_equal(unix_socket_connect(fixture->fd, "s", &client, NULL), 0);
    assert_int_equal(fcntl(listener, F_GETFD), FD_CLOEXEC);
    assert_int_equal(fcntl(client, F_GETFD), FD_CLOEXEC);
    assert_true(fcntl(client, F_GETFL) & O_NONBLOCK);
    auto_close int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_int_equal(write(client, "x", 1), 1);
    assert_int_equal(read(server, &byte, 1), 1);
    assert_int_equal(byte, 'x');
}

static void connect_when_nobody_listens_fails(void **state)
{
    const struct fixture *fixture = *state;
    struct error err = {0};
    int client = -1, listener = -1;

    assert_int_equal(unix_socket_connect(fixture->fd, "s", &client, &err), -ENOENT);
    assert_int_equal(unix_socket_listen(fixture->fd, "s", &listener, NULL), 0);
    close(listener);
    assert_int_equal(unix_socket_connect(fixture->fd, "s", &client, &err), -ECONNREFUSED);
    assert_int_equal(client, -1);
}

static void connect_when_too_many_wait_is_no_limit_of_the_host(void **state)
{
    enum { MANY = 100 };
    const struct fixture *fixture = *state;
    struct error err = {0};
    int clients[MANY], count = 0, r = 0;
    auto_close int listener = -1;

    assert_int_equal(unix_socket_listen(fixture->fd, "s", &listener, NULL), 0);
    while (count < MANY && (r = unix_socket_connect(fixture->fd, "s", &clients[count], &err)) == 0)
        count++;
    for (int i = 0; i < count; i++)
        close(clients[i]);
    assert_int_equal(r, -EIO);
    assert_string_equal(err.text, "nobody takes connections at the socket s: its process is stopped, or hangs");
}

static void listen_when_an_old_socket_is_there_replaces_it(void **state)
{
    const struct fixture *fixture = *state;
    auto_close int old = -1, new = -1, client = -1;

    assert_int_equal(unix_socket_listen(fixture->fd, "s", &old, NULL), 0);
    assert_int_equal(unix_socket_listen(fixture->fd, "s", &new, NULL), 0);
    assert_int_equal(unix_socket_connect(fixture->fd, "s", &client, NULL), 0);
    auto_close int server = accept4(new, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    assert_true(server >= 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            connect_when_somebody_listens_in_a_deep_directory_reaches_it, setup, teardown),
        cmocka_unit_test_setup_teardown(connect_when_nobody_listens_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(connect_when_too_many_wait_is_no_limit_of_the_host, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(listen_when_an_old_socket_is_there_replaces_it, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
