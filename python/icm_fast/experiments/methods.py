"""Ways to predict held-out examples: where labels come from, and how they are used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Method:
    """One way to predict.

    Attributes:
        title: As tables and figures call it.
        labels: Whose labels: ``icm``, ``golden``, ``crowd``, ``perturbed``, ``bootstrapped``,
            ``random-shots`` or ``balanced-bootstrapping``; empty for none.
        use: ``prompt``, ``dialogue``, ``hhh`` and ``chat`` (no demonstrations), ``many-shot``
            (demonstrations in context) or ``tuned`` (fine-tuning, then no demonstrations).
    """

    title: str
    labels: str
    use: str


METHODS = {
    "zero-shot": Method("zero-shot", "", "prompt"),
    "zero-shot-dialogue": Method("zero-shot, a dialogue of ours", "", "dialogue"),
    "zero-shot-hhh": Method("zero-shot, HHH prompt", "", "hhh"),
    "zero-shot-chat": Method("zero-shot, chat template", "", "chat"),
    "bootstrapped": Method("few-shot bootstrapping", "bootstrapped", "many-shot"),
    "random-shots": Method("few-shot, random labels", "random-shots", "many-shot"),
    "balanced-bootstrapping": Method(
        "balanced bootstrapping", "balanced-bootstrapping", "many-shot"
    ),
    "icm": Method("ICM", "icm", "many-shot"),
    "golden": Method("golden labels", "golden", "many-shot"),
    "crowd": Method("one annotator", "crowd", "many-shot"),
    "perturbed": Method("perturbed golden", "perturbed", "many-shot"),
    "icm-tuned": Method("ICM, fine-tuned", "icm", "tuned"),
    "golden-tuned": Method("golden labels, fine-tuned", "golden", "tuned"),
    "crowd-tuned": Method("one annotator, fine-tuned", "crowd", "tuned"),
    "perturbed-tuned": Method("perturbed golden, fine-tuned", "perturbed", "tuned"),
}
