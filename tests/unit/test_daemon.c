/*
 * test_daemon.c: two daemons must never share a data directory, a socket of a living one must never be taken away, and
 * what is written for others (ports, word to the service manager) must be whole.
 */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/daemon.h"

static struct ls_error err;
static char top[64];

static int make_top(void **state) {
    (void)state;
    (void)snprintf(top, sizeof top, "/tmp/lockstep-daemon-XXXXXX");
    return mkdtemp(top) ? 0 : -1;
}

static int remove_top(void **state) {
    char command[128];
    (void)state;
    (void)snprintf(command, sizeof command, "rm -rf '%s'", top);
    return system(command);
}

static const char *in_top(const char *name) {
    static char paths[4][200];
    static unsigned next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof paths[0], "%s/%s", top, name);
    return path;
}

static void read_file(const char *path, char *text, size_t size) {
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    size_t n = fread(text, 1, size - 1, in);
    text[n] = '\0';
    fclose(in);
}

static void directory_lock(void **state) {
    const char *data = in_top("data");
    int fd, second = -1;
    char text[64], wanted[300];
    struct stat info;
    (void)state;
    assert_ok(daemon_lock_directory(data, &fd, &err)); /* makes it */
    assert_int_equal(stat(data, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    read_file(in_top("data/lock"), text, sizeof text);
    assert_int_equal(atol(text), getpid());
    (void)snprintf(wanted, sizeof wanted, "directory %s is in use by process %ld", data, (long)getpid());
    assert_fails(daemon_lock_directory(data, &second, &err), LS_ERR_EXISTS, wanted);
    assert_int_equal(second, -1);
    close(fd);
    assert_ok(daemon_lock_directory(data, &fd, &err)); /* the lock ends with its holder, the file does not matter */
    close(fd);
}

static void directory_refused(void **state) {
    int fd;
    char wanted[300];
    (void)state;
    (void)snprintf(wanted, sizeof wanted, "cannot make directory %s: No such file or directory", in_top("a/b"));
    assert_fails(daemon_lock_directory(in_top("a/b"), &fd, &err), LS_ERR_IO, wanted);
    assert_int_equal(mkdir(in_top("open"), 0700), 0);
    assert_int_equal(chmod(in_top("open"), 0770), 0);
    (void)snprintf(wanted, sizeof wanted, "directory %s may be written by others (chmod 0700)", in_top("open"));
    assert_fails(daemon_lock_directory(in_top("open"), &fd, &err), LS_ERR_CONFIG, wanted);
    /* somebody else's file behind a link named lock is not written to */
    assert_int_equal(mkdir(in_top("link"), 0700), 0);
    assert_int_equal(symlink("/etc/passwd", in_top("link/lock")), 0);
    assert_int_equal(daemon_lock_directory(in_top("link"), &fd, &err), LS_ERR_IO);
}

static void ports_file(void **state) {
    const struct daemon_port ports[] = {{"api", "127.0.0.1:1"}, {"agents", "[::1]:2"}};
    char text[200];
    (void)state;
    assert_int_equal(mkdir(in_top("ports-dir"), 0700), 0);
    assert_ok(daemon_write_ports(in_top("ports-dir"), ports, 2, &err));
    read_file(in_top("ports-dir/ports"), text, sizeof text);
    assert_string_equal(text, "api=127.0.0.1:1\nagents=[::1]:2\n");
    assert_ok(daemon_write_ports(in_top("ports-dir"), ports, 1, &err)); /* replaced whole */
    read_file(in_top("ports-dir/ports"), text, sizeof text);
    assert_string_equal(text, "api=127.0.0.1:1\n");
    assert_int_not_equal(access(in_top("ports-dir/ports.new"), F_OK), 0);
    assert_int_equal(daemon_write_ports(in_top("nowhere"), ports, 1, &err), LS_ERR_IO);
}

static void tcp_sockets(void **state) {
    char real[DAEMON_ADDRESS_MAX], other[DAEMON_ADDRESS_MAX], wanted[300];
    int fd, second, one = 0;
    socklen_t length = sizeof one;
    (void)state;
    assert_ok(daemon_listen_tcp("127.0.0.1:0", &fd, real, &err));
    assert_int_equal(strncmp(real, "127.0.0.1:", 10), 0);
    assert_true(atoi(real + 10) > 0);
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, &length), 0);
    assert_true(one);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    (void)snprintf(wanted, sizeof wanted, "cannot listen on %s: Address already in use", real);
    assert_fails(daemon_listen_tcp(real, &second, other, &err), LS_ERR_IO, wanted);
    close(fd);
    assert_fails(daemon_listen_tcp("127.0.0.1", &fd, real, &err), LS_ERR_INVALID, "`127.0.0.1` is not host:port");
    assert_int_equal(daemon_listen_tcp("host.invalid:0", &fd, real, &err), LS_ERR_INVALID);
}

