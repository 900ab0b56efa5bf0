/* The one program in the tests' root file systems: linked statically, it does what its first argument says. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <arpa/inet.h>
#include <time.h>
#include <unistd.h>

static void say(const char *what, long result) {
    printf("%s: %s\n", what, result < 0 ? strerror(errno) : "ok");
}

static void forever(void) { for (;;) pause(); }

static void cat(const char *path) {
    char buffer[65536];
    int fd = open(path, O_RDONLY);
    if (fd < 0) { printf("%s: %s\n", path, strerror(errno)); return; }
    ssize_t length;
    while ((length = read(fd, buffer, sizeof buffer)) > 0) fwrite(buffer, 1, length, stdout);
    close(fd);
}

/* What this process has used, in microseconds; what it did before its program was executed counts too. */
static long long used(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000LL + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

static volatile sig_atomic_t stopped;
static void on_term(int signal) { (void)signal; stopped = 1; }

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "true";
    long number = argc > 2 ? atol(argv[2]) : 0;
    if (!strcmp(what, "true")) return 0;
    if (!strcmp(what, "exit")) return number;
    if (!strcmp(what, "crash")) { /* a fault ends even the first process of a pid namespace */
        volatile int *nowhere = (int *)(uintptr_t)number;
        *nowhere = 1;
    }
    if (!strcmp(what, "sleep")) { if (number) sleep(number); else forever(); return 0; }
    if (!strcmp(what, "ignore")) { signal(SIGTERM, SIG_IGN); puts("ready"); fflush(stdout); forever(); }
    if (!strcmp(what, "graceful")) {
        sigset_t term, before; /* the signal waits until it is waited for: none falls between the question and the wait */
        sigemptyset(&term); sigaddset(&term, SIGTERM);
        sigprocmask(SIG_BLOCK, &term, &before);
        signal(SIGTERM, on_term);
        puts("ready"); fflush(stdout);
        while (!stopped) sigsuspend(&before);
        puts("bye");
        return 3;
    }
    if (!strcmp(what, "shell")) { /* a first process that hears nothing over a program that does */
        pid_t pid = fork();
        if (!pid) execl("/proc/self/exe", "probe", "graceful", (char *)NULL);
        int status = 0;
        waitpid(pid, &status, 0);
        return WEXITSTATUS(status);
    }
    if (!strcmp(what, "eat")) { /* touch that many MiB, then wait */
        for (long i = 0; i < number; i++) { char *p = malloc(1 << 20); memset(p, 1 + i, 1 << 20); }
        puts("full"); fflush(stdout);
        forever();
    }
    if (!strcmp(what, "fork")) { /* as many children as the limit lets us, up to number */
        long made = 0;
        for (; made < number; made++) { pid_t pid = fork(); if (pid < 0) break; if (!pid) forever(); }
        printf("made %ld: %s\n", made, made < number ? strerror(errno) : "all");
        fflush(stdout);
        forever();
    }
    if (!strcmp(what, "spin")) { /* that many milliseconds of CPU time, beside what the start has used already */
        clock_t begin = clock();
        while (clock() - begin < number * (CLOCKS_PER_SEC / 1000)) {}
        puts("done"); fflush(stdout);
        forever();
    }
    if (!strcmp(what, "share")) { /* busy for ever, on the first processor that it may use */
        cpu_set_t all, first;
        sched_getaffinity(0, sizeof all, &all);
        CPU_ZERO(&first);
        for (int i = 0; i < CPU_SETSIZE; i++) if (CPU_ISSET(i, &all)) { CPU_SET(i, &first); break; }
        say("pin", sched_setaffinity(0, sizeof first, &first)); fflush(stdout);
        for (;;) {}
    }
    if (!strcmp(what, "burn")) { /* that many milliseconds of CPU time, after so many asleep: how many it was, and all */
        if (argc > 3) usleep(atol(argv[3]) * 1000);
        long long before = used();
        char line[64];
        while (used() - before < number * 1000) for (volatile int i = 0; i < 2000; i++) {}
        write(1, line, snprintf(line, sizeof line, "burned %lld of %lld\n", used() - before, used()));
        _exit(0);
    }
    if (!strcmp(what, "store")) { /* so many MiB into a file, past the page cache ("direct") or through it, then wait */
        int direct = argc > 4 && !strcmp(argv[4], "direct");
        int fd = open(argv[3], O_CREAT | O_WRONLY | O_TRUNC | (direct ? O_DIRECT : 0), 0644);
        char *block;
        if (fd < 0 || posix_memalign((void **)&block, 65536, 65536)) { say(argv[3], -1); return 1; }
        memset(block, 'x', 65536);
        for (long i = 0; i < number * 16; i++)
            if (write(fd, block, 65536) != 65536) { say("write", -1); return 1; }
        if (fsync(fd)) { say("sync", -1); return 1; }
        puts("stored"); fflush(stdout);
        forever();
    }
    if (!strcmp(what, "life")) { /* so many seconds of a bit of everything, into a file past the page cache; at last too much memory */
        int fd = open(argv[3], O_CREAT | O_WRONLY | O_TRUNC | O_DIRECT, 0644);
        long size = 1 << 20, written = 0;
        char *block;
        struct timespec begin, now;
        if (fd < 0 || posix_memalign((void **)&block, 65536, size)) { say(argv[3], -1); fflush(stdout); forever(); }
        memset(block, 'x', size);
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (long round = 0;; round++) {
            long long until = used() + 25000;
            while (used() < until) for (volatile int i = 0; i < 2000; i++) {}
            if (round % 10 == 0) {
                if (pwrite(fd, block, size, 0) != size) { say("write", -1); fflush(stdout); forever(); }
                written += size;
                char *eaten = malloc(32 << 20);
                memset(eaten, 1, 32 << 20);
                free(eaten);
            }
            usleep(75000);
            clock_gettime(CLOCK_MONOTONIC, &now);
            if (now.tv_sec - begin.tv_sec >= number) break;
        }
        pid_t pid = fork();
        if (!pid) for (;;) memset(malloc(1 << 20), 1, 1 << 20);
        int status = 0;
        waitpid(pid, &status, 0);
        printf("wrote %ld used %lld signal %d lived\n", written, used(), WTERMSIG(status)); fflush(stdout);
        forever();
    }
    if (!strcmp(what, "brief")) { /* a bit of everything within so many milliseconds, too much memory too, and its end */
        int fd = open(argv[3], O_CREAT | O_WRONLY | O_TRUNC | O_DIRECT, 0644);
        long size = 1 << 20;
        char *block;
        struct timespec begin, now;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        if (fd < 0 || posix_memalign((void **)&block, 65536, size)) { say(argv[3], -1); return 1; }
        memset(block, 'x', size);
        if (write(fd, block, size) != size) { say("write", -1); return 1; }
        memset(malloc(8 << 20), 1, 8 << 20);
        pid_t pid = fork();
        if (!pid) for (;;) memset(malloc(1 << 20), 1, 1 << 20);
        int status = 0;
        waitpid(pid, &status, 0);
        long long lived;
        do {
            clock_gettime(CLOCK_MONOTONIC, &now);
            lived = (now.tv_sec - begin.tv_sec) * 1000000LL + (now.tv_nsec - begin.tv_nsec) / 1000;
        } while (lived < number * 1000);
        printf("lived %lld signal %d\n", lived, WTERMSIG(status));
        return 0;
    }
    if (!strcmp(what, "write")) { /* that many numbered lines, of 100 bytes each */
        for (long i = 0; i < number; i++) printf("%08ld %090d\n", i, 0);
        fprintf(stderr, "err %ld\n", number);
        return 0;
    }
    if (!strcmp(what, "env")) { for (char **e = environ; *e; e++) puts(*e); return 0; }
    if (!strcmp(what, "cat")) { for (int i = 2; i < argc; i++) cat(argv[i]); return 0; }
    if (!strcmp(what, "echo")) { /* what comes in goes out, doubled */
        char line[256];
        while (fgets(line, sizeof line, stdin)) { printf("%s%s", line, line); fflush(stdout); }
        return 5;
    }
    if (!strcmp(what, "tty")) {
        struct winsize size = {0};
        ioctl(0, TIOCGWINSZ, &size);
        printf("tty %d %d %d\n", isatty(0), size.ws_col, size.ws_row); fflush(stdout);
        char line[256];
        if (fgets(line, sizeof line, stdin)) {
            ioctl(0, TIOCGWINSZ, &size);
            printf("then %d %d %s", size.ws_col, size.ws_row, line);
        }
        return 6;
    }
    if (!strcmp(what, "terminal")) { /* whether the standard streams are one, whose it is, and by which names it is reached */
        struct winsize size = {0};
        struct stat about = {0};
        char name[64];
        ioctl(0, TIOCGWINSZ, &size);
        if (ttyname_r(0, name, sizeof name)) strcpy(name, "none");
        fstat(0, &about);
        printf("name %s streams %d %d %d size %d %d owner %d %d mode %o\n", name, isatty(0), isatty(1), isatty(2),
               size.ws_col, size.ws_row, about.st_uid, about.st_gid, about.st_mode & 07777);
        printf("session %d foreground %d term %s\n", tcgetsid(0) == getsid(0), tcgetpgrp(0) == getpgrp(), getenv("TERM"));
        fflush(stdout);
        const char *names[] = { "/dev/tty", "/dev/console", "/dev/stdin", "/dev/stderr", name };
        for (int i = 0; i < 5; i++) {
            int fd = open(names[i], O_RDWR | O_NOCTTY);
            if (fd < 0) say(names[i], -1);
            else { dprintf(fd, "through %s\n", names[i]); close(fd); }
        }
        fprintf(stderr, "an error\n");
        return 7;
    }
    if (!strcmp(what, "swallow")) { /* lets all that is typed wait for a while, then counts it to its end */
        struct termios quiet;
        char buffer[4096];
        long total = 0;
        ssize_t length;
        tcgetattr(0, &quiet);
        quiet.c_lflag &= ~ECHO;
        tcsetattr(0, TCSANOW, &quiet);
        printf("ready\n"); fflush(stdout);
        usleep(number * 1000);
        while ((length = read(0, buffer, sizeof buffer)) > 0) total += length;
        printf("swallowed %ld\n", total);
        return 0;
    }
    if (!strcmp(what, "returns")) { /* closes its terminal, and comes back to it */
        printf("before\n"); fflush(stdout);
        close(0); close(1); close(2);
        usleep(300000);
        int fd = open("/dev/tty", O_RDWR);
        dprintf(fd < 0 ? 9 : fd, "after\n");
        return 0;
    }
    if (!strcmp(what, "fds")) {
        DIR *dir = opendir("/proc/self/fd");
        struct dirent *entry;
        while ((entry = readdir(dir))) {
            if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(dir)) continue;
            char path[300], target[256];
            snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
            ssize_t length = readlink(path, target, sizeof target - 1);
            target[length < 0 ? 0 : length] = 0;
            printf("fd %s %s\n", entry->d_name, target);
        }
        return 0;
    }
    if (!strcmp(what, "attack")) { /* what a container must not be able to do; each line ends with the refusal */
        say("mknod", mknod("/disk", S_IFBLK | 0600, makedev(number, 0)));
        say("open disk", open("/dev/disk-from-host", O_RDONLY));
        say("mount", mount("none", "/tmp", "tmpfs", 0, NULL));
        say("unshare user", syscall(SYS_unshare, 0x10000000));
        say("clone user", syscall(SYS_clone, 0x10000000 | SIGCHLD, 0, 0, 0, 0));
        say("raw socket", socket(AF_INET, SOCK_RAW, 1));
        say("vsock", socket(40, SOCK_STREAM, 0));
        say("write sysctl", open("/proc/sys/kernel/hostname", O_WRONLY));
        say("sysrq", open("/proc/sysrq-trigger", O_WRONLY));
        say("setns", syscall(SYS_setns, open("/proc/self/ns/net", O_RDONLY), 0));
        say("bpf", syscall(SYS_bpf, 0, 0, 0));
        say("keyctl", syscall(SYS_keyctl, 0, 0, 0, 0, 0));
        say("sethostname", sethostname("x", 1));
        say("write sys", open("/sys/kernel/mm/ksm/run", O_WRONLY));
        struct stat kcore = {0};
        say("stat kcore", stat("/proc/kcore", &kcore));
        printf("kcore size: %lld\n", (long long)kcore.st_size);
        say("null", open("/dev/null", O_RDWR));
        say("random", open("/dev/urandom", O_RDONLY));
        return 0;
    }
    if (!strcmp(what, "serve")) { /* "tcp4", "tcp6" or "udp4", a port: whoever asks is told who it is */
        int six = what && argv[2][3] == '6', udp = argv[2][0] == 'u', port = atoi(argv[3]), on = 1;
        struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
        struct sockaddr_in a4 = { .sin_family = AF_INET, .sin_port = htons(port) };
        struct sockaddr *address = six ? (struct sockaddr *)&a6 : (struct sockaddr *)&a4;
        socklen_t length = six ? sizeof a6 : sizeof a4;
        int s = socket(six ? AF_INET6 : AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM, 0);
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(s, address, length) || (!udp && listen(s, 64))) { say("bind", -1); return 1; }
        puts("ready"); fflush(stdout);
        for (;;) {
            char text[128] = "";
            struct sockaddr_storage peer;
            socklen_t size = sizeof peer;
            int c = s;
            if (udp) { if (recvfrom(s, text, sizeof text, 0, (struct sockaddr *)&peer, &size) < 0) continue; }
            else if ((c = accept(s, (struct sockaddr *)&peer, &size)) < 0) continue;
            void *from = peer.ss_family == AF_INET6 ? (void *)&((struct sockaddr_in6 *)&peer)->sin6_addr
                                                    : (void *)&((struct sockaddr_in *)&peer)->sin_addr;
            inet_ntop(peer.ss_family, from, text, sizeof text - 1);
            if (udp) sendto(s, text, strlen(text), 0, (struct sockaddr *)&peer, size);
            else { if (write(c, text, strlen(text)) < 0) say("write", -1); close(c); }
        }
    }
    if (!strcmp(what, "status")) { cat("/proc/self/status"); return 0; }
    if (!strcmp(what, "where")) { /* cwd, hostname, user, groups */
        char cwd[256], host[256];
        gid_t groups[32];
        int n = getgroups(32, groups);
        gethostname(host, sizeof host);
        printf("cwd %s host %s uid %d gid %d groups", getcwd(cwd, sizeof cwd), host, getuid(), getgid());
        for (int i = 0; i < n; i++) printf(" %d", groups[i]);
        printf(" pid %d\n", getpid());
        return 0;
    }
    if (!strcmp(what, "touch")) { int fd = open(argv[2], O_CREAT | O_WRONLY, 0644); say(argv[2], fd); return fd < 0; }
    if (!strcmp(what, "device")) { /* path, major, minor: made, then opened */
        say("made", argc < 5 ? -1 : mknod(argv[2], S_IFCHR | 0666, makedev(atoi(argv[3]), atoi(argv[4]))));
        say("open", open(argv[2], O_RDONLY));
        return 0;
    }
    if (!strcmp(what, "owner")) { /* of each file */
        for (int i = 2; i < argc; i++) {
            struct stat found;
            if (stat(argv[i], &found)) say(argv[i], -1);
            else printf("%s %u:%u\n", argv[i], found.st_uid, found.st_gid);
        }
        return 0;
    }
    if (!strcmp(what, "reopen")) { /* what a program does that logs into /dev/stdout */
        int fd = open("/dev/stdout", O_WRONLY);
        say("reopen", fd);
        return fd < 0 || write(fd, "written\n", 8) != 8;
    }
    if (!strcmp(what, "interfaces")) {
        cat("/proc/net/dev");
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        struct { unsigned short family, port; unsigned address; char zero[8]; } to = {AF_INET, htons(9), htonl(0x7f000001), {0}};
        say("loopback", connect(fd, (struct sockaddr *)&to, sizeof to));
        say("send", send(fd, "x", 1, 0));
        return 0;
    }
    fprintf(stderr, "unknown: %s\n", what);
    return 98;
}
