/* SPDX-License-Identifier: MIT */
/* text: words from outside, made fit to be shown on a terminal and put into JSON. Pure. */
#ifndef HYPEFS_UTIL_TEXT_H
#define HYPEFS_UTIL_TEXT_H

#include <stddef.h>
#include <stdio.h>

/* Copies text[0..size) to `ret` (`room` bytes with the NUL; may be NULL if that is 0), with \uXXXX
 * for what a terminal or an editor would act on: control characters (but those in `keep`), DEL, C1
 * (U+0080 to U+009F), U+2028 and U+2029 (ends of lines), U+202A to U+202E and U+2066 to U+2069
 * (directions). A printed JSON text stays the same JSON, for it has these in strings only. A byte
 * that is no UTF-8 becomes '?'. Returns the bytes that all of it takes; what has no room is cut. */
size_t text_escape(const char *text, size_t size, const char *keep, char *ret, size_t room);
/* The same, owned by the caller; NULL without memory. */
char *text_escaped(const char *text, size_t size, const char *keep);

/* Control characters, C1 too, become `instead`; bytes over 0x7F '?', if the text is not UTF-8. */
void text_make_printable(char *text, size_t size, char instead);

/* Makes UTF-8 of a text with a NUL whose parts may have been cut inside a character: what is left
 * of one at the end goes, other wrong bytes become '?'. */
void text_make_utf8(char *text);

/* Closes what open_memstream() opened for that text. Returns owned; NULL without memory. */
char *text_finish(FILE *memstream, char **text);

#endif
