/* SPDX-License-Identifier: MIT */
/* Any bytes as the body of what Firecracker answers: the configuration of a VM that was loaded, a
 * refusal, and a version. */
#include <errno.h>

#include "fuzz.h"
#include "http_peer.h"
#include "hypervisor/hypervisor.h"
#include "hypervisor/firecracker_control.h"
#include "hypervisor/firecracker_drives.h"
#include "util/json.h"
#include "util/utf8.h"

enum { INPUT_MAX = 65536 };

static char *answer_with(const char *status, const uint8_t *body, size_t size, size_t *ret_size)
{
    char header[128];
    int length =
        snprintf(header, sizeof header, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n", status, size);
    char *answer = malloc((size_t)length + size);
    MUST(answer);
    memcpy(answer, header, (size_t)length);
    if (size > 0)
        memcpy(answer + length, body, size);
    *ret_size = (size_t)length + size;
    return answer;
}

/* Are these the drives of a VM that may be forked? */
static bool place_drives(const char *status, const uint8_t *data, size_t size)
{
    struct http_peer peer;
    struct error err = {0};
    struct machine machine = {.hypervisor = &firecracker_hypervisor};
    size_t answer_size;
    auto_free char *answer = answer_with(status, data, size, &answer_size);
    http_peer_start(&peer, (const uint8_t *)answer, answer_size);
    struct vmm vmm = {.hypervisor = &firecracker_hypervisor,
                      .pidfd = peer.alive[0],
                      .memory_fd = -1,
                      .exit = {.ended = true, .code = -1}};
    const struct vmm_context context = {
        .directory_fd = peer.directory_fd, .entry_fd = peer.directory_fd, .cancel_fd = -1};
    int r = firecracker_place_drives(&context, &vmm, &machine, &err);
    MUST(r == 0 || r == -EIO || r == -EOPNOTSUPP);
    MUST(r == 0 || (err.code == -r && err.text[0] && utf8_valid(err.text, strlen(err.text))));
    http_peer_finish(&peer);
    return r == 0;
}

bool fuzz(const uint8_t *data, size_t size)
{
    struct firecracker version = {0};
    if (size > INPUT_MAX)
        return false;
    auto_free char *text = strndup((const char *)data, size);
    MUST(text);
    bool taken = firecracker_parse_version(text, &version);
    MUST(memchr(version.version, 0, sizeof version.version));
    taken = place_drives("200 OK", data, size) || taken;
    MUST(!place_drives("400 Bad Request", data, size));
    return taken;
}
