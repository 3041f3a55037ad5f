"""Train BERT: from raw text to a checkpoint for `model_export`, and to a smaller one."""
