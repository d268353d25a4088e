/* The load of the races: the client that measures and the upstream that answers, in C so that neither is the slowest part.
 *
 *   load source BULK ECHO REPLY          upstream on three ports of 127.0.0.1, until killed
 *   load bulk  TARGET [options]          one download of --seconds; the bytes are thrown away unread
 *   load rate  TARGET [options]          --conns at a time: connect, 64 bytes, 64 bytes back, end of stream, close; again
 *   load echo  TARGET [options]          --conns kept open, each with one 64-byte question under way at all times
 *   load hold  TARGET [options]          --conns opened, each used once, then idle until standard input ends, then asked again
 *
 * TARGET is host:port; without --socks the host is an IPv4 address.  --socks ADDRESS:PORT goes through a SOCKS5 server
 * and sends the host as an address when it is one, else as a name.  --seconds S, --conns N, --limit N (connections).
 * One line of JSON tells the result.
 *
 * Ports: the upstream closes first, as HTTP/1.0 servers do, so TIME_WAIT stays on listening ports (the upstream's and
 * the relay's door) and no side runs out of ephemeral ports.  Every close is an orderly FIN and a connection counts only
 * once its end of stream came through, so the relay's work of closing is paid inside the race by everybody.
 *
 * One thread, one epoll.  Client sockets are registered once, edge-triggered.  Discarding uses MSG_TRUNC: the sink pays
 * no copy, the relay and the source pay theirs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 64, EVENTS = 512, BULK_CHUNK = 256 * 1024, MAX_ERRORS = 1000, SLOWEST_US = 2000000, STALL_MS = 10000 };

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static struct sockaddr_in address(const char *host, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
        errno = EINVAL;
        die(host);
    }
    return a;
}

/* ---- upstream ---- */

enum Kind { LISTEN_BULK, LISTEN_ECHO, LISTEN_REPLY, BULK, ECHO, REPLY };
struct Peer {
    int fd;
    enum Kind kind;
    int got;
};

static char chunk[BULK_CHUNK];

static struct Peer *watch(int ep, int fd, enum Kind kind, unsigned events) {
    struct Peer *p = calloc(1, sizeof *p);
    if (!p) die("memory");
    p->fd = fd;
    p->kind = kind;
    struct epoll_event e = {.events = events, .data.ptr = p};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e)) die("epoll_ctl");
    return p;
}

static void listen_on(int ep, int port, enum Kind kind) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in a = address("127.0.0.1", port);
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) die("listen");
    watch(ep, fd, kind, EPOLLIN);
}

static int serve(struct Peer *p) { /* 0: this peer is finished */
    char buf[16384];
    if (p->kind == BULK) {
        for (int turn = 0; turn < 8; turn++) {
            ssize_t n = send(p->fd, chunk, sizeof chunk, MSG_NOSIGNAL);
            if (n < 0) return errno == EAGAIN;
        }
        return 1;
    }
    ssize_t n = recv(p->fd, buf, sizeof buf, 0);
    if (n <= 0) return n < 0 && errno == EAGAIN;
    if (p->kind == ECHO) return send(p->fd, buf, n, MSG_NOSIGNAL) == n;
    if ((p->got += n) < MESSAGE) return 1;
    send(p->fd, chunk, MESSAGE, MSG_NOSIGNAL);
    return 0;
}

static void source(int bulk, int echo, int reply) {
    struct epoll_event events[EVENTS];
    int ep = epoll_create1(0), on = 1;
    listen_on(ep, bulk, LISTEN_BULK);
    listen_on(ep, echo, LISTEN_ECHO);
    listen_on(ep, reply, LISTEN_REPLY);
    for (;;) {
        int n = epoll_wait(ep, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct Peer *p = events[i].data.ptr;
            if (p->kind <= LISTEN_REPLY) {
                for (int fd, turn = 0; turn < 64 && (fd = accept4(p->fd, 0, 0, SOCK_NONBLOCK)) >= 0; turn++) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    watch(ep, fd, p->kind + BULK, p->kind == LISTEN_BULK ? EPOLLOUT : EPOLLIN);
                }
            } else if (!serve(p)) {
                close(p->fd);
                free(p);
            }
        }
    }
}

/* ---- client ---- */

enum State { CONNECTING, METHOD, SOCKS_REPLY, LIVE };
struct Conn {
    int fd;
    enum State state;
    int got;             /* bytes of the current answer */
    unsigned char head[264]; /* the SOCKS server's words */
    int head_len;
    double began;
};

