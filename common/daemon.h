/*
 * daemon.h: what lockstepd and lockstep-agent need of the operating system besides their work: hardening, signals in
 * the loop, listening sockets, the data directory and its lock, the ports file, word to the service manager.
 */
#ifndef LOCKSTEP_DAEMON_H
#define LOCKSTEP_DAEMON_H

#include <event2/event.h>
#include <stddef.h>
#include <sys/types.h>

#include "lockstep/status.h"

/* First thing in main(): umask 0077, no core dumps and no ptrace by others (PR_SET_DUMPABLE 0), no_new_privs, SIGPIPE
 * ignored, RLIMIT_NOFILE raised to its hard limit. LS_ERR_IO with what was refused. */
enum ls_status daemon_harden(struct ls_error *err) LS_MUST_CHECK;

/* SIGTERM and SIGINT call on_stop (each time), SIGHUP calls on_reload, from the loop. */
struct daemon_signals;
enum ls_status daemon_signals_new(struct event_base *base, void (*on_stop)(void *context, int signal),
                                  void (*on_reload)(void *context), void *context, struct daemon_signals **ret_signals,
                                  struct ls_error *err) LS_MUST_CHECK;
void daemon_signals_free(struct daemon_signals *signals);

/* Makes the directory (0700) if it is missing, refuses one that others may write to, and takes the one lock of it (file
 * "lock", with our pid inside, kept until the descriptor is closed). LS_ERR_EXISTS: "... is in use by process N". */
enum ls_status daemon_lock_directory(const char *directory, int *ret_fd, struct ls_error *err) LS_MUST_CHECK;

/* A listening socket, non-blocking, close-on-exec; TCP_NODELAY is inherited by what it accepts. `address` is host:port
 * (port 0: any); the real one is written to ret_real ("127.0.0.1:40123"). LS_ERR_INVALID: cannot be parsed or resolved.
 * LS_ERR_IO: bind or listen failed. */
#define DAEMON_ADDRESS_MAX 128
enum ls_status daemon_listen_tcp(const char *address, int *ret_fd, char ret_real[DAEMON_ADDRESS_MAX],
                                 struct ls_error *err) LS_MUST_CHECK;
/* A Unix socket; a dead one of that name is replaced, a living one is LS_ERR_EXISTS. */
enum ls_status daemon_listen_unix(const char *path, mode_t mode, int *ret_fd, struct ls_error *err) LS_MUST_CHECK;

/* Writes <directory>/ports: one "name=address" line each, whole or not at all. */
struct daemon_port {
    const char *name, *address;
};
enum ls_status daemon_write_ports(const char *directory, const struct daemon_port *ports, size_t count,
                                  struct ls_error *err) LS_MUST_CHECK;

/* sd_notify: "READY=1", "STOPPING=1", "RELOADING=1\nMONOTONIC_USEC=...", "STATUS=...". Nothing happens without
 * NOTIFY_SOCKET. */
void daemon_notify(const char *state);

/* Microseconds of the monotonic clock. */
unsigned long long daemon_now_us(void);

#endif
