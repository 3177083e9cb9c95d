/* SPDX-License-Identifier: MIT */
/* text: words from outside, made fit to be shown on a terminal and put into JSON. Pure. */
#ifndef HYPEFS_UTIL_TEXT_H
#define HYPEFS_UTIL_TEXT_H

#include <stddef.h>

/* Control characters, C1 too, become `instead`; every byte over 0x7F of a text that is not UTF-8 as
 * a whole becomes '?'. The size stays. */
void text_make_printable(char *text, size_t size, char instead);

/* Makes UTF-8 of a text with a NUL whose parts may have been cut inside a character: what is left
 * of one at the end goes, other wrong bytes become '?'. */
void text_make_utf8(char *text);

#endif