static enum { M_BULK, M_RATE, M_ECHO, M_HOLD } mode;
static struct sockaddr_in first_hop;
static unsigned char request[300];
static int request_len, ep, opened, live, idle;
static long done, errors, limit = 50000000;
static double stop_at;
static unsigned slowness[SLOWEST_US + 1];
static const char *last_error = "";

static void record(double began) {
    long us = (now() - began) * 1e6;
    slowness[us < SLOWEST_US ? us : SLOWEST_US]++;
    done++;
}

static void begin(struct Conn *c) {
    int on = 1;
    opened++;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    c->state = CONNECTING;
    c->got = c->head_len = 0;
    c->began = now();
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&first_hop, sizeof first_hop) && errno != EINPROGRESS) die("connect");
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e)) die("epoll_ctl");
}

static void finish(struct Conn *c) {
    close(c->fd);
    c->fd = -1;
    if (mode == M_RATE && opened < limit && now() < stop_at) begin(c);
}

static void fail(struct Conn *c, const char *why) {
    last_error = why;
    if (++errors > MAX_ERRORS || mode == M_BULK) {
        fprintf(stderr, "load: gave up after %ld errors, the last: %s\n", errors, why);
        exit(1);
    }
    if (c->state == LIVE) live--;
    finish(c);
}

static int say(struct Conn *c, const void *bytes, int n) {
    if (send(c->fd, bytes, n, MSG_NOSIGNAL) == n) return 1;
    fail(c, "could not send");
    return 0;
}

static void go_live(struct Conn *c) {
    c->state = LIVE;
    live++;
    if (mode == M_BULK) return;
    if (mode != M_RATE) c->began = now();
    say(c, chunk, MESSAGE);
}

/* How long the SOCKS reply is, as far as its head tells. */
static int reply_length(const struct Conn *c) {
    if (c->head_len < 5) return 5;
    return c->head[3] == 1 ? 10 : c->head[3] == 4 ? 22 : 7 + c->head[4];
}

/* Returns 0 when the connection is gone or was begun anew. */
static int took(struct Conn *c, const unsigned char *bytes, int n) {
    if (c->state == METHOD || c->state == SOCKS_REPLY) {
        if (c->head_len + n > (int)sizeof c->head) return fail(c, "SOCKS reply too long"), 0;
        memcpy(c->head + c->head_len, bytes, n);
        c->head_len += n;
        if (c->state == METHOD) {
            if (c->head_len < 2) return 1;
            if (c->head[0] != 5 || c->head[1] != 0 || c->head_len > 2) return fail(c, "SOCKS method refused"), 0;
            c->state = SOCKS_REPLY;
            c->head_len = 0;
            return say(c, request, request_len);
        }
        if (c->head_len > 1 && c->head[1] != 0) return fail(c, "SOCKS connect refused"), 0;
        if (c->head_len < reply_length(c)) return 1;
        go_live(c);
        return c->fd >= 0;
    }
    c->got += n;
    if (mode == M_RATE || c->got < MESSAGE) return 1;
    c->got = 0;
    record(c->began);
    if (mode == M_HOLD) {
        idle++;
        return 1;
    }
    c->began = now();
    return say(c, chunk, MESSAGE);
}

static void step(struct Conn *c, unsigned events) {
    unsigned char buf[4096];
    if (c->state == CONNECTING) {
        if (events & (EPOLLERR | EPOLLHUP)) return fail(c, "connection refused");
        if (!(events & EPOLLOUT)) return;
        if (!request_len) return go_live(c);
        c->state = METHOD;
        say(c, "\5\1", 3);
        return;
    }
    for (;;) {
        if (mode == M_BULK && c->state == LIVE) return;
        ssize_t n = recv(c->fd, buf, mode == M_BULK ? 10 : sizeof buf, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            if (n == 0 && mode == M_RATE && c->state == LIVE && c->got == MESSAGE) {
                record(c->began);
                live--;
                return finish(c);
            }
            return fail(c, n ? "connection reset" : "closed too early");
        }
        if (!took(c, buf, n)) return;
        if (n < (ssize_t)sizeof buf && !(events & EPOLLRDHUP) && mode != M_BULK) return;
    }
}

static void turn(int wait_ms) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(ep, events, EVENTS, wait_ms);
    if (n == 0 && wait_ms == STALL_MS) {
        fprintf(stderr, "load: nothing moved for %d ms (%d live, %ld errors)\n", STALL_MS, live, errors);
        exit(1);
    }
    for (int i = 0; i < n; i++) {
        struct Conn *c = events[i].data.ptr;
        if (c->fd >= 0) step(c, events[i].events);
    }
}

