"""`python -m training distill`: a smaller model that answers like a fine-tuned one."""
