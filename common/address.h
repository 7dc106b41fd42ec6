/*
 * address.h: "host:port" and "[v6]:port" taken apart. Pure.
 */
#ifndef LOCKSTEP_ADDRESS_H
#define LOCKSTEP_ADDRESS_H

#include "lockstep/status.h"

#define ADDRESS_HOST_MAX 253 /* bytes of a DNS name */
#define ADDRESS_PORT_MAX 5

/* LS_ERR_INVALID: not that form; port outside 0..65535 or with a leading zero. */
enum ls_status address_split(const char *address, char ret_host[ADDRESS_HOST_MAX + 1],
                             char ret_port[ADDRESS_PORT_MAX + 1]) LS_MUST_CHECK;

#endif
