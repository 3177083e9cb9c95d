/* SPDX-License-Identifier: MIT */
#include "fork/internal.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/hex.h"

const char fork_options_default[] = "{\n"
                                    "  \"target_state\": \"running\",\n"
                                    "  \"wait_for_network\": true,\n"
                                    "  \"from_running\": false,\n"
                                    "  \"on_ack_failure\": \"destroy\",\n"
                                    "  \"tap\": null,\n"
                                    "  \"taps\": null,\n"
                                    "  \"ack_address\": null,\n"
                                    "  \"identity\": false,\n"
                                    "  \"keep_reply\": false,\n"
                                    "  \"console_max_bytes\": null\n"
                                    "}\n";

static void finish_mailbox(struct fork_mailbox *mailbox)
{
    free_wiped(mailbox->payload, mailbox->payload_size);
    consume_finish(&mailbox->consume);
}

void fork_request_finish(struct fork_request *request)
{
    struct fork_network *network = &request->network;
    for (size_t i = 0; i < request->count; i++)
        finish_mailbox(&request->mailboxes[i]);
    finish_mailbox(&network->mailbox);
    explicit_bzero(request->mailboxes, sizeof request->mailboxes);
    explicit_bzero(network, sizeof *network);
    request->count = 0;
    free(steal_pointer(request->options.tap));
    cJSON_Delete(steal_pointer(request->options.taps));
    free(steal_pointer(request->options.ack_address));
    free(steal_pointer(request->options_text));
}

static bool copy_payload(struct fork_mailbox *mailbox)
{
    const char *payload = mailbox->payload;
    if (!payload)
        return true;
    mailbox->payload = malloc(mailbox->payload_size + 1);
    if (mailbox->payload)
        memcpy(mailbox->payload, payload, mailbox->payload_size + 1);
    return mailbox->payload;
}

static bool copy_text(char **text)
{
    return !*text || (*text = strdup(*text)) != NULL;
}

int fork_request_copy(const struct fork_request *request, struct fork_request *ret,
                      struct error *err)
{
    struct fork_options *options = &ret->options;
    *ret = *request;
    bool whole = copy_payload(&ret->network.mailbox);
    for (size_t i = 0; i < ret->count; i++)
        whole = copy_payload(&ret->mailboxes[i]) && whole;
    whole = copy_text(&ret->options_text) && whole;
    whole = copy_text(&options->tap) && whole;
    whole = copy_text(&options->ack_address) && whole;
    options->taps = cJSON_Duplicate(options->taps, true);
    if (whole && (!request->options.taps || json_is_whole(options->taps)))
        return 0;
    fork_request_finish(ret);
    return error_set(err, ENOMEM, "out of memory");
}

/* The members of a mailbox request; the payload's own text is never given to cJSON. */
struct mailbox_members {
    const cJSON *payload, *ack_timeout_ms;
    char *token, *token_hex;
    bool wait_for_ack;
    int ack;
};

const char *const fork_ack_words[] = {"memory", "udp", "keyed", NULL};

static const struct json_field mailbox_fields[] = {
    {JSON_MEMBER(struct mailbox_members, payload), .kind = JSON_OBJECT, .required = true},
    {JSON_MEMBER(struct mailbox_members, token), .kind = JSON_STRING},
    {JSON_MEMBER(struct mailbox_members, token_hex), .kind = JSON_STRING},
    {JSON_MEMBER(struct mailbox_members, wait_for_ack), .kind = JSON_BOOL},
    {JSON_MEMBER(struct mailbox_members, ack), .kind = JSON_WORD, .words = fork_ack_words},
    {JSON_MEMBER(struct mailbox_members, ack_timeout_ms), .kind = JSON_ANY},
};

/* The first member of the object that only a request has, or NULL. */
static const char *request_member(const char *text, struct json_span object)
{
    size_t position = object.start;
    struct json_member member;
    while (json_next_member(text, object, &position, &member))
        for (size_t i = 0; i < array_length(mailbox_fields); i++)
            if (json_name_is(text, member.name, mailbox_fields[i].name))
                return mailbox_fields[i].name;
    return NULL;
}

