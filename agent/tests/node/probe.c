/* The one program in the tests' image: linked statically, it does what its first argument says. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;

static void forever(void) { for (;;) pause(); }

static void size(int signal) {
    struct winsize size;
    ioctl(0, TIOCGWINSZ, &size);
    printf("%dx%d\n", size.ws_col, size.ws_row);
    fflush(stdout);
    if (signal) _exit(3);
}

static void stamp(const char *word) {
    struct timeval now;
    gettimeofday(&now, NULL);
    printf("%s %lld\n", word, now.tv_sec * 1000LL + now.tv_usec / 1000);
    fflush(stdout);
}

static volatile sig_atomic_t spins, eats;
static void wake(int signal) { if (signal == SIGUSR1) spins = 1; else eats = 1; }

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "sleep";
    long number = argc > 2 ? atol(argv[2]) : 0;
    if (!strcmp(what, "exit")) return number;
    if (!strcmp(what, "sleep")) { if (number) sleep(number); else forever(); return 0; }
    if (!strcmp(what, "stubborn")) { signal(SIGTERM, SIG_IGN); puts("ready"); fflush(stdout); forever(); }
    if (!strcmp(what, "eat")) { /* touch that many MiB, then wait */
        for (long i = 0; i < number; i++) { char *p = malloc(1 << 20); memset(p, 1 + i, 1 << 20); }
        forever();
    }
    if (!strcmp(what, "fill")) { /* write that many MiB to each file, then wait */
        static char block[1 << 20];
        memset(block, 1, sizeof block);
        for (int n = 3; n < argc; n++) {
            FILE *file = fopen(argv[n], "w");
            for (long i = 0; file && i < number; i++)
                if (fwrite(block, sizeof block, 1, file) != 1) { perror(argv[n]); break; }
            if (file) fclose(file); else perror(argv[n]);
        }
        puts("full"); fflush(stdout);
        forever();
    }
    if (!strcmp(what, "lines")) { for (long i = 0; i < number; i++) printf("line %ld\n", i); return 0; }
    if (!strcmp(what, "size")) { signal(SIGWINCH, size); size(0); forever(); }
    if (!strcmp(what, "stamps")) { stamp("early"); sleep(6); stamp("late"); forever(); }
    if (!strcmp(what, "wakes")) { /* sleeps; SIGUSR1: spins from then on; SIGUSR2: touches that many MiB */
        signal(SIGUSR1, wake);
        signal(SIGUSR2, wake);
        for (;;) {
            if (eats) { eats = 0; if (number) memset(malloc(number << 20), 1, number << 20); }
            if (!spins) usleep(10000);
        }
    }
    if (!strcmp(what, "until")) { /* waits for SIGUSR1, and ends well */
        signal(SIGUSR1, wake);
        puts("ready"); fflush(stdout);
        while (!spins) usleep(10000);
        return 0;
    }
    if (!strcmp(what, "spin")) for (;;) __asm__ volatile("");
    if (!strcmp(what, "count")) { /* lines, then wait */
        for (long i = 0; i < number; i++) printf("line %ld\n", i);
        fflush(stdout);
        fputs("to stderr\n", stderr);
        forever();
    }
    if (!strcmp(what, "env")) { for (char **e = environ; *e; e++) puts(*e); return 0; }
    if (!strcmp(what, "serve")) { /* HTTP on a port; first some files of its own */
        int s = socket(AF_INET, SOCK_STREAM, 0), on = 1;
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(number) };
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(s, (struct sockaddr *)&address, sizeof address) || listen(s, 16)) { perror("bind"); return 1; }
        for (char **e = environ; *e; e++) puts(*e);
        for (int i = 3; i < argc; i++) {
            FILE *file = fopen(argv[i], "r");
            int c;
            printf("== %s\n", argv[i]);
            while (file && (c = getc(file)) != EOF) putchar(c);
        }
        puts("ready"); fflush(stdout);
        for (;;) {
            char text[512];
            int c = accept(s, 0, 0);
            if (c < 0) continue;
            if (read(c, text, sizeof text) >= 0 && write(c, "HTTP/1.1 200 OK\r\n\r\nhello", 24) < 0) perror("write");
            close(c);
        }
    }
    if (!strcmp(what, "put")) { /* a line into a file */
        FILE *file = fopen(argv[2], "w");
        if (!file) { perror(argv[2]); return 1; }
        fprintf(file, "put %s\n", argv[2]);
        return fclose(file) != 0;
    }
    if (!strcmp(what, "raw")) { /* a socket that needs NET_RAW */
        if (socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) < 0) { perror("raw"); return 1; }
        return 0;
    }
    if (!strcmp(what, "cat")) { int c; while ((c = getchar()) != EOF) putchar(c); return 7; }
    if (!strcmp(what, "receive")) { /* one message in the sandbox, then its length is the exit code */
        char buffer[256];
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        snprintf(address.sun_path, sizeof address.sun_path, "%s/messages.sock", getenv("MEZZO_SANDBOX"));
        int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
        if (bind(fd, (struct sockaddr *)&address, sizeof address)) { perror("bind"); return 100; }
        puts("ready"); fflush(stdout);
        ssize_t length = recv(fd, buffer, sizeof buffer, 0);
        return length < 0 ? 101 : (int)length;
    }
    return 99;
}
