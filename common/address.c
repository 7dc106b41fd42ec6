/*
 * address.c: see address.h. No look-up happens here, and nothing is guessed: "host" alone or ":port" alone is refused.
 */
#include "common/address.h"

#include <string.h>

static const char host_bytes[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";

enum ls_status address_split(const char *address, char ret_host[ADDRESS_HOST_MAX + 1],
                             char ret_port[ADDRESS_PORT_MAX + 1]) {
    const char *host = address, *allowed = host_bytes, *colon;
    size_t host_length, port_length;
    if (address[0] == '[') {
        host = address + 1;
        const char *bracket = strchr(host, ']');
        if (!bracket || bracket[1] != ':') return LS_ERR_INVALID;
        host_length = (size_t)(bracket - host);
        colon = bracket + 1;
        allowed = "0123456789abcdefABCDEF:.";
    } else {
        colon = strrchr(address, ':');
        if (!colon) return LS_ERR_INVALID;
        host_length = (size_t)(colon - host);
    }
    if (host_length == 0 || host_length > ADDRESS_HOST_MAX || strspn(host, allowed) != host_length)
        return LS_ERR_INVALID;
    port_length = strlen(colon + 1);
    if (port_length == 0 || port_length > ADDRESS_PORT_MAX || strspn(colon + 1, "0123456789") != port_length)
        return LS_ERR_INVALID;
    if (colon[1] == '0' && port_length > 1) return LS_ERR_INVALID;
    if (port_length == ADDRESS_PORT_MAX && strcmp(colon + 1, "65535") > 0) return LS_ERR_INVALID;
    memcpy(ret_host, host, host_length);
    ret_host[host_length] = '\0';
    memcpy(ret_port, colon + 1, port_length + 1);
    return LS_OK;
}