static void unix_sockets(void **state) {
    const char *path = in_top("socket");
    int fd, second;
    struct stat info;
    char wanted[300], large[200];
    (void)state;
    assert_ok(daemon_listen_unix(path, 0660, &fd, &err));
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0660);
    (void)snprintf(wanted, sizeof wanted, "%s is in use by another process", path);
    assert_fails(daemon_listen_unix(path, 0660, &second, &err), LS_ERR_EXISTS, wanted);
    close(fd); /* as after a crash: the file stays */
    assert_int_equal(access(path, F_OK), 0);
    assert_ok(daemon_listen_unix(path, 0600, &fd, &err));
    close(fd);
    int file = open(in_top("file"), O_CREAT | O_WRONLY, 0600);
    assert_true(file >= 0);
    close(file);
    (void)snprintf(wanted, sizeof wanted, "%s is there and is no socket", in_top("file"));
    assert_fails(daemon_listen_unix(in_top("file"), 0600, &fd, &err), LS_ERR_EXISTS, wanted);
    memset(large, 'x', sizeof large);
    memcpy(large, "/tmp/", 5);
    large[108] = '\0';
    assert_int_equal(daemon_listen_unix(large, 0600, &fd, &err), LS_ERR_TOO_LARGE);
    assert_int_equal(strncmp(err.text, "socket path of 108 bytes, the limit is 107: /tmp/xxx", 51), 0);
}

static void service_manager(void **state) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char text[200];
    struct timeval wait = {30, 0};
    (void)state;
    assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
    daemon_notify("READY=1"); /* nothing happens */
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    for (int abstract = 0; abstract <= 1; abstract++) {
        if (abstract) {
            close(fd);
            fd = socket(AF_UNIX, SOCK_DGRAM, 0);
            (void)snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "lockstep-test-%ld", (long)getpid());
            address.sun_path[0] = '@';
            assert_int_equal(setenv("NOTIFY_SOCKET", address.sun_path, 1), 0);
            size_t length = strlen(address.sun_path);
            address.sun_path[0] = '\0';
            assert_int_equal(
                bind(fd, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)), 0);
        } else {
            (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", in_top("notify"));
            assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
            assert_int_equal(setenv("NOTIFY_SOCKET", address.sun_path, 1), 0);
        }
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait), 0);
        daemon_notify("READY=1\nSTATUS=serving");
        ssize_t n = recv(fd, text, sizeof text - 1, 0);
        assert_true(n > 0);
        text[n] = '\0';
        assert_string_equal(text, "READY=1\nSTATUS=serving");
    }
    close(fd);
    assert_int_equal(setenv("NOTIFY_SOCKET", "relative", 1), 0);
    daemon_notify("READY=1");
    assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
}

struct heard {
    int stops, last, reloads;
    struct event_base *base;
};

static void stopped(void *context, int signal) {
    struct heard *heard = context;
    heard->stops++;
    heard->last = signal;
    if (heard->stops == 2) event_base_loopbreak(heard->base);
    if (heard->stops == 1) assert_int_equal(raise(SIGINT), 0);
}

static void reload(void *context) {
    struct heard *heard = context;
    heard->reloads++;
    assert_int_equal(raise(SIGTERM), 0);
}

static void signals_in_loop(void **state) {
    struct heard heard = {.base = event_base_new()};
    struct daemon_signals *signals;
    (void)state;
    assert_ok(daemon_signals_new(heard.base, stopped, reload, &heard, &signals, &err));
    assert_int_equal(raise(SIGHUP), 0);
    assert_int_equal(heard.reloads, 0); /* from the loop only */
    assert_int_equal(event_base_dispatch(heard.base), 0);
    assert_int_equal(heard.reloads, 1);
    assert_int_equal(heard.stops, 2);
    assert_int_equal(heard.last, SIGINT);
    daemon_signals_free(signals);
    daemon_signals_free(NULL);
    event_base_free(heard.base);
}

/* In a child: it cannot be undone. */
static void hardening(void **state) {
    int status;
    (void)state;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit files;
        if (daemon_harden(&err) != LS_OK) _exit(10);
        if (prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0) _exit(11);
        if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) _exit(12);
        if (umask(0) != 0077) _exit(13);
        if (signal(SIGPIPE, SIG_DFL) != SIG_IGN) _exit(14);
        if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur != files.rlim_max) _exit(15);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void clock_runs(void **state) {
    (void)state;
    unsigned long long a = daemon_now_us(), b = daemon_now_us();
    assert_true(b >= a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(directory_lock),  cmocka_unit_test(directory_refused), cmocka_unit_test(ports_file),
        cmocka_unit_test(tcp_sockets),     cmocka_unit_test(unix_sockets),      cmocka_unit_test(service_manager),
        cmocka_unit_test(signals_in_loop), cmocka_unit_test(hardening),         cmocka_unit_test(clock_runs)};
    return cmocka_run_group_tests(tests, make_top, remove_top);
}
