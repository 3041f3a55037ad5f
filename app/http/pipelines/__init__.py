"""The bodies of transformers' pipelines over HTTP: `inputs`, `parameters` in the pipelines' names, and bare lists as answers.

Two kinds of servers take them. The hosted Inference API answers in a form of its own, which its clients read; SageMaker's
toolkit answers what a pipeline returns.
"""