static long percentile(double share) {
    long seen = 0;
    for (int us = 0; us <= SLOWEST_US; us++)
        if ((seen += slowness[us]) >= done * share && seen) return us;
    return 0;
}

static void bulk(struct Conn *c, double seconds) {
    begin(c);
    while (c->state != LIVE) turn(STALL_MS);
    struct timeval patience = {.tv_sec = STALL_MS / 1000};
    fcntl(c->fd, F_SETFL, 0);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    double start = 0, end;
    unsigned long long bytes = 0;
    do {
        ssize_t n = recv(c->fd, NULL, 4 << 20, MSG_TRUNC);
        if (n <= 0) die("download");
        end = now();
        if (!start)
            start = end;
        else
            bytes += n;
    } while (end < start + seconds);
    printf("{\"count\": %llu, \"seconds\": %.6f, \"errors\": 0}\n", bytes, end - start);
}

static void many(struct Conn *conns, int wanted, double seconds) {
    double start = now();
    stop_at = start + seconds;
    if (mode == M_HOLD) {
        for (int i = 0; i < wanted; i++) {
            begin(&conns[i]);
            while (opened - idle - errors >= 64) turn(STALL_MS);
        }
        while (idle + errors < wanted) turn(STALL_MS);
        printf("{\"held\": %d, \"errors\": %ld, \"seconds\": %.3f}\n", idle, errors, now() - start);
        fflush(stdout);
        char nothing;
        while (read(0, &nothing, 1) > 0) {}
        long before = done, broken = errors;
        int asked = 0;
        for (int i = 0; i < wanted; i++) {
            if (conns[i].fd < 0) continue;
            conns[i].began = now();
            asked += say(&conns[i], chunk, MESSAGE);
            while (asked - (done - before) - (errors - broken) >= 64) turn(STALL_MS);
        }
        while (done - before + errors - broken < asked) turn(STALL_MS);
        printf("{\"alive\": %ld}\n", done - before);
        return;
    }
    for (int i = 0; i < wanted; i++) begin(&conns[i]);
    while (now() < stop_at) turn(100);
    double end = now();
    printf("{\"count\": %ld, \"seconds\": %.6f, \"errors\": %ld, \"last_error\": \"%s\", \"p50_us\": %ld, \"p99_us\": %ld}\n",
           done, end - start, errors, last_error, percentile(0.5), percentile(0.99));
}

static char *split(char *hostport, int *port) {
    char *colon = strrchr(hostport, ':');
    if (!colon) {
        errno = EINVAL;
        die("host:port expected");
    }
    *colon = 0;
    *port = atoi(colon + 1);
    return hostport;
}

static void write_request(const char *host, int port) {
    struct in_addr ip;
    int n = strlen(host);
    memcpy(request, "\5\1\0", 3);
    if (inet_pton(AF_INET, host, &ip) == 1) {
        request[3] = 1;
        memcpy(request + 4, &ip, 4);
        request_len = 8;
    } else {
        if (n > 255) die("name too long");
        request[3] = 3;
        request[4] = n;
        memcpy(request + 5, host, n);
        request_len = 5 + n;
    }
    request[request_len++] = port >> 8;
    request[request_len++] = port & 255;
}

int main(int argc, char **argv) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    memset(chunk, 'x', sizeof chunk);
    if (argc == 5 && !strcmp(argv[1], "source")) source(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
    const char *modes[] = {"bulk", "rate", "echo", "hold"};
    int known = 0, conns = 1, port;
    double seconds = 3;
    for (int i = 0; i < 4 && argc > 2; i++)
        if (!strcmp(argv[1], modes[i])) mode = i, known = 1;
    if (!known || argc % 2 == 0) {
        fprintf(stderr, "usage: load source BULK ECHO REPLY | bulk|rate|echo|hold HOST:PORT"
                        " [--socks IP:PORT] [--seconds S] [--conns N] [--limit N]\n");
        return 2;
    }
    char *socks = NULL, *host = split(argv[2], &port);
    for (int i = 3; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--socks")) socks = argv[i + 1];
        else if (!strcmp(argv[i], "--seconds")) seconds = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--conns")) conns = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--limit")) limit = atol(argv[i + 1]);
        else die(argv[i]);
    }
    if (socks) {
        int socks_port;
        write_request(host, port);
        host = split(socks, &socks_port);
        port = socks_port;
    }
    first_hop = address(host, port);
    ep = epoll_create1(0);
    struct Conn *all = calloc(conns, sizeof *all);
    if (!all || ep < 0) die("memory");
    if (mode == M_BULK) bulk(all, seconds);
    else many(all, conns, seconds);
    return 0;
}
