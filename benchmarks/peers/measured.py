"""The classifier without a server: told texts, it says what it answers and how long that took.

A line of the input is a list of batches of texts, in JSON. A line of the output has their logits and the CPU time of their
runs; tokenization and padding are left out.
"""

import json
import os
import sys
import time

from text_model import TextModel

# Whatever else is printed goes to the log.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
model = TextModel()
for line in sys.stdin:
    batches = [model.inputs(texts) for texts in json.loads(line)]
    started_at = time.process_time()
    logits = [model.logits(batch) for batch in batches]
    cpu_s = time.process_time() - started_at
    print(
        json.dumps({"cpu_s": cpu_s, "logits": [row for rows in logits for row in rows.tolist()]}),
        file=answers,
        flush=True,
    )
