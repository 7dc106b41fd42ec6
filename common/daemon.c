/*
 * daemon.c: the operating system's side of both daemons. Everything here happens at start or on a signal; nothing of it
 * is on the path of a transaction, and nothing logs: the daemon says what failed, once.
 */
#include "common/daemon.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <event2/util.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/address.h"

static enum ls_status os_failed(struct ls_error *err, const char *what, const char *object) {
    int error = errno;
    return ls_fail(err, LS_ERR_IO, "%s%s%s: %s", what, *object ? " " : "", object, strerror(error));
}

unsigned long long daemon_now_us(void) {
    struct timespec now;
    int failed = clock_gettime(CLOCK_MONOTONIC, &now);
    assert(failed == 0);
    (void)failed;
    return (unsigned long long)now.tv_sec * 1000000u + (unsigned long long)now.tv_nsec / 1000u;
}

enum ls_status daemon_harden(struct ls_error *err) {
    struct rlimit files;
    (void)umask(0077);
    if (prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L) != 0) return os_failed(err, "prctl", "PR_SET_DUMPABLE");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) != 0) return os_failed(err, "prctl", "PR_SET_NO_NEW_PRIVS");
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR) return os_failed(err, "signal", "SIGPIPE");
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) return os_failed(err, "getrlimit", "RLIMIT_NOFILE");
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) != 0) return os_failed(err, "setrlimit", "RLIMIT_NOFILE");
    return LS_OK;
}

/* ------------------------------------------------------------------ signals */

struct daemon_signals {
    void (*on_stop)(void *context, int signal);
    void (*on_reload)(void *context);
    void *context;
    struct event *events[3];
};

static void stop_arrived(evutil_socket_t signal, short what, void *arg) {
    struct daemon_signals *signals = arg;
    (void)what;
    signals->on_stop(signals->context, (int)signal);
}

static void reload_arrived(evutil_socket_t signal, short what, void *arg) {
    struct daemon_signals *signals = arg;
    (void)signal, (void)what;
    signals->on_reload(signals->context);
}

enum ls_status daemon_signals_new(struct event_base *base, void (*on_stop)(void *context, int signal),
                                  void (*on_reload)(void *context), void *context, struct daemon_signals **ret_signals,
                                  struct ls_error *err) {
    struct daemon_signals *signals = calloc(1, sizeof *signals);
    if (!signals) return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    signals->on_stop = on_stop;
    signals->on_reload = on_reload;
    signals->context = context;
    signals->events[0] = evsignal_new(base, SIGTERM, stop_arrived, signals);
    signals->events[1] = evsignal_new(base, SIGINT, stop_arrived, signals);
    signals->events[2] = evsignal_new(base, SIGHUP, reload_arrived, signals);
    for (size_t i = 0; i < 3; i++) {
        if (!signals->events[i] || event_add(signals->events[i], NULL) != 0) {
            daemon_signals_free(signals);
            return ls_fail(err, LS_ERR_NOMEM, "signals cannot be watched");
        }
    }
    *ret_signals = signals;
    return LS_OK;
}

void daemon_signals_free(struct daemon_signals *signals) {
    if (!signals) return;
    for (size_t i = 0; i < 3; i++) {
        if (signals->events[i]) event_free(signals->events[i]);
    }
    free(signals);
}

/* ------------------------------------------------------------------ data directory */

static enum ls_status open_directory(const char *directory, int *ret_fd, struct ls_error *err) {
    struct stat info;
    if (mkdir(directory, 0700) != 0 && errno != EEXIST) return os_failed(err, "cannot make directory", directory);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return os_failed(err, "cannot open directory", directory);
    if (fstat(fd, &info) != 0) {
        enum ls_status status = os_failed(err, "cannot read directory", directory);
        (void)close(fd);
        return status;
    }
    if (info.st_mode & 0022) {
        (void)close(fd);
        return ls_fail(err, LS_ERR_CONFIG, "directory %s may be written by others (chmod 0700)", directory);
    }
    *ret_fd = fd;
    return LS_OK;
}

/* The pid in a lock file, for the error text; 0 when there is none. */
static long read_pid(int fd) {
    char text[24];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    if (n <= 0) return 0;
    text[n] = '\0';
    return strtol(text, NULL, 10);
}

enum ls_status daemon_lock_directory(const char *directory, int *ret_fd, struct ls_error *err) {
    int where = -1;
    enum ls_status status = open_directory(directory, &where, err);
    if (status != LS_OK) return status;
    int fd = openat(where, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        status = os_failed(err, "cannot open the lock in", directory);
        (void)close(where);
        return status;
    }
    (void)close(where);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) {
            status = ls_fail(err, LS_ERR_EXISTS, "directory %s is in use by process %ld", directory, read_pid(fd));
        } else {
            status = os_failed(err, "cannot lock directory", directory);
        }
        (void)close(fd);
        return status;
    }
    char text[24];
    int length = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)length, 0) != length) {
        status = os_failed(err, "cannot write the lock in", directory);
        (void)close(fd);
        return status;
    }
    *ret_fd = fd;
    return LS_OK;
}

