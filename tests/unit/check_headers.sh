#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Each header compiles alone, so that nobody has to know what must be included before it.
#
#   check_headers.sh SOURCE_ROOT COMPILER…
set -eu

root=$1
shift
cd "$root"
headers=$(find src fs -name '*.h' | sort)
[ -n "$headers" ] || {
    echo "$root: no headers"
    exit 1
}
flags="-std=gnu17 -D_GNU_SOURCE -Wall -Wextra -Werror -Wno-missing-field-initializers -Isrc -I."
# shellcheck disable=SC2046,SC2086 # lists of words
set -- "$@" $flags $(pkg-config --cflags fuse3 libcjson libcurl)

failed=0
for header in $headers; do
    # Twice, for the include guard. Static functions of a header are not used here.
    printf '#include "%s"\n#include "%s"\n' "$header" "$header" |
        "$@" -Wno-unused-function -fsyntax-only -x c - || {
        echo "$header does not compile alone"
        failed=1
    }
done
exit $failed
