"""What a PostgreSQL server leaves in the kernel when it is killed and never started again."""

import os
import shutil
import subprocess


def segments():
    """(key, id) of each System V segment that nobody uses, and who made it."""
    found = {}
    try:
        with open("/proc/sysvipc/shm", encoding="ascii") as file:
            rows = [line.split() for line in file][1:]
    except OSError:
        return found  # a kernel without them
    for row in rows:
        key, number, creator, attached = int(row[0]), row[1], row[4], row[6]
        if attached == "0":
            found[(key & 0xffffffff, number)] = creator
    return found


def free_shared_memory(folder):
    """Of the servers whose data directories lie in there. A server that ends by itself does this, one that is started again for the one before."""
    for place, folders, files in os.walk(folder):
        if "PG_VERSION" in files:
            folders.clear()  # a data directory: nothing below is another one
        if "postmaster.pid" not in files:
            continue
        try:
            with open(os.path.join(place, "postmaster.pid"), encoding="utf-8") as file:
                lines = file.read().splitlines()
            pid, (key, number) = lines[0], lines[6].split()
        except (OSError, IndexError, ValueError):
            continue  # it had not come so far
        if segments().get((int(key) & 0xffffffff, number)) == pid:
            subprocess.run(["ipcrm", "-m", number], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def remove_folder(path):
    free_shared_memory(path)
    shutil.rmtree(path, ignore_errors=True)