/* The text to the request's end with blanks in the payload, whose span goes to *ret_payload: all
 * else stays in its line and column. Returns owned. */
static char *without_payload(const char *text, struct json_span object,
                             struct json_span *ret_payload)
{
    size_t position = object.start;
    char *shell = strndup(text, object.end);
    struct json_member member;
    while (shell && json_next_member(text, object, &position, &member)) {
        if (!json_name_is(text, member.name, "payload") || text[member.value.start] != '{')
            continue;
        *ret_payload = member.value;
        for (size_t at = member.value.start + 1; at < member.value.end - 1; at++)
            if (shell[at] != '\n')
                shell[at] = ' ';
    }
    return shell;
}

/* A datagram is answered while somebody listens; in memory a job of a day may leave its answer. */
static int read_timeout(const cJSON *item, enum fork_ack how, int *ret, struct error *err)
{
    const int max = how == FORK_ACK_MEMORY ? ACK_MEMORY_TIMEOUT_MAX_MS : ACK_TIMEOUT_MAX_MS;
    double value = cJSON_IsNumber(item) ? item->valuedouble : -1;
    if (item && (value < 0 || value > max || value != (int)value))
        return error_set(
            err, EINVAL, "\"ack_timeout_ms\" must be a whole number from 0 to %d%s%s%s", max,
            how == FORK_ACK_MEMORY ? "" : " where \"ack\" is \"",
            how == FORK_ACK_MEMORY ? "" : fork_ack_words[how], how == FORK_ACK_MEMORY ? "" : "\"");
    *ret = !item || value == 0 ? ACK_TIMEOUT_DEFAULT_MS : (int)value;
    return 0;
}

int fork_read_token(enum frame_kind kind, const char *token, const char *hex,
                    struct fork_mailbox *mailbox, struct error *err)
{
    const size_t max = frame_layouts[kind].token_max;
    bool valid = true;
    if (token && hex)
        return error_set(err, EINVAL, "give \"token\" or \"token_hex\", not both");
    if (token) {
        size_t size = strlen(token);
        valid = size <= max;
        mailbox->token_size = valid ? size : 0;
        memcpy(mailbox->token, token, mailbox->token_size);
    } else if (hex) {
        valid = hex_decode(hex, mailbox->token, max, &mailbox->token_size);
    } else {
        return 0;
    }
    if (!valid || !frame_token_valid(kind, mailbox->token, mailbox->token_size))
        return error_set(err, EINVAL,
                         "\"%s\" must be 1 to %zu bytes%s, none of them NUL, not all white space",
                         token ? "token" : "token_hex", max, token ? "" : " in hex digits");
    return 0;
}

static void free_text(char *text)
{
    free_wiped(text, text ? strlen(text) : 0);
}

static int read_members(const cJSON *json, enum fork_ack how, struct fork_mailbox *mailbox,
                        struct error *err)
{
    struct mailbox_members members = {.ack = (int)how};
    int r = json_read(json, mailbox_fields, array_length(mailbox_fields), &members, err);
    if (r == 0)
        r = fork_read_token(FRAME_FORK, members.token, members.token_hex, mailbox, err);
    mailbox->wait_for_ack = members.wait_for_ack;
    mailbox->how = (enum fork_ack)members.ack;
    if (r == 0 && members.wait_for_ack)
        r = read_timeout(members.ack_timeout_ms, mailbox->how, &mailbox->ack_timeout_ms, err);
    free_text(members.token);
    free_text(members.token_hex);
    return r;
}

static int read_request(const char *text, struct json_span object, enum fork_ack how,
                        struct fork_mailbox *mailbox, struct json_span *ret_payload,
                        struct error *err)
{
    auto_json cJSON *json = NULL;
    char *shell = without_payload(text, object, ret_payload);
    if (!shell)
        return error_set(err, ENOMEM, "out of memory");
    int r = json_parse(shell, strlen(shell), &json, err);
    if (r == 0)
        r = read_members(json, how, mailbox, err);
    free_wiped(shell, strlen(shell));
    return r;
}

