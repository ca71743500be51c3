"""The parts' results as one, as tables, and the largest costs in words."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gpu.attempts import OUT_OF_MEMORY
from benchmarks.gpu.parts import PARTS, path_of
from benchmarks.gpu.processes import COMPLETE, Outcome
from benchmarks.gpu.rows import Row

_COSTS = 3


def part_result(folder: Path, letter: str, outcome: Outcome, limit: float) -> Row:
    """What a part has written, with how its process ended."""
    path = path_of(folder, letter)
    written: Row = json.loads(path.read_text()) if path.exists() else {}
    status = written.get("status", outcome.status) if outcome.status == COMPLETE else outcome.status
    return {
        "part": letter,
        "title": PARTS[letter].title,
        "status": status,
        "error": outcome.error,
        "seconds": outcome.seconds,
        "limit_s": limit,
        "rows": written.get("rows", []),
    }


def merged(header: Row, results: Sequence[Row]) -> Row:
    """One result, like the others in benchmarks/results: rows carry their part's letter.

    Args:
        header: machine, device and settings.
        results: of the parts, see `part_result`.
    """
    rows = [{"part": result["part"]} | row for result in results for row in result["rows"]]
    parts = [{key: value for key, value in result.items() if key != "rows"} for result in results]
    return header | {"parts": parts, "rows": rows, "costs": costs(rows)}


def passed(result: Row) -> bool:
    """Whether every part is complete, every comparison passed, and nothing failed that fits on the device."""
    complete = all(part["status"] == COMPLETE for part in result["parts"])
    return complete and all(
        row.get("passed", True) and row.get("note", OUT_OF_MEMORY) == OUT_OF_MEMORY for row in result["rows"]
    )


def costs(rows: Sequence[Row]) -> list[str]:
    """The largest costs of a solve in words: of the floor with the most images, at the loosest gap."""
    profiled = [row for row in rows if row["part"] == "e" and "profile" in row]
    if not profiled:
        return ["No solve was profiled: what costs most is not known."]
    row = max(profiled, key=lambda each: (each["kind"] == "floor", each["batch"], each["tol"]))
    profile, count = row["profile"], row["batch"]
    wall = profile["wall_s"]
    named = [
        (seconds, f"{short(name)}, {launches} times, {1e3 * seconds:.3g} ms")
        for name, seconds, launches in profile["operations"]
    ]
    outside = wall - profile["device_s"]
    named.append((outside, f"the host, while the device has nothing to do, {1e3 * outside:.3g} ms"))
    images = "1 image" if count == 1 else f"{count} images"
    program = f"a {row['kind']} solve of {images} to a gap of {row['tol']:g}, {1e3 * wall:.3g} ms"
    largest = sorted(named, key=lambda each: -each[0])[:_COSTS]
    return [
        f"{number}. {100 * seconds / wall:.0f}% of {program}: {words}."
        for number, (seconds, words) in enumerate(largest, 1)
    ]


def short(name: str) -> str:
    """A kernel's name without its C++ templates and arguments."""
    plain = name.removeprefix("void ")
    for opening in ("<", "("):
        if plain.find(opening) > 0:
            plain = plain[: plain.index(opening)]
    return plain.rsplit("::", 1)[-1] or name


def tables(result: Row) -> str:
    """The parts and their rows in Markdown, and the largest costs."""
    lines = [f"# {result['device'].get('name', result['machine']['cpu'])}, {result['machine']['date'][:10]}", ""]
    lines += _table([_state(part) for part in result["parts"]])
    for part in result["parts"]:
        rows = [row for row in result["rows"] if row["part"] == part["part"]]
        lines += ["", f"## ({part['part']}) {part['title']}", ""]
        failed = [row for row in rows if not row.get("passed", True)]
        if part["part"] == "b" and rows:
            lines += [f"{len(rows) - len(failed)} of {len(rows)} comparisons passed.", ""]
            rows = failed
        lines += _table([{key: value for key, value in row.items() if key != "part"} for row in rows])
    return "\n".join([*lines, "", "## The largest costs", "", *result["costs"], ""])


def _state(part: Row) -> Row:
    return {key: part[key] for key in ("part", "title", "status", "seconds", "limit_s", "error")}


def _table(rows: Sequence[Row]) -> list[str]:
    """One column for every key but those of nested results."""
    names = list(dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, Mapping)))
    if not names:
        return []
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return lines + [f"| {' | '.join(_cell(row.get(name)) for name in names)} |" for row in rows]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple) and len(value) == 3:
        low, middle, high = (f"{each:.3g}" for each in value)
        return f"{middle} [{low}, {high}]"
    return str(value).replace("|", "\\|").replace("\n", " ")
