// Joins the tun devices `ht0` of two network namespaces by a link: link FROM TO BITS_A_SECOND DELAY_MS LOSS_PERMILLE [QUEUE_MS]. It loses packets from
// the first to the second only; what would wait longer than the queue is dropped. For kernels without netem. Run as root.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <net/if.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 65536, LARGEST = 1600, BATCH = 64 };

struct packet {
    double due;
    int len;
    unsigned char bytes[LARGEST];
};

struct direction {
    int in, out;
    double free_at;
    int loss;
    struct packet *ring;
    unsigned head, tail;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int device(const char *space) {
    char path[256];
    snprintf(path, sizeof path, "/run/netns/%s", space);
    int ns = open(path, O_RDONLY | O_CLOEXEC);
    if (ns < 0 || setns(ns, CLONE_NEWNET) < 0) fail(path);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    strcpy(request.ifr_name, "ht0");
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) fail("/dev/net/tun");
    return fd;
}

int main(int count, char **args) {
    if (count < 6) {
        fprintf(stderr, "link FROM TO BITS_A_SECOND DELAY_MS LOSS_PERMILLE [QUEUE_MS]\n");
        return 2;
    }
    double rate = atof(args[3]), delay = atof(args[4]) / 1e3, queue = count > 6 ? atof(args[6]) / 1e3 : 0.1;
    int a = device(args[1]), b = device(args[2]);
    struct direction ways[2] = {{.in = a, .out = b, .loss = atoi(args[5])}, {.in = b, .out = a}};
    for (int i = 0; i < 2; i++) ways[i].ring = malloc(sizeof(struct packet) * SLOTS);
    srand(1);
    for (;;) {
        double time = now(), next = time + 1;
        for (int i = 0; i < 2; i++) {
            struct direction *way = &ways[i];
            for (; way->head != way->tail && way->ring[way->head % SLOTS].due <= time; way->head++) {
                struct packet *packet = &way->ring[way->head % SLOTS];
                if (write(way->out, packet->bytes, packet->len) < 0 && errno != EAGAIN && errno != EIO) fail("write");
            }
            if (way->head != way->tail && way->ring[way->head % SLOTS].due < next) next = way->ring[way->head % SLOTS].due;
        }
        struct pollfd ready[2] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}};
        double wait = next - now();
        struct timespec pause = {0, 0};
        if (wait > 0) pause = (struct timespec){(time_t)wait, (long)((wait - (time_t)wait) * 1e9)};
        ppoll(ready, 2, &pause, NULL);
        for (int i = 0; i < 2; i++) {
            struct direction *way = &ways[i];
            for (int k = 0; ready[i].revents & POLLIN && k < BATCH && way->tail - way->head < SLOTS - 1; k++) {
                struct packet *packet = &way->ring[way->tail % SLOTS];
                packet->len = read(way->in, packet->bytes, LARGEST);
                if (packet->len <= 0) break;
                double came = now();
                if (way->free_at < came) way->free_at = came;
                if (way->free_at - came > queue) continue;
                way->free_at += packet->len * 8 / rate;
                if (way->loss && rand() % 1000 < way->loss) continue;
                packet->due = way->free_at + delay;
                way->tail++;
            }
        }
    }
}
