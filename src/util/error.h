/* SPDX-License-Identifier: MIT */
/*
 * error: why something failed, for a person to read.
 *
 * The caller owns a `struct error`, usually on its stack. The function that knows the failure sets
 * code and text; each caller on the way up may prefix what it was doing. Functions return 0 or
 * -errno and leave all other outputs untouched on failure. Every function here takes a NULL error,
 * for callers who want only the number. Texts are always UTF-8, with escapes for what a terminal
 * would act on.
 */
#ifndef HYPEFS_UTIL_ERROR_H
#define HYPEFS_UTIL_ERROR_H

enum { ERROR_TEXT_SIZE = 1024 }; /* bytes with the NUL; longer texts are cut */

struct error {
    int code; /* a positive errno, 0 while nothing has failed */
    char text[ERROR_TEXT_SIZE];
};

/* Sets code and text. Returns -code, so that failing is one line: return error_set(err, …); */
int error_set(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, with ": " and the system's words for `code` behind the text; of a limit that the host
 * sets, also which one that is, its value, and what raises it (limit.h). */
int error_errno(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, of what only fails where something is damaged: EIO, but for the errnos of limits. */
int error_io(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

enum { ERROR_WORDS_MAX = 300 }; /* bytes of a program's words in a text */

/* "format: words", as one line, for a program that has failed with these words. The code is that of
 * the host's limit that they name, with what raises it; else EIO. */
int error_words(struct error *err, const char *words, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts more behind the text that is there. */
void error_append(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "format: " before the text that is there. Returns `ret`, the callee's return value. */
int error_prefix(struct error *err, int ret, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The errno's macro name ("EINVAL"), or "E?" for one that hypefs does not use. */
const char *error_name(int code);

#endif
