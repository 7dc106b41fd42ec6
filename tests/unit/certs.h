/*
 * certs.h: certificates for tests, made on the spot.
 */
#ifndef LOCKSTEP_TESTS_CERTS_H
#define LOCKSTEP_TESTS_CERTS_H

#include "common/tls.h"

struct certs_ca;

/* Certificate and key in PEM files in a directory of their own. */
struct certs_files {
    char ca[256], certificate[256], key[256], crl[256];
    struct tls_files files; /* points to the above; crl is NULL until certs_crl() */
};

struct certs_spec {
    const char *uris[3];  /* as they are, NULL-terminated; none: no alternative name */
    int begins_s, ends_s; /* from now; both 0: an hour around now */
    long serial;          /* 0: 4711 */
};

/* A CA in a new directory under /tmp. */
struct certs_ca *certs_ca_new(void);
void certs_ca_free(struct certs_ca *ca); /* removes the directory */
/* Signs a certificate. `name` makes the file names. */
void certs_issue(struct certs_ca *ca, const char *name, const struct certs_spec *spec, struct certs_files *ret_files);
/* The same with one URI. */
void certs_issue_uri(struct certs_ca *ca, const char *name, const char *uri, struct certs_files *ret_files);
/* Writes a revocation list naming `serial` (0: none) and sets files->files.crl. */
void certs_crl(struct certs_ca *ca, long serial, struct certs_files *files);

#endif
