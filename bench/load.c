/* The load of the races: the client that measures and the upstream that answers, in C so that neither is the slowest part.
 *
 *   load source BULK ECHO REPLY          upstream on three ports of 127.0.0.1, until killed
 *   load source BULK ECHO REPLY SINK PATTERN    the same on all addresses, with two ports more
 *   load bulk  TARGET [options]          one download of --seconds; the bytes are thrown away unread
 *   load push  TARGET [options]          one upload of --seconds to a SINK, which tells how much has come
 *   load fetch TARGET [options]          one download of --bytes from a PATTERN; each byte is checked
 *   load rate  TARGET [options]          --conns at a time: connect, 64 bytes, 64 bytes back, end of stream, close; again
 *   load echo  TARGET [options]          --conns kept open, each with one 64-byte question under way at all times
 *   load hold  TARGET [options]          --conns opened, each used once, then idle until standard input ends, then asked again
 *   load open  TARGET [options]          --rate connections a second, whether or not others are open, --conns at most;
 *                                        timed is the way to an open one, then each does what it does in rate
 *   load ask   TARGET [options]          --rate questions of --size a second over one connection kept open
 *
 * TARGET is host:port; without --socks the host is an IPv4 address.  --socks ADDRESS:PORT goes through a SOCKS5 server
 * and sends the host as an address when it is one, else as a name.  --seconds S, --conns N, --limit N (connections),
 * --rate N (a second), --size N (bytes of a question), --bytes N.
 * One line of JSON tells the result.
 *
 * Ports: the upstream closes first, as HTTP/1.0 servers do, so TIME_WAIT stays on listening ports (the upstream's and
 * the relay's door) and no side runs out of ephemeral ports.  Every close is an orderly FIN and a connection counts only
 * once its end of stream came through, so the relay's work of closing is paid inside the race by everybody.
 *
 * Steady loads (open, ask) count from the time when a connection or question was due, and run before everybody else on
 * their CPU if they may, so that a latency holds no waiting of the client's own.
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
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 64, MOST_MESSAGE = 16384, EVENTS = 512, BULK_CHUNK = 256 * 1024, PIECE = BULK_CHUNK - 8, MAX_ERRORS = 1000, SLOWEST_US = 2000000, STALL_MS = 10000 };

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

enum Kind { LISTEN_BULK, LISTEN_ECHO, LISTEN_REPLY, LISTEN_SINK, LISTEN_PATTERN, BULK, ECHO, REPLY, SINK, PATTERN };
struct Peer {
    int fd;
    enum Kind kind;
    uint64_t moved;
};

static char chunk[BULK_CHUNK];
static uint64_t words[BULK_CHUNK / 8 + 1];

/* The bytes of a PATTERN from number ``at`` on; each 8 of them tell where they are. */
static char *pattern(uint64_t at, size_t size) {
    for (size_t i = 0; i <= (size + 7) / 8; i++) words[i] = (at / 8 + i) * 0x9E3779B97F4A7C15;
    return (char *)words + at % 8;
}

static struct Peer *watch(int ep, int fd, enum Kind kind, unsigned events) {
    struct Peer *p = calloc(1, sizeof *p);
    if (!p) die("memory");
    p->fd = fd;
    p->kind = kind;
    struct epoll_event e = {.events = events, .data.ptr = p};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e)) die("epoll_ctl");
    return p;
}

static void listen_on(int ep, const char *host, int port, enum Kind kind) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in a = address(host, port);
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) die("listen");
    watch(ep, fd, kind, EPOLLIN);
}

static int serve(struct Peer *p) { /* 0: this peer is finished */
    char buf[MOST_MESSAGE];
    if (p->kind == BULK || p->kind == PATTERN) {
        for (int turn = 0; turn < 8; turn++) {
            const char *from = p->kind == BULK ? chunk : pattern(p->moved, PIECE);
            ssize_t n = send(p->fd, from, PIECE, MSG_NOSIGNAL);
            if (n < 0) return errno == EAGAIN;
            p->moved += n;
        }
        return 1;
    }
    if (p->kind == SINK) {
        for (int turn = 0; turn < 8; turn++) {
            ssize_t n = recv(p->fd, NULL, 4 << 20, MSG_TRUNC);
            if (n < 0) return errno == EAGAIN;
            if (n == 0) return send(p->fd, &p->moved, sizeof p->moved, MSG_NOSIGNAL), 0;
            p->moved += n;
        }
        return 1;
    }
    ssize_t n = recv(p->fd, buf, sizeof buf, 0);
    if (n <= 0) return n < 0 && errno == EAGAIN;
    if (p->kind == ECHO) return send(p->fd, buf, n, MSG_NOSIGNAL) == n;
    if ((p->moved += n) < MESSAGE) return 1;
    send(p->fd, chunk, MESSAGE, MSG_NOSIGNAL);
    return 0;
}

