/* What cpg_peer.c uses of Corosync's corotypes.h. */
#pragma once
#include <stdint.h>

typedef enum { CS_OK = 1, CS_ERR_TRY_AGAIN = 6 } cs_error_t;
typedef enum { CS_DISPATCH_ONE_NONBLOCKING = 4 } cs_dispatch_flags_t;
