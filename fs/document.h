/* SPDX-License-Identifier: MIT */
/*
 * document: the text of a collected file, and whether it is unfinished or was refused. Not: the
 * bytes that an open file has collected so far (handle.h), nor what a text means (the tables).
 *
 * Lock: objects.lock guards each document.
 */
#ifndef HYPEFS_FS_DOCUMENT_H
#define HYPEFS_FS_DOCUMENT_H

#include <stdbool.h>
#include <stddef.h>

enum { DOCUMENT_MAX = 16 * 1024 }; /* bytes */

struct document {
    char *text; /* owned; not NUL-terminated; NULL: never written */
    size_t size;
    bool unfinished; /* begun, and not complete */
    char *refused;   /* owned: why the last text was refused; NULL: it was not */
};

void document_finish(struct document *document);
/* O_TRUNC, truncation to 0; a file that was just created is like this, too. -ENOMEM. */
int document_begin(struct document *document);
/* -ENOMEM. */
int document_set(struct document *document, const char *text, size_t size);
/* A copy of a text that may have NULs, with one more behind it; owned; NULL without memory. */
char *document_copy(const char *text, size_t size);
void document_refuse(struct document *document, const char *why);
/* It is complete, and not refused. */
void document_accept(struct document *document);

#endif
