/* Datagrams through a relay: as many as it forwards, with no more than a window of them under way.
 *
 *   relayload SECONDS SIZE WINDOW BURST JOINED  FROM TO HEADER  [FROM TO HEADER ...]
 *
 * FROM and TO are inherited, connected sockets; what is sent at FROM, HEADER (hexadecimal, or "-") and SIZE octets, should
 * come out at TO with whatever header the relay gives it.  Flows take turns of BURST datagrams, which are handed to the
 * kernel as one if JOINED is 1 (UDP_SEGMENT).  Datagrams that have not come 50 ms after the last one are lost.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FLOWS = 64, MOST = 64, PACKET = 2048, HEADER = 64, LOST_NS = 50000000 };

static struct flow {
    int from, to, header;
    long sent, got, lost;
    int64_t heard;
    unsigned char packet[MOST * PACKET];
} flows[FLOWS];

static unsigned char heap[MOST][PACKET];

static void die(const char *what) {
    fprintf(stderr, "relayload: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void give(struct flow *f, int size, int burst, int joined) {
    struct mmsghdr messages[MOST];
    struct iovec parts[MOST];
    union {
        char room[CMSG_SPACE(sizeof(uint16_t))];
        struct cmsghdr align;
    } control;
    int whole = f->header + size;
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < burst; i++) parts[i] = (struct iovec){f->packet + i * whole, whole};
    if (joined) {
        struct msghdr m = {.msg_iov = parts, .msg_iovlen = burst, .msg_control = control.room, .msg_controllen = sizeof control.room};
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_UDP;
        c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        *(uint16_t *)CMSG_DATA(c) = whole;
        if (sendmsg(f->from, &m, 0) < 0 && errno != ECONNREFUSED) die("send");
    } else {
        for (int i = 0; i < burst; i++) messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
        if (sendmmsg(f->from, messages, burst, 0) < 0 && errno != ECONNREFUSED) die("send");
    }
    f->sent += burst;
}

static int take(struct flow *f, int size) {
    static struct mmsghdr messages[MOST];
    static struct iovec parts[MOST];
    for (int i = 0; i < MOST; i++) {
        parts[i] = (struct iovec){heap[i], PACKET};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    int count = recvmmsg(f->to, messages, MOST, MSG_DONTWAIT, NULL);
    for (int i = 0; i < count; i++) f->got += (int)messages[i].msg_len >= size;
    return count > 0 ? count : 0;
}

int main(int argc, char **argv) {
    if (argc < 9 || (argc - 6) % 3 || (argc - 6) / 3 > FLOWS) {
        fprintf(stderr, "usage: relayload SECONDS SIZE WINDOW BURST JOINED FROM TO HEADER...\n");
        return 2;
    }
    double seconds = atof(argv[1]);
    int size = atoi(argv[2]), window = atoi(argv[3]), burst = atoi(argv[4]), joined = atoi(argv[5]);
    int count = (argc - 6) / 3;
    struct pollfd ready[FLOWS];
    prctl(PR_SET_TIMERSLACK, 1L);
    if (size + HEADER > PACKET || burst > MOST) die("too large");
    for (int i = 0; i < count; i++) {
        struct flow *f = &flows[i];
        char **given = argv + 6 + 3 * i;
        f->from = atoi(given[0]);
        f->to = atoi(given[1]);
        f->header = given[2][0] == '-' ? 0 : strlen(given[2]) / 2;
        for (int at = 0; at < burst * (f->header + size); at++) {
            unsigned byte = 'x';
            int within = at % (f->header + size);
            if (within < f->header) sscanf(given[2] + 2 * within, "%2x", &byte);
            f->packet[at] = byte;
        }
        ready[i] = (struct pollfd){.fd = f->to, .events = POLLIN};
    }
    int64_t start = now(), end = start + seconds * 1e9, clock = start;
    for (int i = 0; i < count; i++) flows[i].heard = start;
    while (clock < end) {
        int busy = 0;
        for (int i = 0; i < count; i++) {
            struct flow *f = &flows[i];
            if (f->sent - f->got - f->lost + burst <= window) give(f, size, burst, joined), busy = 1;
            for (int n; (n = take(f, size)) > 0;) {
                busy = 1;
                f->heard = clock;
                if (n < MOST) break;
            }
            if (clock - f->heard > LOST_NS) {
                f->lost = f->sent - f->got;
                f->heard = clock;
            }
        }
        if (!busy) poll(ready, count, 10);
        clock = now();
    }
    long sent = 0, got = 0;
    double took = (now() - start) / 1e9;
    for (int i = 0; i < count; i++) sent += flows[i].sent, got += flows[i].got;
    usleep(100000);
    long late = 0;
    for (int i = 0; i < count; i++) {
        long before = flows[i].got;
        while (take(&flows[i], size)) {}
        late += flows[i].got - before;
    }
    printf("{\"seconds\": %.4f, \"sent\": %ld, \"got\": %ld, \"lost\": %ld}\n", took, sent, got, sent - got - late);
    return 0;
}
