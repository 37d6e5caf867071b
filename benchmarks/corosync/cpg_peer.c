/*
 * One member of a CPG group, for measuring Corosync. The same course as vsync_peer.py:
 *
 *   1. join, and when all members are there, print {"ready": true};
 *   2. read "FROM TO", two times by CLOCK_MONOTONIC in nanoseconds, from standard input;
 *   3. send until TO as the arguments say, count what is delivered from FROM to TO;
 *   4. print what was counted as one line of JSON, and go on dispatching until the input ends.
 *
 * payload.h says what a message is. A wrong one ends the program with {"wrong": ...}; whatever
 * else keeps it from going on, with {"failed": ...}.
 *
 * Arguments: NODE MEMBERS SIZE SENDS RATE PROBE_NS PROBE_OFFSET_NS GROUP. SIZE is that of the load,
 * which is sent if SENDS is 1, as fast as it goes if RATE is 0, else RATE messages a second.
 * PROBE_NS is the time between two messages whose latency is measured, 0 for none.
 */
#define _GNU_SOURCE
#include "payload.h"

#include <corosync/corotypes.h>
#include <corosync/cpg.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    SENDS_A_TURN = 32,        /* then dispatch: sends without end starve the receiving */
    BYTES_A_TURN = 65536,
    DISPATCHES_A_TURN = 256,
    SAMPLES_MAX = 4 << 20,
    PATIENCE_NS = 50000,      /* after TRY_AGAIN; a longer sleep costs Corosync much of its rate */
    NAP_NS = 100000,          /* while there is only to receive: see below */
    IDLE_NS = 1000000         /* so long at most without a look at the clock */
};

struct samples {
    uint32_t *ns;
    size_t count;
};

static uint32_t node, members;
static int complete;
static uint64_t from_ns, to_ns = UINT64_MAX;
static struct checker checker;
static struct maker bulk, probe;
static uint64_t received, received_bytes, sent_in_time;
static struct samples own, others;
static uint64_t now_ns; /* read once a turn while there is only load to count */

static void end_with(const char *kind, const char *what)
{
    printf("{\"%s\": \"%s\"}\n", kind, what);
    fflush(stdout);
    _exit(1);
}

static void fail(const char *what, long number)
{
    char complaint[COMPLAINT_BYTES];
    snprintf(complaint, sizeof complaint, "%s (%ld)", what, number);
    end_with("failed", complaint);
}

static void delivered(cpg_handle_t handle, const struct cpg_name *group, uint32_t nodeid,
                      uint32_t pid, void *message, size_t length)
{
    uint64_t sent_ns;
    int kind = checker_check(&checker, message, length, nodeid, &sent_ns);

    (void)handle, (void)group, (void)pid;
    if (kind < 0)
        end_with("wrong", checker.complaint);
    if (kind == PROBE) {
        uint64_t now = clock_ns();
        struct samples *samples = nodeid == node ? &own : &others;
        if (from_ns && now >= from_ns && now < to_ns && samples->count < SAMPLES_MAX) {
            uint64_t taken = now - sent_ns;
            samples->ns[samples->count++] = taken > UINT32_MAX ? UINT32_MAX : (uint32_t)taken;
        }
    } else if (from_ns && now_ns >= from_ns && now_ns < to_ns) {
        received++;
        received_bytes += length;
    }
}

static void changed(cpg_handle_t handle, const struct cpg_name *group,
                    const struct cpg_address *list, size_t count, const struct cpg_address *left,
                    size_t left_count, const struct cpg_address *joined, size_t joined_count)
{
    (void)handle, (void)group, (void)list, (void)left, (void)joined, (void)joined_count;
    if (complete && left_count && now_ns < to_ns)
        fail("collapsed: members left while it was measured", (long)left_count);
    if (count == members && !complete) {
        complete = 1;
        printf("{\"ready\": true}\n");
        fflush(stdout);
    }
}

