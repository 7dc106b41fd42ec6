/* metrics_text.c: see metrics_text.h. */
#include "bench/metrics_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char request[] = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";

static char *read_all(int fd) {
    size_t size = 65536, used = 0;
    char *text = malloc(size);
    ssize_t got;

    while (text != NULL && (got = recv(fd, text + used, size - used - 1, 0)) > 0) {
        used += (size_t)got;
        if (size - used > 1) continue;
        char *larger = realloc(text, size *= 2);
        if (larger == NULL) free(text);
        text = larger;
    }
    if (text != NULL) text[used] = '\0';
    return text;
}

char *metrics_fetch(const char *socket_path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char *text = NULL;

    if (strlen(socket_path) >= sizeof address.sun_path) return NULL;
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return NULL;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
        send(fd, request, sizeof request - 1, MSG_NOSIGNAL) == (ssize_t)sizeof request - 1)
        text = read_all(fd);
    (void)close(fd);
    if (text != NULL && strncmp(text, "HTTP/1.", 7) == 0 && strncmp(text + 8, " 200", 4) == 0) return text;
    free(text);
    return NULL;
}

double metrics_sum(const char *text, const char *name, const char *except) {
    const size_t length = strlen(name);
    double sum = 0;

    for (const char *at = text; (at = strstr(at, name)) != NULL; at += length) {
        if (at != text && at[-1] != '\n') continue;
        if (at[length] != ' ' && at[length] != '{') continue;
        size_t line = strcspn(at, "\n");
        const char *space = memrchr(at, ' ', line);
        const char *found = except != NULL ? memmem(at, line, except, strlen(except)) : NULL;
        if (space != NULL && found == NULL) sum += strtod(space + 1, NULL);
    }
    return sum;
}
