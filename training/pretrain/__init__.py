"""`python -m training pretrain`: learn a language from raw text."""
