"""`python -m training finetune`: learn a task from labelled rows."""
