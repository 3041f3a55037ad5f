"""The classifier without a server: a list of batches of texts a line, JSON, is answered by logits and the CPU time they took.

What is in no batch size, thread or process is not measured: texts are tokenized and padded before the clock starts.
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
