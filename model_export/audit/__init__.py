"""Measure how scores change when one word of a sentence changes: a name, a pronoun, a place, the dialect."""
