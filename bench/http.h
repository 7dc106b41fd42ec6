/*
 * http.h: the least HTTP that is correct, for loads that share their processors with what they measure: one request
 * under way per connection, answers recognised by their length, over the coordinator's Unix socket.
 */
#ifndef BENCH_HTTP_H
#define BENCH_HTTP_H

#include <stddef.h>
#include <stdint.h>

#define HTTP_ANSWER_MAX 16384

struct http_connection {
    int fd;
    uint64_t sent_us;
    size_t length;
    char answer[HTTP_ANSWER_MAX];
};

enum http_got { HTTP_NOT_YET, HTTP_ANSWER, HTTP_LOST };

/* All return an enum ls_exit and say on stderr what went wrong, but for the last. `name`: the subcommand; `source`:
 * what epoll says of it. */
int http_connect(const char *name, const char *path, int epoll, void *source, struct http_connection *connection);
int http_send(const char *name, struct http_connection *connection, const char *request, size_t length,
              uint64_t now_us);
/* Reads what has arrived. HTTP_ANSWER: the whole answer is in `answer`, with a NUL behind it. */
enum http_got http_receive(struct http_connection *connection);

#endif
