/*
 * cmd_lab.c: `lockstep lab`: the failure laboratory. It is the program lockstep-lab that lies beside this one
 * (docs/lab.md); everything behind `lab` is its business.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/cmd.h"

#define PROGRAM "lockstep-lab"

int cmd_lab(int argc, char **argv) {
    char path[PATH_MAX + sizeof PROGRAM];
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 1);

    (void)argc;
    path[length > 0 ? length : 0] = '\0';
    char *name = strrchr(path, '/');
    if (name == NULL) return cmd_fail("lab", LS_EXIT_ERROR, "this program cannot find itself: %s", strerror(errno));
    (void)snprintf(name + 1, sizeof PROGRAM, "%s", PROGRAM);
    argv[0] = path;
    (void)execv(path, argv);
    return cmd_fail("lab", LS_EXIT_ERROR, "%s: %s", path, strerror(errno));
}
