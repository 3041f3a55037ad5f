"""Read a checkpoint: its config, its weights and its tokenizer; refuse one that cannot be exported."""
