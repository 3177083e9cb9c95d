/* SPDX-License-Identifier: MIT */
#include "mailbox/rearm.h"

#include <errno.h>
#include <inttypes.h>
#include <sha2.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/json.h"

static const char *const kind_names[FRAME_KINDS] = {
    [FRAME_FORK] = "fork", [FRAME_NETWORK] = "network"};

typedef char digest[SHA256_DIGEST_STRING_LENGTH];

static void digest_of(const void *bytes, size_t size, digest ret)
{
    SHA256Data(bytes, size, ret);
}

cJSON *rearm_record(const struct delivery *delivery)
{
    uint8_t marker[FRAME_MARKER_MAX];
    digest marker_digest, payload_digest;
    frame_encode_marker(&delivery->targets[0]->marker, marker);
    digest_of(marker, frame_layouts[delivery->kind].sequence, marker_digest);
    digest_of(delivery->payload, delivery->payload_size, payload_digest);
    explicit_bzero(marker, sizeof marker);

    cJSON *json = cJSON_CreateObject();
    cJSON *offsets = json_add_array(json, "offsets");
    cJSON *sequences = json_add_array(json, "sequences");
    json_add_string(json, "kind", kind_names[delivery->kind]);
    json_add_number(json, "bytes", (double)delivery->payload_size);
    json_add_string(json, "marker", marker_digest);
    json_add_string(json, "payload", payload_digest);
    for (size_t i = 0; i < delivery->target_count; i++) {
        json_append(offsets, cJSON_CreateNumber((double)delivery->targets[i]->offset));
        json_append(sequences, cJSON_CreateNumber(deliver_sequence(delivery, i)));
    }
    return json;
}

struct record {
    enum frame_kind kind;
    const cJSON *offsets, *sequences;
    size_t size;                  /* of the payload */
    const char *marker, *payload; /* digests */
};

static bool read_record(const cJSON *json, struct record *ret)
{
    const char *kind = json_get_text(json, "kind");
    const cJSON *bytes = json_get(json, "bytes");
    *ret = (struct record){.kind = FRAME_KINDS,
                           .offsets = json_get(json, "offsets"),
                           .sequences = json_get(json, "sequences"),
                           .marker = json_get_text(json, "marker"),
                           .payload = json_get_text(json, "payload")};
    for (int i = 0; i < FRAME_KINDS && kind; i++)
        if (strcmp(kind, kind_names[i]) == 0)
            ret->kind = (enum frame_kind)i;
    if (ret->kind == FRAME_KINDS || !cJSON_IsArray(ret->offsets) || !ret->marker || !ret->payload ||
        !cJSON_IsNumber(bytes) || bytes->valuedouble < 0 || bytes->valuedouble > FRAME_SIZE)
        return false;
    ret->size = (size_t)bytes->valuedouble;
    return true;
}

/* Where the frames are. */
struct memory {
    const struct memory_io *io;
    uint64_t size;
    struct page_set *written; /* or NULL */
    bool is_image;            /* nobody waits for a reply in it: they are wiped, too */
};

/* A copy that was written to, as it is in the memory. */
struct copy {
    uint64_t offset;
    uint32_t sequence; /* that was written; 1: of a plain frame */
    uint8_t frame[FRAME_SIZE];
    size_t size; /* of the frame: 0 when it is not in the memory, which may be of a VM that was
                    booted since, with less */
};

static bool is_declared(const struct copy *copy)
{
    return copy->sequence != 1;
}

/* Is it declared by now, whatever it was when the payload was written? */
static bool is_declared_now(const struct record *record, const struct copy *copy)
{
    const size_t length = frame_layouts[record->kind].length;
    return is_declared(copy) || (copy->size == FRAME_SIZE &&
                                 frame_length_declares(frame_load_u32(copy->frame + length)));
}

/* A frame ends with the page that it begins in. */
static int read_copy(const struct memory *memory, const cJSON *offset, const cJSON *sequence,
                     struct copy *ret, struct error *err)
{
    if (!cJSON_IsNumber(offset) || offset->valuedouble < 0 || offset->valuedouble > 0x1p53)
        return error_set(err, EIO, "the record of a delivery has no offset");
    ret->offset = (uint64_t)offset->valuedouble;
    ret->sequence = 1;
    size_t size = FRAME_SIZE - (size_t)(ret->offset % FRAME_SIZE);
    if (size == FRAME_SIZE && cJSON_IsNumber(sequence) &&
        sequence->valuedouble >= FRAME_SEQUENCE_MIN && sequence->valuedouble <= FRAME_SEQUENCE_MAX)
        ret->sequence = (uint32_t)sequence->valuedouble;
    ret->size = ret->offset + size <= memory->size ? size : 0;
    return ret->size > 0 ? memory->io->read(memory->io->context, ret->offset, ret->frame, size, err)
                         : 0;
}

enum verdict { OTHER, CONSUMED, TWIN };

