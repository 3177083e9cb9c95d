#!/bin/sh
# SPDX-License-Identifier: MIT
#
# No file uses another that uses it, be it by way of others: so each can be read and tested with
# what stands below it, and nothing else. The same holds for folders. Which symbols a file has and
# which it uses is in its object file; nm tells.
#
#   check_circles.sh BUILD_ROOT
set -eu

# Reads what `nm -AP` says ("OBJECT: SYMBOL TYPE …"). Fails if there is a circle, and tells the
# shortest one of each folder.
find_circles() {
    awk '
# meson names an object after its source and its target: src/libhypefs-core.a.p/fork_engine.c.o,
# src/cli/hypefs.p/main.c.o, src/guest/hypefs-guest.p/.._mailbox_frame.c.o.
function source_of(object,    folder, file) {
    sub(/:$/, "", object)
    folder = file = object
    sub(/.*\//, "", file)
    sub(/\.o$/, "", file)
    if (folder ~ /^src\/libhypefs-core/ || sub(/^\.\._/, "", file)) {
        sub(/_/, "/", file)
        return file
    }
    sub(/^src\//, "", folder)
    sub(/\/.*/, "", folder)
    return folder "/" file
}

function folder_of(source) {
    sub(/\/.*/, "", source)
    return source
}

# `why`: for the report.
function add_use(user, used, why) {
    if (!((user, used) in reason))
        next_of[user] = next_of[user] " " used
    reason[user, used] = reason[user, used] (reason[user, used] ? ", " : "") why
}

# The shortest way from `start` back to it, as words; "" if there is none.
function way_back(start,    queue, head, tail, from, n, i, to, way) {
    queue[tail = 1] = start
    way[start] = start
    for (head = 1; head <= tail; head++) {
        n = split(next_of[queue[head]], to, " ")
        for (i = 1; i <= n; i++) {
            if (to[i] == start)
                return way[queue[head]] " " start
            if (!(to[i] in way)) {
                way[to[i]] = way[queue[head]] " " to[i]
                queue[++tail] = to[i]
            }
        }
    }
    return ""
}

# Keeps the shortest circle of the group: a folder, or "" of the folders themselves.
function look(node, group,    way, words) {
    way = way_back(node)
    if (way != "" && (!(group in circle) || split(way, words, " ") < split(circle[group], words, " ")))
        circle[group] = way
}

$3 ~ /^[Uvw]$/ {
    user[++uses] = source_of($1)
    wanted[uses] = $2
    next
}

{
    source = source_of($1)
    several[$2] = ($2 in owner) && owner[$2] != source # main
    owner[$2] = source
}

END {
    for (i = 1; i <= uses; i++) {
        from = user[i]
        to = owner[wanted[i]]
        if (to == "" || to == from || several[wanted[i]] || done[from, wanted[i]]++)
            continue
        if (folder_of(from) != folder_of(to))
            add_use(folder_of(from), folder_of(to), from " uses " to " (" wanted[i] ")")
        else
            add_use(from, to, wanted[i])
    }
    for (node in next_of)
        look(node, node ~ /\// ? folder_of(node) : "")
    for (group in circle) {
        print (group == "" ? "Folders" : "Files of " group "/") " use each other in a circle:"
        n = split(circle[group], node_of, " ")
        for (i = 1; i < n; i++)
            print "    " node_of[i] " uses " node_of[i + 1] ": " reason[node_of[i], node_of[i + 1]]
        failed = 1
    }
    if (failed)
        print "Move what both need into a file below them, or give it from above, as an argument."
    exit failed
}'
}

cd "$1"
symbols=$(mktemp)
trap 'rm -f "$symbols"' EXIT

sample='fs/t.p/a.c.o: f T\nfs/t.p/a.c.o: g U\nfs/t.p/b.c.o: g T\nfs/t.p/b.c.o: f U\n'
if printf '%b' "$sample" | find_circles >"$symbols"; then
    echo "this check does not find a circle of two files"
    exit 1
fi

# What is preloaded has names of the C library.
find fs src -path src/preload -prune -o -name '*.c.o' -exec nm -AP -g {} + >"$symbols"
[ "$(wc -l <"$symbols")" -gt 1000 ] # else this looks in the wrong place
find_circles <"$symbols"
