"""Writes the tables of docs/cost-model.md anew from engine/cost.py: `python -m benchmarks.cost_model`.

The last line is one JSON object with the same figures.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from engine.cost import COGVIDEOX_2B, COGVIDEOX_5B, H100, prior_cost, scene_cost

PAGE = Path(__file__).parent.parent / "docs" / "cost-model.md"
MODELS = {"2B": COGVIDEOX_2B, "5B": COGVIDEOX_5B}
SPLITS = ((1, 1), (2, 1), (2, 2), (2, 3), (1, 2), (1, 6), (2, 4))
CONDITIONS, STEPS = 4, 50


def main() -> None:
    """Fills in what stands between the page's markers."""
    scenes, rows, priors = {}, [], []
    for name, shape in MODELS.items():
        alone = scene_cost(shape, CONDITIONS, STEPS, H100)
        for guidance, ulysses in SPLITS:
            if shape.heads % ulysses:
                continue
            cost = scene_cost(shape, CONDITIONS, STEPS, H100, guidance, ulysses)
            speedup = alone.seconds / cost.seconds
            rows.append(
                f"| {name} | {guidance * ulysses} | {guidance} x {ulysses} | {cost.flops / 1e15:.1f} | "
                f"{cost.bytes_sent / 1e9:.1f} | {cost.seconds:.1f} | {speedup:.2f} | {cost.gigabytes:.1f} |"
            )
            scenes[f"{name} {guidance}x{ulysses}"] = round(cost.seconds, 2)
        motion, subject = (prior_cost(shape, n, 1, H100, p) for n, p in ((500, 1.8), (160, 1.0)))
        for kind, cost in (("motion, 500 steps", motion), ("subject, 160 steps", subject)):
            ratio = cost.seconds / alone.seconds
            figures = f"{cost.flops / 1e15:.0f} | {cost.seconds:.0f} | {ratio:.1f} | {cost.gigabytes:.1f}"
            priors.append(f"| {name} | {kind} | {figures} |")
    tables = {
        "scenes": "| model | H100s | guidance x Ulysses | PFLOP | GB sent by each | seconds | speed-up | GB each |\n"
        "|---|---|---|---|---|---|---|---|\n" + "\n".join(rows),
        "priors": "| model | prior | PFLOP | seconds | scenes that cost as much | GB |\n|---|---|---|---|---|---|\n"
        + "\n".join(priors),
    }
    page = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        page = re.sub(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", rf"\g<1>{table}\g<2>", page, flags=re.DOTALL)
    PAGE.write_text(page, encoding="utf-8")
    print(json.dumps({"conditions": CONDITIONS, "steps": STEPS, "seconds": scenes}))


if __name__ == "__main__":
    main()
