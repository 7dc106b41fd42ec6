/* http.c: see http.h. */
#include "bench/http.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "bench/bench.h"
#include "lockstep/status.h"

int http_connect(const char *name, const char *path, int epoll, void *source, struct http_connection *connection) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return bench_fail(name, LS_EXIT_USAGE, "the socket's path is too long");
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    connection->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0 || connect(connection->fd, (struct sockaddr *)&address, sizeof address) != 0) {
        return bench_fail(name, LS_EXIT_UNREACHABLE, "%s: %s", path, strerror(errno));
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event) != 0) {
        return bench_fail(name, LS_EXIT_ERROR, "epoll: %s", strerror(errno));
    }
    return LS_EXIT_OK;
}

int http_send(const char *name, struct http_connection *connection, const char *request, size_t length,
              uint64_t now_us) {
    connection->length = 0;
    connection->sent_us = now_us;
    if (send(connection->fd, request, length, MSG_NOSIGNAL) != (ssize_t)length)
        return bench_fail(name, LS_EXIT_ERROR, "the request cannot be sent: %s", strerror(errno));
    return LS_EXIT_OK;
}

/* The bytes of the whole answer, 0 while its head is not there. */
static size_t answer_length(const struct http_connection *connection) {
    const char *end = strstr(connection->answer, "\r\n\r\n");
    const char *length = strstr(connection->answer, "Content-Length: ");
    if (end == NULL || length == NULL || length > end) return 0;
    return (size_t)(end + 4 - connection->answer) + strtoul(length + sizeof "Content-Length: " - 1, NULL, 10);
}

enum http_got http_receive(struct http_connection *connection) {
    ssize_t got = recv(connection->fd, connection->answer + connection->length,
                       HTTP_ANSWER_MAX - 1 - connection->length, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return HTTP_NOT_YET;
    if (got <= 0) return HTTP_LOST;
    connection->length += (size_t)got;
    connection->answer[connection->length] = '\0';
    size_t whole = answer_length(connection);
    return whole > 0 && connection->length >= whole ? HTTP_ANSWER : HTTP_NOT_YET;
}
