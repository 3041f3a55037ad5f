"""How an engine might serve a bundle."""

from collections.abc import Sequence

from app.engine.messages import Loaded, Speed


def loaded(
    budget_tokens: int = 96,
    *,
    identity: str = "",
    variant: str = "cpu-fp32",
    threads: Sequence[int] = (),
    seconds_per_token: float = 1e-5,
) -> Loaded:
    return Loaded(
        identity=identity,
        variant=variant,
        provider="CPUExecutionProvider",
        threads=threads,
        lanes=1,
        speed=Speed(budget_tokens, seconds_per_token, [(budget_tokens, budget_tokens * seconds_per_token)]),
    )
