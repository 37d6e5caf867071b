/* What cpg_peer.c uses of Corosync's cpg.h. */
#pragma once
#include <corosync/corotypes.h>
#include <stddef.h>
#include <sys/uio.h>

typedef uint64_t cpg_handle_t;
typedef enum { CPG_TYPE_AGREED } cpg_guarantee_t;

struct cpg_name {
    uint32_t length;
    char value[128];
};

struct cpg_address {
    uint32_t nodeid, pid, reason;
};

typedef struct {
    void (*cpg_deliver_fn)(cpg_handle_t, const struct cpg_name *, uint32_t, uint32_t, void *, size_t);
    void (*cpg_confchg_fn)(cpg_handle_t, const struct cpg_name *, const struct cpg_address *, size_t,
                           const struct cpg_address *, size_t, const struct cpg_address *, size_t);
} cpg_callbacks_t;

cs_error_t cpg_initialize(cpg_handle_t *, cpg_callbacks_t *);
cs_error_t cpg_join(cpg_handle_t, const struct cpg_name *);
cs_error_t cpg_fd_get(cpg_handle_t, int *);
cs_error_t cpg_mcast_joined(cpg_handle_t, cpg_guarantee_t, const struct iovec *, unsigned int);
cs_error_t cpg_dispatch(cpg_handle_t, cs_dispatch_flags_t);
