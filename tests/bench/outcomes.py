"""Run the matrix of faults and write its table into docs/promises.md: some ten minutes.

Run: `uv run python tests/bench/outcomes.py [FAULT ...]` (the rows of these faults only).
"""

import logging
import sys
import time
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.faults import BACKENDS, FAULTS, PLACES, STRATEGIES, happens, read_table, run_cell, write_table
from support.mixtures import in_task, sync

logging.disable(logging.WARNING)
table = read_table()
cells = held = 0
started = time.perf_counter()
for fault in sys.argv[1:] or FAULTS:
    row, reported = {}, set()
    for place in PLACES if fault in FAULTS else ():
        outcomes = [
            run_cell(fault, place, strategy, backend, ask)
            for strategy, backend, ask in product(STRATEGIES, BACKENDS, (sync, in_task))
            if happens(fault, place)
        ]
        said = {outcome.says for outcome in outcomes}
        wrong = [text for outcome in outcomes for text in outcome.wrong]
        cells, held = cells + len(outcomes), held + sum(not outcome.wrong for outcome in outcomes) * (len(said) <= 1)
        row[place] = " / ".join(sorted(said))
        reported |= {error for outcome in outcomes for error in outcome.reported if place == PLACES[0]}
        print(f"{fault:28} {place:22} {row[place]}", *dict.fromkeys(wrong), flush=True)
    table[fault] = {"reported as": " or ".join(f"`{name}`" for name in sorted(reported)), **row}
write_table({fault: table[fault] for fault in FAULTS if fault in table})
print(f"{held} of {cells} cells held in {time.perf_counter() - started:.0f} s")
