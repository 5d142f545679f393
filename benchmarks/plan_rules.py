"""How many of the method's authors' own plans keep the paper's rules, as far as a program can check them.

    python -m benchmarks.plan_rules PLANS.jsonl... [--out docs/plan-rules.md]

Each line of a file is a JSON list of a name and a plan in the authors' text form. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from engine.plan import Plan
from engine.plan_rules import MAX_GROWTH, MAX_MOTIONS, MAX_SHARED, MAX_STEP, MIN_KEYFRAMES, MIN_SIDE, check_rules
from engine.textform import parse_text

RULES = {
    "box size": f"boxes have sides of {MIN_SIDE} of the picture or more",
    "motion length": f"a motion lasts {MIN_KEYFRAMES} keyframes or more",
    "caption": "the caption holds entity, motion and something of the background",
    "gradual boxes": f"a box moves by {MAX_STEP} at most and grows {MAX_GROWTH}-fold at most from keyframe to keyframe",
    "overlap": f"another's box covers {MAX_SHARED:.0%} of one's own at most, unless a caption tells of both",
    "motions": f"{MAX_MOTIONS} motions at most in a scene of several characters",
    "background": "the background is free of the characters",
}


def count(file: Path) -> dict[str, int]:
    """Plans of a file: all, those that had to be mended to be read, those that keep all rules, and by rule those that
    break it."""
    counted: Counter[str] = Counter()
    for n, line in enumerate(filter(None, file.read_text(encoding="utf-8").splitlines())):
        _, text = json.loads(line)
        reading = parse_text(text, f"plan-{n}")
        broken = {finding.rule for finding in check_rules(Plan(scenes=(reading.scene,)))}
        counted.update(["plans", *(["mended"] if reading.notes else []), *(broken or {"none"})])
    return {key: counted[key] for key in ("plans", "mended", "none", *RULES)}


def table(files: dict[str, dict[str, int]]) -> str:
    """The counts in Markdown, a row a rule."""
    rows = [("", *files), ("---", *["--:"] * len(files)), ("plans", *(c["plans"] for c in files.values()))]
    mended = "mended to be read (an edge outside the picture, a box that is none)"
    rows.append((mended, *(c["mended"] for c in files.values())))
    rows.append(("**keep all rules**", *(f"**{c['none']}**" for c in files.values())))
    rows += [(f"*{rule}* broken: {told}", *(c[rule] for c in files.values())) for rule, told in RULES.items()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="PLANS.jsonl")
    parser.add_argument("--out", type=Path, help="write the table here, too")
    options = parser.parse_args()
    files = {file.stem: count(file) for file in options.files}
    told = table(files)
    print(told)
    if options.out:
        options.out.write_text(TEXT.format(table=told), encoding="utf-8")
    print(json.dumps(files))


TEXT = """\
# The authors' own plans, by the rules

The paper's prompt asks the language model for plans that keep certain rules. `python -m benchmarks.plan_rules` counts
which of the plans that the authors released (100 for each of these dimensions of T2V-CompBench; Apache-2.0) break a
rule as `dreamrunner plan --check` sees it. A plan can break several.

{table}

Rules with a number are ours in so far as the paper says "gradual", "not overlapping" or "as large as possible"
without one. In the last column nearly every keyframe has a motion of its own ("approaching", "entering",
"colliding"). Thresholds are in `engine/plan_rules.py`.
"""


if __name__ == "__main__":
    main()
