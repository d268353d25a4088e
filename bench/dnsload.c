/* Names and answers for the races of name servers, where dnsperf does not reach: latencies one by one, and an upstream.
 *
 *   dnsload answer PORT [--ttl S]         upstream at 127.0.0.1:PORT, UDP and TCP, until killed
 *   dnsload pace PORT PATTERN [options]   questions at a steady rate, whatever becomes of the earlier ones
 *                                         --rate N (a second)  --seconds S  --first N  --many N (then from the first again)
 *   dnsload ask PORT                      each name of standard input once (again after 200 ms without an answer, eight
 *                                         times), --window N at a time; prints "NAME ADDRESS", or an RCODE, or "lost"
 *
 * Questions are for A and go over UDP to 127.0.0.1.  PATTERN has one %ld.  The upstream's answer tells the name: 44.0.0.0/8
 * with the lower 24 bits of the CRC-32 of the name in lower case, so that a wrong answer is seen as one.
 *
 * A latency begins before the question is handed to the kernel and ends when the kernel hands the answer to our socket
 * (SO_TIMESTAMPNS), not when we get to read it: what this process waits for its CPU is no fault of the server's.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 12, PACKET = 4096, NAME = 256, IDS = 65536, SLOWEST = 5000000, TRIES = 8, AGAIN_NS = 200000000 };

static void die(const char *what) {
    fprintf(stderr, "dnsload: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static uint32_t crc[256];

static void make_crc(void) {
    for (uint32_t i = 0; i < 256; i++) {
        crc[i] = i;
        for (int bit = 0; bit < 8; bit++) crc[i] = crc[i] >> 1 ^ (crc[i] & 1 ? 0xedb88320u : 0);
    }
}

/* The labels at ``name``: the address the upstream gives them, and (if wanted) where they end. */
static uint32_t address_of(const unsigned char *name, const unsigned char *end, const unsigned char **after) {
    uint32_t sum = ~0u;
    int first = 1;
    while (name < end && *name) {
        if (!first) sum = crc[(sum ^ '.') & 255] ^ sum >> 8;
        first = 0;
        for (int left = *name++; left-- && name < end; name++) {
            unsigned char c = *name >= 'A' && *name <= 'Z' ? *name + 32 : *name;
            sum = crc[(sum ^ c) & 255] ^ sum >> 8;
        }
    }
    if (after) *after = name + 1;
    return 44u << 24 | (~sum & 0xffffff);
}

static int udp(int port, int listening) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1, room = 8 << 20;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    if (listening ? bind(fd, (struct sockaddr *)&a, sizeof a) : connect(fd, (struct sockaddr *)&a, sizeof a)) die("port");
    return fd;
}

/* ---- upstream ---- */

/* Makes the answer of the question in ``packet``; its size, or 0 for none. */
static int made(unsigned char *packet, ssize_t n, uint32_t ttl) {
    if (n < HEADER + 5) return 0;
    const unsigned char *after;
    uint32_t address = htonl(address_of(packet + HEADER, packet + n, &after)), life = htonl(ttl);
    int size = after - packet + 4, is_a = after[0] == 0 && after[1] == 1;
    if (size > n) return 0;
    packet[2] = 0x84 | (packet[2] & 1);
    packet[3] = 0x80;
    memcpy(packet + 6, is_a ? "\0\1\0\0\0\0" : "\0\0\0\0\0\0", 6);
    if (!is_a) return size;
    memcpy(packet + size, "\xc0\x0c\0\1\0\1", 6);
    memcpy(packet + size + 6, &life, 4);
    memcpy(packet + size + 10, "\0\4", 2);
    memcpy(packet + size + 12, &address, 4);
    return size + 16;
}

/* One client after the other in a process each: only dnsdist asks over TCP, and keeps its connections. */
static void answer_streams(int port, uint32_t ttl) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int door = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(door, (struct sockaddr *)&a, sizeof a) || listen(door, 64)) die("listen");
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = accept(door, NULL, NULL);
        if (fd < 0 || fork()) {
            close(fd);
            continue;
        }
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(door);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        unsigned char packet[2 + PACKET];
        while (recv(fd, packet, 2, MSG_WAITALL) == 2) {
            int n = packet[0] << 8 | packet[1];
            if (n > PACKET - 32 || recv(fd, packet + 2, n, MSG_WAITALL) != n) break;
            int size = made(packet + 2, n, ttl);
            packet[0] = size >> 8;
            packet[1] = size & 255;
            if (size && send(fd, packet, 2 + size, MSG_NOSIGNAL) < 0) break;
        }
        exit(0);
    }
}

