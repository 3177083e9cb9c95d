#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Trees are built and printed by json.h alone, which remembers what a tree lacks; and directories are
# read by directory.h alone, which tells the end from a failure.
#
#   check_json.sh SOURCE_ROOT
set -eu

cd "$1"
status=0

# Where PATTERN is, but in the files named.
refuse() {
    pattern=$1 except=$2 remedy=$3
    found=$(grep -rnE --include='*.[ch]' "$pattern" src fs | grep -vE "^($except):") || return 0
    printf '%s\n' "$found"
    echo "$remedy"
    status=1
}

refuse 'cJSON_(Add|Insert|Replace|Print)[A-Za-z]*\(' 'src/util/json_(build|print)\.c' \
    'use json_add… and json_print of util/json.h: they remember that memory ran out'
refuse '\<readdir\(' 'src/util/directory\.[ch]' \
    'use directory_walk of util/directory.h: it tells the end of a directory from a failure'
[ -n "$(grep -rl json_add_string src fs)" ] # else this looks in the wrong place
exit $status
