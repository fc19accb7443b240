"""Many questions into a file that survives a kill, and other strategies on what was recorded, without a call.

$ python examples/batch.py
24 rows, 96 calls, 20 columns
a vote says: 20
             acc. %  95%      gain  95%            calls  tokens  USD  time
───────────────────────────────────────────────────────────────────────────
alone
 alice         70.8  51-85    best                     1     209    -  4 ms
 bob           66.7  47-82    -4.2  -33.3 to 25.0      1     209    -  4 ms
 carol         70.8  51-85    +0.0  -29.2 to 29.2      1     209    -  6 ms
mixed
 plain vote    87.5  69-96   +16.7  0.0 to 37.5        3     628    -  7 ms
 voting        87.5  69-96   +16.7  0.0 to 37.5        3     628    -  7 ms
bound
 oracle       100.0  86-100  +29.2  12.5 to 50.0       -       -    -     -
"""

from models import AGGREGATOR, PROPOSERS

from moa_dspy import MoA, evaluate, record, replay
from moa_dspy.simulated.questions import bundled_questions

questions = bundled_questions()[:24]
moa = MoA("question -> answer", PROPOSERS, AGGREGATOR)
recording = record(moa, questions, "answers.jsonl")  # the same line again asks only what is missing
print(len(recording), "rows,", recording.usage.calls, "calls,", len(recording.to_pandas().columns), "columns")

voters = replay(MoA("question -> answer", PROPOSERS, strategy="voting"), recording)
print("a vote says:", voters(question=questions[0].question).answer)
print(evaluate(moa, recording, strategies=["voting"]))
