/* SPDX-License-Identifier: MIT */
/* text: words from outside, made fit to be shown on a terminal and put into JSON. Pure. */
#ifndef HYPEFS_UTIL_TEXT_H
#define HYPEFS_UTIL_TEXT_H

#include <stddef.h>
#include <stdio.h>

/*
 * Copies text[0..size) to `ret` (`room` bytes with the NUL; may be NULL if that is 0), with \uXXXX
 * in the place of what a terminal or an editor would act on: control characters (but those in
 * `keep`), DEL, C1 (U+0080 to U+009F), separators of lines and paragraphs (U+2028, U+2029) and
 * changes of the direction of writing (U+202A to U+202E, U+2066 to U+2069). In a printed JSON text
 * these are in strings only, so it stays the same JSON. A byte that is no UTF-8 becomes '?'. Done
 * twice, it changes nothing more. Returns the bytes that all of it takes; what has no room is cut
 * between characters.
 */
size_t text_escape(const char *text, size_t size, const char *keep, char *ret, size_t room);
/* The same, owned by the caller; NULL without memory. */
char *text_escaped(const char *text, size_t size, const char *keep);

/* Control characters, C1 too, become `instead`; every byte over 0x7F of a text that is not UTF-8 as
 * a whole becomes '?'. The size stays. */
void text_make_printable(char *text, size_t size, char instead);

/* Makes UTF-8 of a text with a NUL whose parts may have been cut inside a character: what is left
 * of one at the end goes, other wrong bytes become '?'. */
void text_make_utf8(char *text);

/* Closes what open_memstream() opened for that text. Returns owned; NULL if memory was missing for
 * a part of it. */
char *text_finish(FILE *memstream, char **text);

#endif
