"""Certificates for tests: good ones as `lockstep pki` makes them (test_pki.py compares), and bad ones it would never make."""

import datetime
import os
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .base import folder

DAY = datetime.timedelta(days=1)


def subject(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def write(path, data, mode):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)


class Authority:
    """A certificate authority of its own folder."""

    def __init__(self, name="test authority"):
        self.directory = folder.make("pki")
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = subject(name)
        now = datetime.datetime.utcnow()
        self.certificate = (
            x509.CertificateBuilder().subject_name(self.name).issuer_name(self.name).public_key(self.key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - DAY).not_valid_after(now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256()))
        self.ca = os.path.join(self.directory, "ca.crt")
        write(self.ca, self.certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        self._made, self._lock = {}, threading.Lock()

    def files(self, uri, **options):
        """(ca, certificate, key) for one identity; the same files for the same identity."""
        name = uri.replace("://", "-").replace("/", "-")
        with self._lock:  # cells.py starts two systems at once: a certificate of one and the key of the other do not fit
            if uri not in self._made:
                self._made[uri] = self.issue(name, [uri], **options)
            return self._made[uri]

    def issue(self, name, uris, *, start=-DAY, end=30 * DAY, dns=("localhost",)):
        """A certificate with any URIs and any life time."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.utcnow()
        names = [x509.UniformResourceIdentifier(uri) for uri in uris] + [x509.DNSName(host) for host in dns]
        builder = (
            x509.CertificateBuilder().subject_name(subject(name[-60:])).issuer_name(self.name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now + start).not_valid_after(now + end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        paths = [os.path.join(self.directory, f"{name}.{kind}") for kind in ("crt", "key")]
        write(paths[0], certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        write(paths[1], key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                          serialization.NoEncryption()), 0o600)
        return (self.ca, paths[0], paths[1])
