/* SPDX-License-Identifier: MIT */
#include "fs/entry.h"

#include <errno.h>
#include <string.h>

ino_t entry_ino(const struct object *object, const struct entry *entry,
                const struct mailbox_file *mailbox)
{
    ino_t number = mailbox ? mailbox->number & 0xFFFF : 0;
    return (ino_t)object->serial << 28 | number << 12 | (ino_t)object->kind << 8 | entry->number;
}

struct document *place_document(const struct place *place)
{
    size_t at = place->entry->file->document;
    return at ? (void *)((char *)place->object + at) : NULL;
}

int text_check(const char *text, size_t size, struct json_span *ret, struct error *err)
{
    struct json_check check;
    enum json_status status = json_check(text, size, &check);
    *ret = check.object;
    if (status == JSON_COMPLETE)
        return 1;
    error_set(err, EINVAL, "line %u, column %u: %s", check.line, check.column,
              status == JSON_INVALID ? check.why : "the JSON object is not complete");
    return status == JSON_INVALID ? -EINVAL : 0;
}

int place_check(const struct place *place, const char *text, size_t size, struct error *err)
{
    struct json_span object;
    int complete = text_check(text, size, &object, err);
    int r = complete > 0 ? place->entry->file->check(place, text, object, err) : complete;
    return r < 0 ? r : complete;
}

char *place_text(const struct place *place, size_t *ret_size)
{
    const struct document *document = place_document(place);
    if (document && document->text) {
        *ret_size = document->size;
        return document_copy(document->text, document->size);
    }
    char *text = place->entry->file->text(place);
    *ret_size = text ? strlen(text) : 0;
    return text;
}
