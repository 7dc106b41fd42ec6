#!/usr/bin/python3
"""hazards.py: every test and file that docs/hazards.md names exists, and each hazard of sagas, S1 to S21, has a row with tests on real servers.
Prints what does not; tidy runs it."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2]
table = (root / "docs/hazards.md").read_text()


def text(*parts):
    path = root.joinpath(*parts)
    return path.read_text() if path.is_file() else ""


def exists(name):
    kind, _, rest = name.partition(" ")
    if match := re.fullmatch(r"(pg|unit)/(\w+)(?:: (\w+))?", name):
        folder, file, test = match.groups()
        if folder == "pg":
            return re.search(rf"^(async )?def {test}\(", text("tests/pg", file + ".py"), re.M)
        return re.search(rf"\bcmocka_unit_test\w*\({test}\b", text("tests/unit", file + ".c")) if test else text("tests/unit", file + ".c")
    if kind == "scenario":
        return text("tests/scenarios", rest + ".txt")
    if kind == "model:":
        return f"NO_{rest}" in text("tests/model/run")
    if kind == "mutant":
        return any(f'"{rest}"' in p.read_text(errors="replace") for p in (root / "tests/sim").iterdir() if p.is_file())
    return (root / name).exists() if "/" in name else True


missing = [name for line in table.splitlines() if line.startswith("| ") for name in re.findall(r"`([^`]+)`", line) if not exists(name)]
rows = {match[1]: line for line in table.splitlines() if (match := re.match(r"\| (S\d+b?) ", line))}
missing += [f"no row with tests on real servers for {name}" for name in [f"S{n}" for n in range(1, 22)] + ["S11b"] if "`pg/" not in rows.get(name, "")]
for name in missing:
    print(f"docs/hazards.md: {name}")
sys.exit(1 if missing else 0)