enum ls_status daemon_write_ports(const char *directory, const struct daemon_port *ports, size_t count,
                                  struct ls_error *err) {
    char name[4096], temporary[4096];
    int n = snprintf(name, sizeof name, "%s/ports", directory),
        m = snprintf(temporary, sizeof temporary, "%s/ports.new", directory);
    if (n < 0 || m < 0 || (size_t)m >= sizeof temporary)
        return ls_fail(err, LS_ERR_TOO_LARGE, "path of the data directory is too long");
    FILE *out = fopen(temporary, "we");
    if (!out) return os_failed(err, "cannot write", temporary);
    for (size_t i = 0; i < count; i++)
        (void)fprintf(out, "%s=%s\n", ports[i].name, ports[i].address); /* errors: ferror below */
    bool good = !ferror(out);
    if (fclose(out) != 0 || !good) return os_failed(err, "cannot write", temporary);
    if (rename(temporary, name) != 0) return os_failed(err, "cannot write", name);
    return LS_OK;
}

/* ------------------------------------------------------------------ listening sockets */

#define BACKLOG 1024

static enum ls_status describe(int fd, char ret_real[DAEMON_ADDRESS_MAX], struct ls_error *err) {
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getsockname(fd, (struct sockaddr *)&address, &length) != 0) return os_failed(err, "getsockname", "");
    if (getnameinfo((struct sockaddr *)&address, length, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return ls_fail(err, LS_ERR_IO, "getnameinfo failed");
    }
    int n = snprintf(ret_real, DAEMON_ADDRESS_MAX, address.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
    if (n < 0 || n >= DAEMON_ADDRESS_MAX) return ls_fail(err, LS_ERR_TOO_LARGE, "address is too long");
    return LS_OK;
}

enum ls_status daemon_listen_tcp(const char *address, int *ret_fd, char ret_real[DAEMON_ADDRESS_MAX],
                                 struct ls_error *err) {
    char host[ADDRESS_HOST_MAX + 1], port[ADDRESS_PORT_MAX + 1];
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *found;
    if (address_split(address, host, port) != LS_OK)
        return ls_fail(err, LS_ERR_INVALID, "`%s` is not host:port", address);
    int failed = getaddrinfo(host, port, &hints, &found);
    if (failed) return ls_fail(err, LS_ERR_INVALID, "`%s` cannot be resolved: %s", host, gai_strerror(failed));
    const int one = 1;
    enum ls_status status = LS_OK;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        status = os_failed(err, "cannot listen on", address);
    }
    freeaddrinfo(found);
    if (status == LS_OK) status = describe(fd, ret_real, err);
    if (status != LS_OK) {
        if (fd >= 0) (void)close(fd);
        return status;
    }
    *ret_fd = fd;
    return LS_OK;
}

/* Removes a socket file nobody listens on any more. */
static enum ls_status remove_dead_socket(const struct sockaddr_un *address, struct ls_error *err) {
    struct stat info;
    if (lstat(address->sun_path, &info) != 0) {
        if (errno == ENOENT) return LS_OK;
        return os_failed(err, "cannot look at", address->sun_path);
    }
    if (!S_ISSOCK(info.st_mode)) return ls_fail(err, LS_ERR_EXISTS, "%s is there and is no socket", address->sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return os_failed(err, "socket", "");
    int failed = connect(fd, (const struct sockaddr *)address, sizeof *address);
    int error = errno;
    (void)close(fd);
    if (failed == 0 || error == EAGAIN)
        return ls_fail(err, LS_ERR_EXISTS, "%s is in use by another process", address->sun_path);
    if (error != ECONNREFUSED) {
        errno = error;
        return os_failed(err, "cannot connect to", address->sun_path);
    }
    if (unlink(address->sun_path) != 0) return os_failed(err, "cannot remove", address->sun_path);
    return LS_OK;
}

enum ls_status daemon_listen_unix(const char *path, mode_t mode, int *ret_fd, struct ls_error *err) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        return ls_fail(err, LS_ERR_TOO_LARGE, "socket path of %zu bytes, the limit is %zu: %s", strlen(path),
                       sizeof address.sun_path - 1, path);
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    enum ls_status status = remove_dead_socket(&address, err);
    if (status != LS_OK) return status;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return os_failed(err, "socket", "");
    /* Nobody gets in between bind and chmod: the socket does not listen yet. */
    if (bind(fd, (const struct sockaddr *)&address, sizeof address) != 0 || chmod(path, mode) != 0 ||
        listen(fd, BACKLOG) != 0) {
        status = os_failed(err, "cannot listen on", path);
        (void)close(fd);
        return status;
    }
    *ret_fd = fd;
    return LS_OK;
}

/* ------------------------------------------------------------------ the service manager */

void daemon_notify(const char *state) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof address.sun_path) return;
    size_t length = strlen(path);
    memcpy(address.sun_path, path, length);
    if (path[0] == '@') address.sun_path[0] = '\0'; /* an abstract socket */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return;
    /* Best effort by its nature: a service manager that misses it runs into its own timeout. */
    (void)sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&address,
                 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
    (void)close(fd);
}
