"""Programs that run in the project's environment, with its `app`, and print JSON or serve. The others are their callers."""
