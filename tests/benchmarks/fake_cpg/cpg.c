/*
 * A CPG of one member that delivers what is sent, except that the fourth message has the fault that
 * the environment's FAULT names.
 */
#include <corosync/cpg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "payload.h"

enum { ROOM = 8, SIZE_MAX_HERE = 4096, FAULTY = 3 };

static cpg_callbacks_t calls;
static const char *fault;
static char queue[ROOM][SIZE_MAX_HERE];
static size_t lengths[ROOM];
static unsigned taken, delivered;
static int joined, pipe_ends[2];

static int faulty(const char *name)
{
    return taken == FAULTY + 1 && !strcmp(fault, name);
}

cs_error_t cpg_initialize(cpg_handle_t *handle, cpg_callbacks_t *callbacks)
{
    *handle = 1;
    calls = *callbacks;
    fault = getenv("FAULT");
    return fault && !pipe(pipe_ends) ? CS_OK : CS_ERR_TRY_AGAIN;
}

cs_error_t cpg_join(cpg_handle_t handle, const struct cpg_name *group)
{
    struct cpg_address self = {1, 1, 0};

    calls.cpg_confchg_fn(handle, group, &self, 1, NULL, 0, &self, 1);
    joined = 1;
    return CS_OK;
}

cs_error_t cpg_fd_get(cpg_handle_t handle, int *descriptor)
{
    (void)handle;
    *descriptor = pipe_ends[0];
    return CS_OK;
}

cs_error_t cpg_mcast_joined(cpg_handle_t handle, cpg_guarantee_t guarantee,
                            const struct iovec *part, unsigned int parts)
{
    unsigned place = taken % ROOM;

    (void)handle, (void)guarantee;
    if (!joined || parts != 1 || part->iov_len > SIZE_MAX_HERE || taken - delivered == ROOM)
        return CS_ERR_TRY_AGAIN;
    memcpy(queue[place], part->iov_base, lengths[place] = part->iov_len);
    taken++;
    if (faulty("checksum"))
        queue[place][5] ^= 1;
    if (faulty("length")) { /* whole and in turn, but of a sender that makes longer ones */
        struct maker longer;
        if (!maker_open(&longer, 1, BULK, part->iov_len + 1))
            return CS_ERR_TRY_AGAIN;
        longer.counter = FAULTY;
        maker_finish(&longer, 0);
        memcpy(queue[place], longer.message, lengths[place] = longer.size);
    }
    if (faulty("short"))
        lengths[place] = TRAILER_BYTES - 1;
    if (faulty("lost"))
        fault = "", taken--;
    if (faulty("repeated"))
        memcpy(queue[place], queue[place - 1], lengths[place]);
    return CS_OK;
}

cs_error_t cpg_dispatch(cpg_handle_t handle, cs_dispatch_flags_t how)
{
    unsigned place = delivered % ROOM;
    uint32_t node = delivered == FAULTY && !strcmp(fault, "stranger") ? 2 : 1;

    (void)how;
    if (delivered == taken)
        return CS_ERR_TRY_AGAIN;
    delivered++;
    calls.cpg_deliver_fn(handle, NULL, node, 1, queue[place], lengths[place]);
    return CS_OK;
}
