/*
 * The messages that all peers send here, and how a receiver sees that each is the right one.
 *
 * A message is filling, then a trailer: sender, kind, counter, time of sending, and the CRC-32 of
 * all before; little-endian. cpg_peer.c uses this as it is, vsync_peer.py by way of
 * payload_python.c: so a message is made and checked at the same cost, whoever orders it.
 */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include <stddef.h>
#include <stdint.h>

enum { TRAILER_BYTES = 28, PROBE_BYTES = 64, NODES_MAX = 64, COMPLAINT_BYTES = 160 };

enum kind { BULK, PROBE, KINDS };

/* The messages of one sender and kind, in order: one after another in the same place. */
struct maker {
    char *message;
    size_t size;
    uint64_t counter; /* of the next; who has sent it counts it */
    uint32_t sender, kind, filled_crc;
};

/* What a receiver expects. */
struct checker {
    size_t sizes[KINDS];
    uint64_t expected[NODES_MAX][KINDS];
    char complaint[COMPLAINT_BYTES]; /* what was wrong with the last message, in words */
};

/* Whether there is memory for it; size must be at least TRAILER_BYTES. */
int maker_open(struct maker *maker, uint32_t sender, enum kind kind, size_t size);

/* Finish the next message, in maker->message. Its receivers see a time if it is a probe's. */
void maker_finish(struct maker *maker, uint64_t sent_ns);

void checker_open(struct checker *checker, size_t size);

/*
 * See that this message is whole, the next of its sender, and as long as it should be. Gives its
 * kind, and when it was sent; or -1, with a complaint.
 */
int checker_check(struct checker *checker, const void *message, size_t length, uint32_t node,
                  uint64_t *sent_ns);

/* CLOCK_MONOTONIC, in nanoseconds. */
uint64_t clock_ns(void);

#endif
