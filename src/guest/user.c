/* SPDX-License-Identifier: MIT */
#include "guest/user.h"

#include <errno.h>
#include <grp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/internal.h"

enum { FIELDS = 7 }; /* of /etc/passwd: name, password, uid, gid, comment, home, shell */

/* Splits a line at its colons. Returns how many fields there are. */
static size_t split(char *line, char *ret[FIELDS])
{
    size_t count = 0;
    line[strcspn(line, "\n")] = '\0';
    while (line && count < FIELDS)
        ret[count++] = strsep(&line, ":");
    return count;
}

static bool read_id(const char *text, unsigned *ret)
{
    int64_t id;
    if (!guest_number((struct guest_span){text, strlen(text)}, UINT32_MAX - 1, &id))
        return false;
    *ret = (unsigned)id;
    return true;
}

static bool take_line(char *line, const char *name, struct user *ret)
{
    char *fields[FIELDS];
    unsigned uid, gid;
    if (split(line, fields) < FIELDS || !read_id(fields[2], &uid) || !read_id(fields[3], &gid) ||
        (strcmp(fields[0], name) != 0 && strcmp(fields[2], name) != 0))
        return false;
    *ret = (struct user){.uid = uid, .gid = gid, .groups = {gid}, .group_count = 1};
    snprintf(ret->name, sizeof ret->name, "%s", fields[0]);
    snprintf(ret->home, sizeof ret->home, "%s", fields[5]);
    snprintf(ret->shell, sizeof ret->shell, "%s", fields[6]);
    return true;
}

static bool has_member(char *members, const char *name)
{
    for (char *member; (member = strsep(&members, ","));)
        if (strcmp(member, name) == 0)
            return true;
    return false;
}

static void add_groups(struct user *user)
{
    FILE *file = fopen("/etc/group", "re");
    char *line = NULL, *fields[FIELDS];
    size_t size = 0;
    unsigned gid;
    while (file && getline(&line, &size, file) >= 0 && user->group_count < USER_GROUPS_MAX)
        if (split(line, fields) == 4 && read_id(fields[2], &gid) && gid != user->gid &&
            has_member(fields[3], user->name))
            user->groups[user->group_count++] = gid;
    free(line);
    if (file)
        fclose(file);
}

int user_find(const char *name, struct user *ret)
{
    FILE *file = fopen("/etc/passwd", "re");
    char *line = NULL;
    size_t size = 0;
    unsigned uid;
    bool found = false;
    while (file && !found && getline(&line, &size, file) >= 0)
        found = take_line(line, name, ret);
    free(line);
    if (file)
        fclose(file);
    if (found) {
        add_groups(ret);
        return 0;
    }
    if (!read_id(name, &uid))
        return -ESRCH;
    *ret = (struct user){
        .uid = uid, .gid = uid, .groups = {uid}, .group_count = 1, .home = "/", .shell = "/bin/sh"};
    return 0;
}

int user_set_environment(const struct user *user)
{
    const char *const values[][2] = {{"HOME", user->home},
                                     {"SHELL", user->shell},
                                     {"USER", user->name},
                                     {"LOGNAME", user->name}};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        if ((values[i][1][0] ? setenv(values[i][0], values[i][1], 1) : unsetenv(values[i][0])) < 0)
            return -errno;
    return 0;
}

int user_become(const struct user *user)
{
    if (user->uid != 0 && geteuid() == user->uid && getegid() == user->gid)
        return 0;
    return setgroups(user->group_count, user->groups) < 0 || setgid(user->gid) < 0 ||
                   setuid(user->uid) < 0
               ? -errno
               : 0;
}
