"""`python -m training demo`: make the demo checkpoint again."""
