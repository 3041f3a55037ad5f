"""Read a checkpoint: find it, and read its config, its weights and its tokenizer, or say why it cannot be exported."""
