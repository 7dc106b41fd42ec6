"""Hazard: the certificates that `lockstep pki` makes do not work, or let somebody be more than was asked for.

Method: an authority made with the command; a coordinator, an agent and an app that use its files; revocation.
Seen if wrong: a handshake that fails, a second URI, a key readable by others, a revoked certificate that is still taken.
"""

import os
import signal
import ssl

import pytest

from harness.api import App
from harness.base import folder, wait_until
from harness.programs import Coordinator, authority, command


@pytest.fixture(scope="module")
def directory():
    path = os.path.join(folder.make("lp"), "pki")
    done = command("pki", "init", "--dir", path)
    assert done.returncode == 0, done
    for role, name in (("coordinator", "shop"), ("agent", "orders"), ("app", "checkout"), ("admin", "kim"), ("monitor", "watch")):
        done = command("pki", "issue", role, name, "--dir", path)
        assert done.returncode == 0, done
    return path


def files(directory, name):
    return tuple(os.path.join(directory, part) for part in ("ca.crt", f"{name}.crt", f"{name}.key"))


def test_keys_are_private(directory):
    for name in os.listdir(directory):
        if name.endswith(".key"):
            assert os.stat(os.path.join(directory, name)).st_mode & 0o077 == 0, name


def test_one_uri_each(directory):
    for role, name in (("coordinator", "shop"), ("agent", "orders"), ("app", "checkout")):
        certificate = ssl._ssl._test_decode_cert(os.path.join(directory, f"{role}-{name}.crt"))
        uris = [value for kind, value in certificate["subjectAltName"] if kind == "URI"]
        assert uris == [f"lockstep://{role}/{name}"], certificate


def test_they_work_and_are_revoked(directory):
    """The coordinator takes them, and stops taking the revoked one after SIGHUP."""
    ca, certificate, key = files(directory, "coordinator-shop")
    coordinator = Coordinator(authority(), "shop", settings={"tls": {"ca": ca, "certificate": certificate, "key": key,
                                                                      "crl": os.path.join(directory, "crl.pem")}}).start()
    try:
        app = App(coordinator, files(directory, "app-checkout"))
        assert app.list().status == 200
        assert App(coordinator, files(directory, "monitor-watch")).request("GET", "/metrics").status == 200
        copies = os.path.join(folder.make("cp"), "x")
        os.mkdir(copies)
        for path in files(directory, "app-checkout"):
            with open(path, "rb") as source, open(os.path.join(copies, os.path.basename(path)), "wb") as target:
                target.write(source.read())
        done = command("pki", "revoke", "app", "checkout", "--dir", directory)
        assert done.returncode == 0, done
        coordinator.process.send_signal(signal.SIGHUP)
        revoked = App(coordinator, files(copies, "app-checkout"))
        wait_until(lambda: revoked.list().status == 401, 10, "the revoked certificate is refused")
    finally:
        coordinator.kill()


@pytest.mark.parametrize("arguments,code", [(("init",), 1), (("issue", "app", "checkout-again/x"), 2), (("issue", "god", "x"), 2), (("issue", "app"), 2),
                                            (("issue", "agent", "orders"), 1), (("revoke", "app", "nobody"), 1), (("nonsense",), 2), ((), 2)])
def test_refusals(directory, arguments, code):
    """Nothing is overwritten, nothing is made for a bad name."""
    before = sorted(os.listdir(directory))
    done = command("pki", *arguments, "--dir", directory)
    assert done.returncode == code, done
    assert done.stderr.strip()
    assert sorted(os.listdir(directory)) == before