static enum verdict judge(const struct record *record, const struct copy *copy)
{
    const struct frame_layout *layout = &frame_layouts[record->kind];
    const uint8_t *frame = copy->frame;
    digest found;
    if (copy->size < layout->payload)
        return OTHER;
    digest_of(frame, layout->sequence, found);
    if (strcmp(found, record->marker) != 0)
        return OTHER;
    uint32_t sequence = frame_load_u32(frame + layout->sequence);
    const bool taken = is_declared(copy) && frame_load_u32(frame + FRAME_TAKEN) == copy->sequence;
    if (sequence == 0)
        return is_declared(copy) && !taken ? OTHER : CONSUMED;
    if (taken) /* the guest is at work on it, and arms the frame when that is done */
        return OTHER;
    if (sequence != copy->sequence || frame_load_u32(frame + layout->length) != record->size ||
        record->size > copy->size - layout->payload)
        return OTHER;
    digest_of(frame + layout->payload, record->size, found);
    return strcmp(found, record->payload) == 0 ? TWIN : OTHER;
}

/* Payload, length and sequence become zeros; a declared frame stays one, with its tail. */
static int arm(const struct memory *memory, const struct record *record, const struct copy *copy,
               struct error *err)
{
    const struct frame_layout *layout = &frame_layouts[record->kind];
    uint8_t armed[FRAME_SIZE] = {0};
    size_t size = layout->payload - layout->sequence + record->size;
    if (is_declared_now(record, copy)) {
        size = FRAME_TAIL - layout->sequence;
        frame_store_u32(armed + layout->length - layout->sequence, FRAME_DECLARED);
    }
    if (memcmp(copy->frame + layout->sequence, armed, size) == 0)
        return 0;
    if (memory->written)
        page_set_add(memory->written, copy->offset, copy->size);
    return memory->io->write(memory->io->context, copy->offset + layout->sequence, armed, size,
                             err);
}

/* First to see whether one of them was consumed, then to arm the others, and to wipe replies. */
static int go_through(const struct memory *memory, const struct record *record, bool arming,
                      bool *ret_consumed, struct error *err)
{
    const cJSON *item, *sequence = cJSON_GetArrayItem(record->sequences, 0);
    cJSON_ArrayForEach (item, record->offsets) {
        struct copy copy = {0};
        int r = read_copy(memory, item, sequence, &copy, err);
        enum verdict verdict = r == 0 ? judge(record, &copy) : OTHER;
        const bool may_reply =
            memory->is_image && verdict == CONSUMED && is_declared_now(record, &copy);
        if (arming && (verdict == TWIN || may_reply))
            r = arm(memory, record, &copy, err);
        explicit_bzero(copy.frame, sizeof copy.frame);
        if (r < 0)
            return r;
        *ret_consumed |= verdict == CONSUMED;
        sequence = sequence ? sequence->next : NULL;
    }
    return 0;
}

/* `all`: also of what was taken in none of its copies. */
static int go_through_all(const struct memory *memory, const cJSON *records, bool all,
                          struct error *err)
{
    const cJSON *item;
    int r = 0;
    cJSON_ArrayForEach (item, records) {
        struct record record;
        bool consumed = false;
        if (!read_record(item, &record))
            return error_set(err, EIO, "the record of a delivery is not valid");
        r = go_through(memory, &record, false, &consumed, err);
        if (r == 0 && (consumed || all || cJSON_IsTrue(json_get(item, REARM_WITHDRAW))))
            r = go_through(memory, &record, true, &consumed, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int rearm_memory(const struct memory_io *io, uint64_t size, const cJSON *records, struct error *err)
{
    const struct memory memory = {.io = io, .size = size};
    return go_through_all(&memory, records, false, err);
}

int rearm_withdraw(const struct memory_io *io, uint64_t size, const cJSON *records,
                   struct error *err)
{
    const struct memory memory = {.io = io, .size = size};
    return go_through_all(&memory, records, true, err);
}

static int read_image(void *context, uint64_t offset, void *bytes, size_t size, struct error *err)
{
    ssize_t got = pread(*(int *)context, bytes, size, (off_t)offset);
    return got == (ssize_t)size
               ? 0
               : error_errno(err, got < 0 ? errno : EIO,
                             "a frame at %" PRIu64 " cannot be read from the image", offset);
}

static int write_image(void *context, uint64_t offset, const void *bytes, size_t size,
                       struct error *err)
{
    ssize_t put = pwrite(*(int *)context, bytes, size, (off_t)offset);
    return put == (ssize_t)size
               ? 0
               : error_errno(err, put < 0 ? errno : EIO,
                             "a frame at %" PRIu64 " cannot be armed again", offset);
}

int rearm_image(int fd, const cJSON *records, struct page_set *written, struct error *err)
{
    const struct memory_io io = {read_image, write_image, &fd};
    struct stat st;
    if (fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot stat the image");
    const struct memory memory = {
        .io = &io, .size = (uint64_t)st.st_size, .written = written, .is_image = true};
    return go_through_all(&memory, records, false, err);
}