static void answer(int port, uint32_t ttl) {
    unsigned char packet[PACKET];
    int fd = udp(port, 1);
    if (!fork()) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        answer_streams(port, ttl);
    }
    for (;;) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t n = recvfrom(fd, packet, sizeof packet - 32, 0, (struct sockaddr *)&from, &length);
        int size = made(packet, n, ttl);
        if (size) sendto(fd, packet, size, 0, (struct sockaddr *)&from, length);
    }
}

/* ---- client ---- */

static int question(unsigned char *packet, int id, const char *name) {
    memcpy(packet, (unsigned char[]){id >> 8, id & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, HEADER);
    int at = HEADER;
    while (*name) {
        int n = strcspn(name, ".");
        if (n == 0 || n > 63 || at + n > HEADER + NAME - 8) {
            errno = EINVAL;
            die(name);
        }
        packet[at++] = n;
        memcpy(packet + at, name, n);
        at += n;
        name += n + (name[n] == '.');
    }
    memcpy(packet + at, "\0\0\1\0\1", 5);
    return at + 5;
}

/* The id of an answer, or -1 when there is none; when it came, its RCODE, and its first address in host order or 0. */
static int hear(int fd, unsigned char *packet, ssize_t *size, int64_t *came, int *rcode, uint32_t *address) {
    char control[128];
    struct iovec part = {packet, PACKET};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &message, MSG_DONTWAIT);
    if (n < HEADER) return -1;
    *came = now();
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS) {
            struct timespec t;
            memcpy(&t, CMSG_DATA(c), sizeof t);
            *came = t.tv_sec * 1000000000LL + t.tv_nsec;
        }
    *size = n;
    *rcode = packet[3] & 15;
    *address = 0;
    const unsigned char *at, *end = packet + n;
    address_of(packet + HEADER, end, &at);
    at += 4;
    if (packet[7] && at + 16 <= end) {
        if (*at >= 0xc0) at += 2;
        else address_of(at, end, &at);
        if (at + 14 <= end && at[1] == 1) memcpy(address, at + 10, 4);
    }
    *address = ntohl(*address);
    return packet[0] << 8 | packet[1];
}

static unsigned slowness[SLOWEST + 1]; /* by tenths of a microsecond */

static double percentile(long of, double share) {
    long seen = 0;
    for (int at = 0; at <= SLOWEST; at++)
        if ((seen += slowness[at]) >= of * share && seen) return at / 10.0;
    return 0;
}

static void pace(int port, const char *pattern, double rate, double seconds, long first, long many) {
    static int64_t began[IDS];
    unsigned char packet[PACKET];
    char name[NAME];
    int fd = udp(port, 0), rcode;
    long sent = 0, answered = 0, wrong = 0, total = rate * seconds;
    double sum = 0, worst = 0;
    int64_t start = now(), last = start, came;
    uint32_t address;
    ssize_t size;
    prctl(PR_SET_TIMERSLACK, 1L);
    while (answered < total) {
        int64_t clock = now(), due = start + sent * (1e9 / rate);
        if (sent == total && clock > last + 2000000000LL) break;
        if (sent < total && clock >= due) {
            snprintf(name, sizeof name, pattern, first + sent % many);
            int n = question(packet, sent & (IDS - 1), name);
            began[sent & (IDS - 1)] = last = now();
            if (send(fd, packet, n, 0) != n && errno != ECONNREFUSED) die("send");
            sent++;
            continue;
        }
        int64_t left = sent < total ? due - clock : 100000000;
        struct timespec patience = {left / 1000000000, left % 1000000000};
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        ppoll(&ready, 1, &patience, NULL);
        for (int id; (id = hear(fd, packet, &size, &came, &rcode, &address)) >= 0;) {
            if (!began[id]) continue;
            double us = (came - began[id]) / 1000.0;
            began[id] = 0;
            answered++;
            wrong += rcode || address != address_of(packet + HEADER, packet + size, NULL);
            sum += us;
            if (us > worst) worst = us;
            slowness[us < 0 ? 0 : us * 10 < SLOWEST ? (int)(us * 10) : SLOWEST]++;
        }
    }
    printf("{\"count\": %ld, \"seconds\": %.6f, \"lost\": %ld, \"wrong\": %ld, \"mean_us\": %.2f, \"p50_us\": %.1f,"
           " \"p99_us\": %.1f, \"max_us\": %.1f}\n",
           answered, (last - start) / 1e9, total - answered, wrong, answered ? sum / answered : 0,
           percentile(answered, 0.5), percentile(answered, 0.99), worst);
}

