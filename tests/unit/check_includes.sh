#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Includes go one way: each layer uses itself and what stands before it, and only the places meant
# for it know libfuse.
#
#   check_includes.sh SOURCE_ROOT
set -eu

cd "$1"

# "file what" for each #include of the sources: what is <x>, or "x" without its quotes.
includes=$(grep -rHE --include='*.[ch]' '^[[:space:]]*#[[:space:]]*include' src fs |
    sed -E 's/^([^:]*):[^<"]*(<[^>]*>|"([^"]*)").*/\1 \2/; s/"//g')

printf '%s\n' "$includes" | awk '
BEGIN {
    may["util"] = "util"
    may["mailbox"] = "util mailbox"
    may["guest"] = "guest"
    may["confine"] = "confine"
    may["hypervisor"] = "util mailbox hypervisor"
    may["store"] = "util mailbox store"
    may["instance"] = "util mailbox hypervisor store instance"
    may["fork"] = "util mailbox hypervisor store instance fork"
    may["fs"] = "util mailbox hypervisor store instance fork fs"
    may["cli"] = "util mailbox hypervisor store instance fork fs cli"
    # What guests are built from, too.
    for_guests = "^src/(mailbox/(frame|address)|util/(base64|hex|json_check|json_walk|utf8))[.]"
    # A backend is the files whose names begin so, and knows no other.
    backend["qemu"] = backend["qmp"] = "QEMU"
    backend["firecracker"] = "Firecracker"
    backend["cloud"] = "Cloud Hypervisor"
}

function complain(why) {
    print file ": includes " what ": " why
    failed = 1
}

# The backend that a path in hypervisor/ belongs to, "" for the layer as a whole.
function backend_of(path) {
    sub(/.*\//, "", path)
    sub(/[_.].*/, "", path)
    return backend[path]
}

{
    file = $1
    what = $2
    count++
    layer = file
    sub(/^src\//, "", layer)
    sub(/\/.*/, "", layer)
    if (("src/" what) !~ for_guests && file ~ for_guests && what !~ /^</)
        complain("guests link it: it may use libc and what they link")
    if (what ~ /^<fuse/) {
        if (file !~ /^fs\/ops/ && file !~ /^src\/cli\/mount/)
            complain("only fs/ops* and src/cli/mount* know libfuse")
        next
    }
    if (what ~ /^</)
        next
    if (!(layer in may)) {
        complain("the folder " layer " is no layer known here")
        next
    }
    if (layer == "guest" && ("src/" what) ~ for_guests)
        next
    to = what
    sub(/\/.*/, "", to)
    if (index(" " may[layer] " ", " " to " ") == 0)
        complain(layer " may use only: " may[layer])
    if (to == "hypervisor" && layer == "hypervisor" && backend_of(what) != "" &&
        backend_of(file) != "" && backend_of(what) != backend_of(file))
        complain("backends do not know each other")
    if (to == "hypervisor" && layer != "hypervisor" && backend_of(what) != "")
        complain("backends are known by hypervisor.h alone")
}

END {
    if (count < 100)
        complain("too few includes were found for this check to mean anything")
    exit failed
}'
