/* SPDX-License-Identifier: MIT */
#include "fs/document.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

void document_finish(struct document *document)
{
    free_wiped(document->text, document->size);
    free(document->refused);
    *document = (struct document){0};
}

void document_refuse(struct document *document, const char *why)
{
    free(document->refused);
    document->refused = strdup(why);
}

void document_accept(struct document *document)
{
    document->unfinished = false;
    free(steal_pointer(document->refused));
}

char *document_copy(const char *text, size_t size)
{
    char *copy = malloc(size + 1);
    if (copy) {
        memcpy(copy, text, size);
        copy[size] = '\0';
    }
    return copy;
}

int document_set(struct document *document, const char *text, size_t size)
{
    char *copy = document_copy(text, size);
    if (!copy)
        return -ENOMEM;
    free_wiped(document->text, document->size);
    document->text = copy;
    document->size = size;
    return 0;
}

int document_begin(struct document *document)
{
    int r = document_set(document, "", 0);
    if (r == 0) {
        document_accept(document);
        document->unfinished = true;
    }
    return r;
}