static void ask(int port, int window) {
    static struct {
        char name[NAME];
        int tries;
        int64_t at;
        uint32_t expected;
    } slots[IDS];
    unsigned char packet[PACKET];
    char line[NAME];
    int fd = udp(port, 0), under_way = 0, more = 1, next = 0, rcode;
    uint32_t address;
    ssize_t size;
    int64_t came;
    while (more || under_way) {
        while (more && under_way < window) {
            if (!fgets(line, sizeof line, stdin)) {
                more = 0;
                break;
            }
            line[strcspn(line, "\n")] = 0;
            if (!*line) continue;
            while (slots[next].tries) next = (next + 1) % window;
            strcpy(slots[next].name, line);
            slots[next].tries = 1;
            slots[next].at = now();
            under_way++;
            int n = question(packet, next, line);
            slots[next].expected = address_of(packet + HEADER, packet + n, NULL);
            if (send(fd, packet, n, 0) < 0 && errno != ECONNREFUSED) die("send");
        }
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        poll(&ready, 1, 20);
        for (int id; (id = hear(fd, packet, &size, &came, &rcode, &address)) >= 0;) {
            /* The second answer to a name that was asked again is not that of its slot's next name. */
            if (id >= window || !slots[id].tries) continue;
            if (slots[id].expected != address_of(packet + HEADER, packet + size, NULL)) continue;
            struct in_addr spelt = {htonl(address)};
            if (rcode || !packet[7]) printf("%s RCODE%d\n", slots[id].name, rcode);
            else printf("%s %s\n", slots[id].name, inet_ntoa(spelt));
            slots[id].tries = 0;
            under_way--;
        }
        int64_t clock = now();
        for (int id = 0; id < window; id++) {
            if (!slots[id].tries || clock < slots[id].at + AGAIN_NS) continue;
            if (slots[id].tries++ == TRIES) {
                printf("%s lost\n", slots[id].name);
                slots[id].tries = 0;
                under_way--;
            } else {
                slots[id].at = clock;
                if (send(fd, packet, question(packet, id, slots[id].name), 0) < 0 && errno != ECONNREFUSED) die("send");
            }
        }
    }
}

int main(int argc, char **argv) {
    double rate = 5000, seconds = 3;
    long first = 0, many = 1L << 40, window = 50, ttl = 3600;
    int fixed = argc > 1 && !strcmp(argv[1], "pace") ? 4 : 3;
    if (argc < fixed || (argc - fixed) % 2) {
        fprintf(stderr, "usage: dnsload answer PORT | pace PORT PATTERN | ask PORT  [--rate N] [--seconds S] [--first N]"
                        " [--many N] [--window N] [--ttl S]\n");
        return 2;
    }
    for (int i = fixed; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--rate")) rate = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--seconds")) seconds = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--first")) first = atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--many")) many = atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--window")) window = atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--ttl")) ttl = atol(argv[i + 1]);
        else {
            errno = EINVAL;
            die(argv[i]);
        }
    }
    make_crc();
    if (!strcmp(argv[1], "answer")) answer(atoi(argv[2]), ttl);
    else if (!strcmp(argv[1], "pace")) pace(atoi(argv[2]), argv[3], rate, seconds, first, many);
    else ask(atoi(argv[2]), window < IDS ? window : IDS);
    return 0;
}
