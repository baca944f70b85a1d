"""The table of embedded models in README.md, made from what their trainings wrote down."""

from __future__ import annotations

from . import MODELS, Embedded


def zoo_table() -> str:
    """Markdown, one row an embedded model that is there: task, size, scores on its test data."""
    there = [entry for entry in MODELS if (entry.folder / "training.json").is_file()]
    head = ["| model | what | parameters | weights | score on test data |", "|---|---|---|---|---|"]
    return "\n".join([*head, *map(_row, there)])


def _row(entry: Embedded) -> str:
    record = entry.record
    size = (entry.folder / "model.safetensors").stat().st_size
    link = f"[`{entry.name}`](data/{entry.name}/README.md)"
    cells = [link, entry.summary, f"{record['parameters']:,}", f"{size / 1e6:.1f} MB", _scores(record)]
    return f"| {' | '.join(cells)} |"


def _scores(record: dict) -> str:
    """Perplexity by domain, or accuracy on all test images and on the shipped ones."""
    if "test_perplexity" in record:
        domains = ", ".join(f"{name} {value:.1f}" for name, value in record["test_perplexity"].items())
        return f"perplexity: {domains}"
    whole, shipped = record["test_accuracy_10000"], record["test_accuracy_shipped_2000"]
    return f"accuracy: {100 * whole:.1f} % of 10,000 images, {100 * shipped:.1f} % of the 2,000 shipped"