/* What hypefs appends to payloads. */
static const struct appended {
    const char *name;
    size_t size;     /* bytes it takes at the most, with its comma */
    const char *why; /* it is appended … */
    unsigned acks;   /* of 1 << enum fork_ack: for whom acks so; 0: for "identity" */
} appended_members[] = {
    {"ack_port", FORK_ACK_PORT_MAX, "when an ack is waited for",
     1 << FORK_ACK_UDP | 1 << FORK_ACK_KEYED},
    {"ack_key", FORK_ACK_KEY_MAX, "when an ack is waited for", 1 << FORK_ACK_KEYED},
    {"fork", FORK_IDENTITY_MAX, "with the option \"identity\"", 0},
};

static bool is_appended(const struct appended *member, const struct fork_mailbox *mailbox,
                        bool identity)
{
    return member->acks == 0 ? identity
                             : mailbox->wait_for_ack && member->acks & 1u << mailbox->how;
}

int fork_check_payload(const char *text, struct json_span payload,
                       const struct fork_mailbox *mailbox, bool identity, struct error *err)
{
    char names[64] = "";
    size_t size = payload.end - payload.start, more = 0, used = 0;
    for (size_t i = 0; i < array_length(appended_members); i++) {
        const struct appended *member = &appended_members[i];
        if (!is_appended(member, mailbox, identity))
            continue;
        if (json_has_member(text, payload, member->name))
            return error_set(err, EINVAL,
                             "the payload has a member \"%s\", which hypefs appends %s: leave it "
                             "out",
                             member->name, member->why);
        more += member->size;
        used += (size_t)snprintf(names + used, sizeof names - used, "%s\"%s\"",
                                 used > 0 ? " and " : "", member->name);
    }
    if (size + more <= FRAME_CAPACITY)
        return 0;
    if (more == 0)
        return error_set(err, EFBIG, "the payload has %zu bytes: a mailbox takes %d", size,
                         FRAME_CAPACITY);
    return error_set(err, EFBIG,
                     "the payload has %zu bytes and %zu are needed for %s: a mailbox takes %d",
                     size, more, names, FRAME_CAPACITY);
}

int fork_parse_mailbox(const char *text, struct json_span object, const struct fork_rules *rules,
                       struct fork_mailbox *ret, struct error *err)
{
    struct fork_mailbox mailbox = {0};
    struct json_span payload = object;
    const char *member = request_member(text, object);
    int r = 0;
    if (member && !json_has_member(text, object, "payload"))
        r = error_set(err, EINVAL,
                      "\"%s\" is given without \"payload\": a mailbox request is {\"payload\": "
                      "{…}, …}; a payload must not have such a member",
                      member);
    else if (member)
        r = read_request(text, object, rules->ack, &mailbox, &payload, err);
    if (r == 0 && rules->require_token && mailbox.token_size == 0)
        r = error_set(err, EINVAL,
                      "this mount requires tokens: write {\"payload\": {…}, \"token\": \"…\"}");
    if (r == 0)
        r = fork_check_payload(text, payload, &mailbox, false, err);
    if (r == 0 && ret) {
        mailbox.payload_size = payload.end - payload.start;
        mailbox.payload = strndup(text + payload.start, mailbox.payload_size);
        if (mailbox.payload) {
            memcpy(mailbox.name, ret->name, sizeof mailbox.name);
            *ret = mailbox;
        } else {
            r = error_set(err, ENOMEM, "out of memory");
        }
    }
    explicit_bzero(&mailbox, sizeof mailbox);
    return r;
}

int fork_append(struct fork_mailbox *mailbox, const char *members, struct error *err)
{
    size_t brace = mailbox->payload_size - 1;
    bool empty = strspn(mailbox->payload + 1, " \t\r\n") == brace - 1;
    size_t room = mailbox->payload_size + strlen(members) + 2;
    char *longer = malloc(room);
    if (!longer)
        return error_set(err, ENOMEM, "out of memory");
    memcpy(longer, mailbox->payload, brace);
    int tail = snprintf(longer + brace, room - brace, "%s%s}", empty ? "" : ",", members);
    free_wiped(mailbox->payload, mailbox->payload_size);
    mailbox->payload = longer;
    mailbox->payload_size = brace + (size_t)tail;
    return 0;
}

