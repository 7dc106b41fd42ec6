#!/usr/bin/python3
"""hazards.py: every test and file that docs/hazards.md names exists, and every scenario is named by a hazard or tells a plain story.
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
for name in missing:
    print(f"docs/hazards.md: {name}")
sys.exit(1 if missing else 0)
