"""How much each form of the check measures."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Form:
    """How much is measured. Models are those of `benchmarks.gpu_check.bundles`."""

    name: str
    part_within_s: float
    """A part that takes longer is stopped; the models are exported before it begins."""
    parity_models: tuple[str, ...]
    parity_texts: int
    offline_models: tuple[str, ...]
    lengths: tuple[int, ...]
    """Of the sequences of the offline table, beside the real mix."""
    budgets_tokens: tuple[int, ...]
    rounds: int
    pass_s: float
    """About how long one pass over the batches of a budget takes."""
    product_side: int
    """Rows and columns of the matrices that the device's own rate is measured with."""
    model: str
    """What is served, watched and run short of memory."""
    front_ends: tuple[int, ...]
    batched_connections: int
    """Of the closed loop of batched requests: enough texts for a batch that runs and one that waits."""
    closed_s: float
    open_s: float
    idle_requests: int
    memory_budget_tokens: int
    memory_batches: int
    memory_settled_after: int
    """Batches after which the memory in use must not grow any more."""
    graph_lengths: tuple[int, ...]
    graph_repeats: int
    short_of_memory_model: str
    """What is served with little memory: it has a vocabulary to score, so that many masks take much."""

    def models(self, part: str) -> tuple[str, ...]:
        """Return the models of a part."""
        several = {
            "parity": self.parity_models,
            "offline": self.offline_models,
            "out-of-memory": (self.model, self.short_of_memory_model),
        }
        return several.get(part, (self.model,))


SMOKE: Final = Form(
    name="smoke",
    part_within_s=300,
    parity_models=("demo", "demo-masked", "demo-embed"),
    parity_texts=8,
    offline_models=("tiny",),
    lengths=(32, 128),
    budgets_tokens=(128, 256),
    rounds=3,
    pass_s=0.02,
    product_side=256,
    model="tiny",
    front_ends=(1, 2),
    batched_connections=4,
    closed_s=0.3,
    open_s=0.3,
    idle_requests=20,
    memory_budget_tokens=512,
    memory_batches=40,
    memory_settled_after=10,
    graph_lengths=(16, 32),
    graph_repeats=20,
    short_of_memory_model="demo-masked",
)
FULL: Final = Form(
    name="full",
    part_within_s=900,
    parity_models=("demo", "demo-masked", "demo-embed", "base", "large"),
    parity_texts=64,
    offline_models=("base", "large"),
    lengths=(32, 128, 384),
    budgets_tokens=(1024, 2048, 4096, 8192, 16384, 32768, 65536),
    rounds=3,
    pass_s=0.3,
    product_side=8192,
    model="base",
    front_ends=(1, 2, 4, 8, 12),
    batched_connections=64,
    closed_s=5,
    open_s=5,
    idle_requests=500,
    memory_budget_tokens=16384,
    memory_batches=1000,
    memory_settled_after=100,
    graph_lengths=(16, 32, 64, 128),
    graph_repeats=500,
    short_of_memory_model="demo-masked",
)
FORMS: Final = {form.name: form for form in (SMOKE, FULL)}
