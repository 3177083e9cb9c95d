#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The guest library shows its users what hypefs-guest.h declares, all of it and nothing else.
#
#   check_guest_exports.sh HEADER SHARED_LIBRARY
set -eu

declared=$(grep -o 'hypefs_[a-z]*_[a-z]*(const\|hypefs_[a-z]*_[a-z]*(struct' "$1" |
    sed 's/(.*//' | sort)
exported=$(nm -D --defined-only "$2" | awk '{ print $3 }' | sort)
[ -n "$declared" ] && [ "$declared" = "$exported" ] && exit 0
printf 'declared in %s:\n%s\nexported by %s:\n%s\n' "$1" "$declared" "$2" "$exported"
exit 1
