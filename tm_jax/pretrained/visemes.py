"""Names of our viseme encoder as PyTorch modules would store it."""

from tm_jax.pretrained.names import LINEAR, NameMap, Rule, rules


def _norm(name: str) -> tuple[Rule, ...]:
    return Rule(f"{name}.scale", f"{name}.weight"), Rule(f"{name}.bias", f"{name}.bias")


VISEMES = NameMap(
    (
        *rules("first", "first", LINEAR),
        *_norm("norms.{i}"),
        *rules("layers.{i}", "layers.{i}", LINEAR),
        *_norm("middle"),
        *rules("last", "last", LINEAR),
        *_norm("norm"),
        *rules("head", "head", LINEAR),
    )
)
"""Our paths ↔ the export's keys."""