static void source(char **ports, int count) {
    struct epoll_event events[EVENTS];
    int ep = epoll_create1(0), on = 1;
    const char *host = count > 3 ? "0.0.0.0" : "127.0.0.1";
    for (int i = 0; i < count; i++) listen_on(ep, host, atoi(ports[i]), LISTEN_BULK + i);
    for (;;) {
        int n = epoll_wait(ep, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct Peer *p = events[i].data.ptr;
            if (p->kind <= LISTEN_PATTERN) {
                unsigned wanted = p->kind == LISTEN_BULK || p->kind == LISTEN_PATTERN ? EPOLLOUT : EPOLLIN;
                for (int fd, turn = 0; turn < 64 && (fd = accept4(p->fd, 0, 0, SOCK_NONBLOCK)) >= 0; turn++) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    watch(ep, fd, p->kind + BULK, wanted);
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

static enum { M_BULK, M_RATE, M_ECHO, M_HOLD, M_OPEN, M_ASK, M_PUSH, M_FETCH } mode;
static struct sockaddr_in first_hop;
static unsigned char request[300];
static int request_len, ep, opened, live, idle, message = MESSAGE, per_second = 1000;
static long done, errors, limit = 50000000;
static long long most_bytes = 1 << 30;
static double stop_at;
static unsigned slowness[SLOWEST_US + 1];
static const char *last_error = "";

static void record(double began) {
    long us = (now() - began) * 1e6;
    slowness[us < SLOWEST_US ? us : SLOWEST_US]++;
    done++;
}

static int one_stream(void) { return mode == M_BULK || mode == M_PUSH || mode == M_FETCH; }

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
    if (++errors > MAX_ERRORS || one_stream() || mode == M_ASK) {
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
    if (one_stream() || mode == M_ASK) return;
    if (mode == M_OPEN) record(c->began);
    if (mode != M_RATE) c->began = now();
    say(c, chunk, message);
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
    if (mode == M_RATE || mode == M_OPEN || c->got < message) return 1;
    c->got = 0;
    record(c->began);
    if (mode == M_ASK) {
        c->began = 0;
        return 1;
    }
    if (mode == M_HOLD) {
        idle++;
        return 1;
    }
    c->began = now();
    return say(c, chunk, message);
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
        if (one_stream() && c->state == LIVE) return;
        ssize_t n = recv(c->fd, buf, one_stream() ? 10 : sizeof buf, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            if (n == 0 && (mode == M_RATE || mode == M_OPEN) && c->state == LIVE && c->got == MESSAGE) {
                if (mode == M_RATE) record(c->began);
                live--;
                return finish(c);
            }
            return fail(c, n ? "connection reset" : "closed too early");
        }
        if (!took(c, buf, n)) return;
        if (n < (ssize_t)sizeof buf && !(events & EPOLLRDHUP) && !one_stream()) return;
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

static void upload(int fd, double seconds) {
    double start = now(), end = start + seconds;
    uint64_t sent = 0, came = 0;
    while (now() < end) {
        ssize_t n = send(fd, chunk, sizeof chunk, MSG_NOSIGNAL);
        if (n <= 0) die("upload");
        sent += n;
    }
    shutdown(fd, SHUT_WR);
    if (recv(fd, &came, sizeof came, MSG_WAITALL) != sizeof came || came != sent) die("not all of an upload came");
    printf("{\"count\": %llu, \"seconds\": %.6f, \"errors\": 0}\n", (unsigned long long)came, now() - start);
}

static void fetch(int fd) {
    static char buf[PIECE];
    double start = now();
    long long got = 0;
    while (got < most_bytes) {
        ssize_t n = recv(fd, buf, sizeof buf, 0);
        if (n <= 0) die("download");
        if (memcmp(buf, pattern(got, n), n)) {
            fprintf(stderr, "load: what came after %lld bytes is wrong\n", got);
            exit(1);
        }
        got += n;
    }
    printf("{\"count\": %lld, \"seconds\": %.6f, \"errors\": 0}\n", got, now() - start);
}

static void bulk(struct Conn *c, double seconds) {
    begin(c);
    while (c->state != LIVE) turn(STALL_MS);
    struct timeval patience = {.tv_sec = STALL_MS / 1000};
    fcntl(c->fd, F_SETFL, 0);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (mode == M_PUSH) return upload(c->fd, seconds);
    if (mode == M_FETCH) return fetch(c->fd);
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

static void tell(double seconds) {
    printf("{\"count\": %ld, \"seconds\": %.6f, \"errors\": %ld, \"last_error\": \"%s\", \"p50_us\": %ld, \"p99_us\": %ld}\n",
           done, seconds, errors, last_error, percentile(0.5), percentile(0.99));
}

/* A clock that ticks --rate times a second from ``start`` on, and wakes ``turn``. */
static int ticking(double start) {
    static struct Conn tick = {.fd = -1};
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &tick};
    long every = 1000000000L / per_second;
    struct itimerspec times = {{every / 1000000000L, every % 1000000000L}, {start, (start - (long)start) * 1e9}};
    int clock = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (clock < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, clock, &e)) die("timer");
    if (timerfd_settime(clock, TFD_TIMER_ABSTIME, &times, NULL)) die("timer");
    return clock;
}

static long ticks(int clock) {
    uint64_t count;
    if (read(clock, &count, sizeof count) == sizeof count) return count;
    if (errno != EAGAIN) die("timer");
    return 0;
}

static void ask(struct Conn *c, double seconds) {
    begin(c);
    while (c->state != LIVE) turn(STALL_MS);
    c->began = 0;
    double start = now();
    int clock = ticking(start);
    for (long asked = 0, due = 0; now() < start + seconds;) {
        turn(STALL_MS);
        due += ticks(clock);
        if (c->began || asked == due) continue;
        c->began = start + (double)asked++ / per_second;
        say(c, chunk, message);
    }
    tell(now() - start);
}

static void open_all(struct Conn *conns, int places, double seconds) {
    for (int i = 0; i < places; i++) conns[i].fd = -1;
    double start = now();
    int clock = ticking(start), place = 0;
    for (long due = 0, tried = 0, all = seconds * per_second; due < all;) {
        turn(STALL_MS);
        for (due += ticks(clock); tried < due; tried++) {
            int taken = 0;
            while (taken < places && conns[place].fd >= 0) taken++, place = (place + 1) % places;
            if (taken == places) {
                errors++;
                last_error = "too many are being opened";
                continue;
            }
            begin(&conns[place]);
            conns[place].began = start + (double)tried / per_second;
        }
    }
    close(clock); /* due and unread, it would keep awake whoever waits, ahead of everybody whose work that is */
    double took = now() - start, last = now() + 2;
    for (int i = 0; i < places; i++) {
        while (conns[i].fd >= 0 && now() < last) turn(100);
        errors += conns[i].fd >= 0;
    }
    tell(took);
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
    tell(now() - start);
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
    if ((argc == 5 || argc == 7) && !strcmp(argv[1], "source")) source(argv + 2, argc - 2);
    const char *modes[] = {"bulk", "rate", "echo", "hold", "open", "ask", "push", "fetch"};
    int known = 0, conns = 1, port;
    double seconds = 3;
    for (int i = 0; i < 8 && argc > 2; i++)
        if (!strcmp(argv[1], modes[i])) mode = i, known = 1;
    if (!known || argc % 2 == 0) {
        fprintf(stderr, "usage: load source BULK ECHO REPLY [SINK PATTERN] | bulk|rate|echo|hold|open|ask|push|fetch"
                        " HOST:PORT [--socks IP:PORT] [--seconds S] [--conns N] [--limit N] [--rate N] [--size N] [--bytes N]\n");
        return 2;
    }
    char *socks = NULL, *host = split(argv[2], &port);
    for (int i = 3; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--socks")) socks = argv[i + 1];
        else if (!strcmp(argv[i], "--seconds")) seconds = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--conns")) conns = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--limit")) limit = atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--rate")) per_second = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--size")) message = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--bytes")) most_bytes = atoll(argv[i + 1]);
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
    if (mode == M_OPEN || mode == M_ASK) {
        struct sched_param urgent = {.sched_priority = 1};
        sched_setscheduler(0, SCHED_FIFO, &urgent);
    }
    if (per_second < 1 || message < 1 || message > MOST_MESSAGE) die("--rate or --size");
    if (one_stream()) bulk(all, seconds);
    else if (mode == M_ASK) ask(all, seconds);
    else if (mode == M_OPEN) open_all(all, conns, seconds);
    else many(all, conns, seconds);
    return 0;
}
