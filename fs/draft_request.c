/* SPDX-License-Identifier: MIT */
#include "fs/draft_request.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "util/json.h"

/* A file that is not what it is to become refuses the whole request. */
static bool refuse_document(const char *directory, const char *name,
                            const struct document *document, bool removable,
                            struct fork_request *request)
{
    const char *remedy = removable ? "write it again, or remove it" : "write it again";
    if (document->refused)
        error_set(&request->refused, EINVAL, DRAFT_REFUSED ": %s", directory, name,
                  document->refused, remedy);
    else if (document->unfinished)
        error_set(&request->refused, EINVAL, "%s%s is unfinished: %s", directory, name, remedy);
    return request->refused.code != 0;
}

static void refuse_documents(const struct draft *draft, struct fork_request *request)
{
    const struct staged *file;
    LL_FOREACH (draft->files, file)
        if (!file->scratch &&
            refuse_document("mailboxes/", file->name, &file->document, true, request)) {
            snprintf(request->refused_mailbox, sizeof request->refused_mailbox, "%.64s",
                     file->name);
            return;
        }
    if (!draft->has_network || !refuse_document("", "network", &draft->network, true, request))
        refuse_document("", "options", &draft->options, false, request);
}

static void add_mailbox(const struct staged *file, const struct fork_rules *rules,
                        struct fork_request *request)
{
    struct json_check check;
    if (request->count == DELIVER_MAILBOXES_MAX) {
        error_set(&request->refused, ENOSPC, "more than %d mailboxes are staged",
                  DELIVER_MAILBOXES_MAX);
        return;
    }
    struct fork_mailbox *mailbox = &request->mailboxes[request->count];
    snprintf(mailbox->name, sizeof mailbox->name, "%.64s", file->name);
    json_check(file->document.text, file->document.size, &check);
    if (fork_parse_mailbox(file->document.text, check.object, rules, mailbox, &request->refused) ==
        0)
        request->count++;
}

void draft_request(const struct draft *draft, const struct fork_rules *rules,
                   struct fork_request *request)
{
    const struct staged *file;
    const char *options = draft->options.text ? draft->options.text : fork_options_default;
    size_t size = draft->options.text ? draft->options.size : strlen(fork_options_default);
    refuse_documents(draft, request);
    if (request->refused.code)
        return;
    LL_FOREACH (draft->files, file)
        if (!file->scratch && !request->refused.code)
            add_mailbox(file, rules, request);
    if (draft->has_network && !request->refused.code)
        fork_parse_network(draft->network.text, draft->network.size, rules, &request->network,
                           &request->refused);
    request->options_text = strndup(options, size);
    if (!request->refused.code)
        fork_parse_options(options, size, &request->options, &request->refused);
}
