"""Texts to token ids and back.

`tokenizer` is the way in; `plain_text` is its short cut for short ASCII texts, `split_points` its one for long texts that are cut,
and `pieces` its way through those that are read whole.
"""
