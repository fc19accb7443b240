"""A prompt for each model: what GEPA wrote for whom.

$ python examples/prompts_per_model.py
"""

import logging
from typing import Any

from models import AGGREGATOR, PROPOSERS

from moa_dspy import MoA
from moa_dspy.optimizers import Specialize
from moa_dspy.simulated.questions import bundled_questions

logging.getLogger("dspy").setLevel(logging.ERROR)

questions = bundled_questions()
panel = MoA("question -> answer", PROPOSERS, AGGREGATOR, use_specialized_prompts=True)
optimizer = Specialize("exact", recipe="quick")
tuned = optimizer.compile(panel, trainset=questions[:12], valset=questions[12:24])

before: dict[str, Any] = dict(panel.named_predictors())
after: dict[str, Any] = dict(tuned.named_predictors())
for name, predictor in after.items():
    old, new = before[name].signature.instructions, predictor.signature.instructions
    added = new.removeprefix(old).strip()
    print(f"{name}: {'as it was' if new == old else added}")
print(optimizer.report.calls, "calls; tuning the whole mixture at once:", optimizer.report.joint_calls)
