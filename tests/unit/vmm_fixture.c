/* SPDX-License-Identifier: MIT */
#include "vmm_fixture.h"

#include "place.h"

static size_t fixture_descriptors(void)
{
    auto_closedir DIR *directory = opendir("/proc/self/fd");
    size_t count = 0;
    while (directory && readdir(directory))
        count++;
    return count;
}

int fixture_setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    if (!fixture)
        return -1;
    fixture->descriptors = fixture_descriptors();
    *state = fixture;
    if (place_make(fixture->base, sizeof fixture->base, "hypefs vmm,share=on") < 0)
        return -1;
    fixture->base_fd = open(fixture->base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fixture->qemu = hypervisor_find("qemu");
    return fixture->base_fd < 0 ? -1 : vmm_programs_create(&fixture->programs, NULL);
}

/* Those of this thread, with what they have started. Returns how many there were. */
static size_t fixture_end_children(void)
{
    auto_fclose FILE *file = fopen("/proc/thread-self/children", "re");
    size_t count = 0;
    for (int child; file && fscanf(file, "%d", &child) == 1; count++) {
        kill(-child, SIGKILL);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return count;
}

int fixture_teardown(void **state)
{
    struct fixture *fixture = *state;
    size_t children = fixture_end_children();
    for (size_t i = 0; i < fixture->directory_count; i++)
        close(fixture->directories[i]);
    close(fixture->base_fd);
    vmm_programs_destroy(fixture->programs);
    place_remove(fixture->base);
    size_t before = fixture->descriptors, after = fixture_descriptors();
    free(fixture);
    if (before != after)
        print_error("%zu descriptors were open before, and %zu after\n", before, after);
    if (children > 0)
        print_error("%zu processes were left\n", children);
    return before == after && children == 0 ? 0 : -1;
}

struct vmm_context fixture_context(struct fixture *fixture, const char *name, const char *binary)
{
    assert_true(fixture->directory_count < FIXTURE_DIRECTORIES);
    assert_int_equal(mkdirat(fixture->base_fd, name, 0700), 0);
    int fd = openat(fixture->base_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    fixture->directories[fixture->directory_count++] = fd;
    return (struct vmm_context){.binary = binary,
                                .programs = fixture->programs,
                                .directory_fd = fd,
                                .entry_fd = fd,
                                .cancel_fd = -1};
}

void fixture_write(int directory_fd, const char *name, mode_t mode, const void *bytes, size_t size)
{
    auto_close int fd = openat(directory_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), (ssize_t)size);
}

char *fixture_read(int directory_fd, const char *name, size_t *ret_size)
{
    auto_close int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC);
    struct stat file;
    if (fd < 0)
        return NULL;
    assert_int_equal(fstat(fd, &file), 0);
    size_t size = (size_t)file.st_size;
    char *bytes = malloc(size + 1);
    assert_non_null(bytes);
    assert_int_equal(read(fd, bytes, size), (ssize_t)size);
    bytes[size] = '\0';
    if (ret_size)
        *ret_size = size;
    return bytes;
}

bool fixture_has(int directory_fd, const char *name)
{
    return faccessat(directory_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

char *fixture_script(const struct fixture *fixture, const char *name, const char *text)
{
    char *path = NULL;
    assert_true(asprintf(&path, "%s/%s", fixture->base, name) > 0);
    fixture_write(fixture->base_fd, name, 0700, text, strlen(text));
    return path;
}
