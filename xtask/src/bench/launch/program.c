/* The whole content of the containers of `cargo xtask bench launch`.
 *   program true     ends at once
 *   program stamp    prints CLOCK_MONOTONIC in nanoseconds
 *   program sleep    until SIGTERM
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void end(int signal) {
    (void)signal;
    _exit(0);
}

int main(int argc, char **argv) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const char *word = argc > 1 ? argv[1] : "sleep";
    if (strcmp(word, "true") == 0) return 0;
    if (strcmp(word, "stamp") == 0) {
        printf("%lld\n", (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
        return fflush(stdout) == 0 ? 0 : 3;
    }
    signal(SIGTERM, end);
    for (;;) pause();
}