struct option_members {
    int target_state, on_ack_failure;
    bool wait_for_network, from_running, identity, keep_reply;
    char *tap, *ack_address;
    const cJSON *taps;
    int64_t console_max_bytes;
};

static const char *const target_words[] = {"running", "standby", NULL};
static const char *const failure_words[] = {"destroy", "keep", NULL};

static const struct json_field option_fields[] = {
    {JSON_MEMBER(struct option_members, target_state), .kind = JSON_WORD, .words = target_words},
    {JSON_MEMBER(struct option_members, wait_for_network), .kind = JSON_BOOL},
    {JSON_MEMBER(struct option_members, from_running), .kind = JSON_BOOL},
    {JSON_MEMBER(struct option_members, on_ack_failure), .kind = JSON_WORD, .words = failure_words},
    {JSON_MEMBER(struct option_members, tap), .kind = JSON_STRING, .nullable = true},
    {JSON_MEMBER(struct option_members, taps), .kind = JSON_OBJECT, .nullable = true},
    {JSON_MEMBER(struct option_members, ack_address), .kind = JSON_STRING, .nullable = true},
    {JSON_MEMBER(struct option_members, identity), .kind = JSON_BOOL},
    {JSON_MEMBER(struct option_members, keep_reply), .kind = JSON_BOOL},
    {JSON_MEMBER(struct option_members, console_max_bytes), .kind = JSON_INTEGER, .nullable = true,
     .min = MACHINE_LOG_MAX_LEAST, .max = MACHINE_LOG_MAX_MOST},
};

static int check_tap(const char *name, const char *tap, const char *or_else, struct error *err)
{
    return !tap || !machine_tap_valid(tap)
               ? error_set(err, EINVAL,
                           "\"%s\" must be the name of the host's interface: 1 to %d of A-Z, a-z, "
                           "0-9, \"_\", \".\" and \"-\"%s",
                           name, MACHINE_TAP_MAX, or_else)
               : 0;
}

static int check_taps(const struct option_members *members, struct error *err)
{
    const cJSON *tap;
    int r = members->tap ? check_tap("tap", members->tap, ", or null", err) : 0;
    if (r == 0 && members->tap && members->taps)
        return error_set(err, EINVAL, "give \"tap\" or \"taps\", not both");
    if (r == 0 && members->taps && !members->taps->child)
        return error_set(err, EINVAL,
                         "\"taps\" must name interfaces of the machine, each with a tap of the "
                         "host: {\"eth0\": \"t1\"}; or be null");
    cJSON_ArrayForEach (tap, members->taps)
        if (r == 0 && (r = check_tap(tap->string, cJSON_GetStringValue(tap), "", err)) < 0)
            error_prefix(err, r, "taps");
    return r;
}

static int check_options(const struct option_members *members, struct error *err)
{
    int r = check_taps(members, err);
    if (r < 0)
        return r;
    return members->ack_address ? ack_address_check("\"ack_address\"", members->ack_address, err)
                                : 0;
}

int fork_parse_options(const char *text, size_t size, struct fork_options *ret, struct error *err)
{
    struct option_members members = {.wait_for_network = true};
    auto_json cJSON *json = NULL;
    auto_json cJSON *taps = NULL;
    int r = json_parse(text, size, &json, err);
    if (r == 0)
        r = json_read(json, option_fields, array_length(option_fields), &members, err);
    if (r == 0)
        r = check_options(&members, err);
    if (r == 0 && members.taps && !(taps = cJSON_Duplicate(members.taps, true)))
        r = error_set(err, ENOMEM, "out of memory");
    if (r < 0 || !ret) {
        free(members.tap);
        free(members.ack_address);
        return r;
    }
    *ret = (struct fork_options){.standby = members.target_state != 0,
                                 .from_running = members.from_running,
                                 .wait_for_network = members.wait_for_network,
                                 .keep = members.on_ack_failure != 0,
                                 .identity = members.identity,
                                 .keep_reply = members.keep_reply,
                                 .console_max_bytes = (uint64_t)members.console_max_bytes,
                                 .tap = members.tap,
                                 .taps = steal_pointer(taps),
                                 .ack_address = members.ack_address};
    return 0;
}