/* Whether the message was taken. The library copies it. */
static int send_one(cpg_handle_t handle, struct maker *maker, uint64_t sent_ns)
{
    struct iovec part = {maker->message, maker->size};
    cs_error_t error;

    maker_finish(maker, sent_ns);
    error = cpg_mcast_joined(handle, CPG_TYPE_AGREED, &part, 1);
    if (error == CS_ERR_TRY_AGAIN)
        return 0;
    if (error != CS_OK)
        fail("cpg_mcast_joined refused with error", error);
    maker->counter++;
    return 1;
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The samples themselves if they are few, else evenly chosen ones of the sorted. */
static void print_samples(const char *name, struct samples *samples)
{
    enum { QUANTILES = 2000 };
    size_t shown = samples->count < QUANTILES ? samples->count : QUANTILES;

    qsort(samples->ns, samples->count, sizeof *samples->ns, by_size);
    printf(", \"%s\": [", name);
    for (size_t i = 0; i < shown; i++) {
        size_t at = shown < 2 ? 0 : i * (samples->count - 1) / (shown - 1);
        printf("%s%.1f", i ? ", " : "", samples->ns[at] / 1000.0);
    }
    printf("]");
}

static void print_result(void)
{
    printf("{\"received\": %llu, \"bytes\": %llu, \"sent\": %llu", (unsigned long long)received,
           (unsigned long long)received_bytes, (unsigned long long)sent_in_time);
    print_samples("own_us", &own);
    print_samples("others_us", &others);
    printf("}\n");
    fflush(stdout);
}

static uint64_t until(uint64_t then, uint64_t now, uint64_t at_most)
{
    uint64_t wait = then > now ? then - now : 0;
    return wait < at_most ? wait : at_most;
}

/* What came from standard input: the times, or its end. */
static void read_input(void)
{
    char line[128];
    unsigned long long from, to;
    ssize_t got = read(0, line, sizeof line - 1);

    if (got <= 0)
        _exit(0);
    line[got] = 0;
    if (sscanf(line, "%llu %llu", &from, &to) != 2)
        fail("no times on standard input", got);
    from_ns = from, to_ns = to;
}

int main(int argc, char **argv)
{
    cpg_callbacks_t callbacks = {delivered, changed};
    struct cpg_name group;
    cpg_handle_t handle;
    cs_error_t error;
    int descriptor, told = 0, running = 0, sends, sends_a_turn;
    double rate;
    uint64_t probe_ns, offset_ns, began_ns = 0, next_probe_ns = 0, tried_ns = 0;
    size_t size;

    if (argc != 9)
        fail("wrong number of arguments", argc);
    node = (uint32_t)atol(argv[1]);
    members = (uint32_t)atol(argv[2]);
    size = (size_t)atol(argv[3]);
    sends = atoi(argv[4]);
    rate = atof(argv[5]);
    probe_ns = strtoull(argv[6], NULL, 10);
    offset_ns = strtoull(argv[7], NULL, 10);
    if (size < TRAILER_BYTES)
        fail("SIZE is too small", (long)size);
    sends_a_turn = size >= BYTES_A_TURN ? 1 : (int)(BYTES_A_TURN / size);
    if (sends_a_turn > SENDS_A_TURN)
        sends_a_turn = SENDS_A_TURN;
    group.length = (uint32_t)strlen(argv[8]);
    memcpy(group.value, argv[8], group.length);
    own.ns = malloc(SAMPLES_MAX * sizeof *own.ns);
    others.ns = malloc(SAMPLES_MAX * sizeof *others.ns);
    if (!own.ns || !others.ns || !maker_open(&bulk, node, BULK, size)
        || !maker_open(&probe, node, PROBE, PROBE_BYTES))
        fail("no memory for a message of SIZE", (long)size);
    checker_open(&checker, size);

    for (int tries = 0; (error = cpg_initialize(&handle, &callbacks)) != CS_OK; tries++) {
        if (tries == 200)
            fail("cpg_initialize refused with error", error);
        usleep(50000);
    }
    for (int tries = 0; (error = cpg_join(handle, &group)) != CS_OK; tries++) {
        if (tries == 200)
            fail("cpg_join refused with error", error);
        usleep(50000);
    }
    cpg_fd_get(handle, &descriptor);
    for (;;) {
        struct pollfd ready[2] = {{descriptor, POLLIN, 0}, {0, POLLIN, 0}};
        int busy = 0, refused = 0;

        now_ns = clock_ns();
        running = from_ns && now_ns < to_ns;
        if (running && !began_ns) {
            began_ns = now_ns;
            next_probe_ns = now_ns + offset_ns;
        }
        if (running && probe_ns && now_ns >= next_probe_ns) {
            if (!tried_ns) /* what waits for room waits from its first try on */
                tried_ns = clock_ns();
            if (send_one(handle, &probe, tried_ns)) {
                tried_ns = 0;
                busy = 1;
                next_probe_ns += probe_ns;
                if (next_probe_ns < now_ns) /* behind: what was missed is not made up for */
                    next_probe_ns = now_ns + probe_ns;
            } else {
                refused = 1;
            }
        }
        if (running && sends) {
            uint64_t due = UINT64_MAX;
            if (rate > 0)
                due = (uint64_t)((double)(now_ns - began_ns) * rate / 1e9);
            for (int i = 0; i < sends_a_turn && bulk.counter < due && !refused; i++) {
                if (send_one(handle, &bulk, 0)) {
                    busy = 1;
                    if (now_ns >= from_ns && now_ns < to_ns)
                        sent_in_time++;
                } else {
                    refused = 1;
                }
            }
        }
        for (int i = 0; i < DISPATCHES_A_TURN; i++) {
            error = cpg_dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING);
            if (error == CS_ERR_TRY_AGAIN)
                break;
            if (error != CS_OK)
                fail("cpg_dispatch refused with error", error);
            busy = 1;
            if (i % 16 == 15)
                now_ns = clock_ns();
        }
        if (!told && from_ns && clock_ns() >= to_ns) {
            told = 1;
            print_result();
        }
        if (!busy || told) {
            uint64_t wait_ns = IDLE_NS, now = clock_ns();
            struct timespec wait = {0, 0};
            if (running && probe_ns)
                wait_ns = until(next_probe_ns, now, wait_ns);
            if (running && sends && rate > 0)
                wait_ns = until(began_ns + (uint64_t)((double)(bulk.counter + 1) * 1e9 / rate), now,
                                wait_ns);
            if (refused)
                wait_ns = PATIENCE_NS;
            if (running && !probe_ns && !sends) {
                /* Nobody waits for a single message. To be woken for each costs a daemon that
                   shares our processor up to a third of its rate; so let several come. But if all
                   who send do so, Corosync collapses sooner than without. */
                wait.tv_nsec = (long)(wait_ns < NAP_NS ? wait_ns : NAP_NS);
                nanosleep(&wait, NULL);
            } else {
                wait.tv_nsec = (long)wait_ns;
                ppoll(ready, 2, &wait, NULL);
                if (ready[1].revents)
                    read_input();
            }
        } else if (!from_ns && poll(&ready[1], 1, 0) > 0) {
            read_input();
        }
    }
}
