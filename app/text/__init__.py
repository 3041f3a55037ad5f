"""Texts to token ids and back.

`tokenizer` is the way in; `plain_text` is its short cut for short ASCII texts, and `split_points` its one for long texts.
"""
