"""Who says that an answer is right: a rule by default, or a language model that is asked, behind one interface.

The model judge reads one forward pass: after a prompt that shows the question, the accepted answers and the given one,

    score = log sum_{t in yes} p(t) - log sum_{t in no} p(t),   right if score > 0

with yes and no the first tokens of the two words in small and capital letters, with and without a space before them.
A model that would say something else altogether is given away by the probability that it says either.
(Luo et al. 2025 had an overriding benchmark judged by a large closed model; any model that this package loads can be
the judge here, and its agreement with the rule is reported, since a judge is only as good as that.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.patching import RowPatch, sweep_logits
from interp.prompts import Specification, Template, render
from interp.tasks.forms import Form

TEMPLATE = (
    r"Instruction: {question}\nA right answer: {accepted}\nThe answer given: {answer}\n"
    r"Does the answer given follow the instruction, and is it right?\nYes or no:"
)
"""The judge's prompt; a written-out newline begins a new line, and the last line ends in the delimiter."""
_FIELDS = ("question", "accepted", "answer")
_WORDS = {"yes": ("yes", "Yes", "YES"), "no": ("no", "No", "NO")}


@dataclass(frozen=True)
class Case:
    """An answer to be judged.

    Attributes:
        question: what was asked, as an instruction.
        accepted: accepted answers, or examples where the form leaves the answer free.
        answer: what was said.
        form: the form in which the answer was asked for.
    """

    question: str
    accepted: tuple[str, ...]
    answer: str
    form: Form


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right.

    Attributes:
        right: the verdict.
        score: the judge's log-odds for it; None where there is nothing between the two.
        said: the probability with which a model says yes or no rather than anything else; None where none was asked.
    """

    right: bool
    score: float | None = None
    said: float | None = None


class Judge(Protocol):
    """Says of each answer whether it is right."""

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict per case, in order."""


class RuleJudge:
    """The rule of each form (:mod:`interp.tasks.forms`)."""

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict per case, in order."""
        return [Verdict(case.form.accepts(case.answer, case.accepted)) for case in cases]


class ModelJudge:
    """A language model that is asked whether the answer is right. An empty answer is wrong without asking."""

    def __init__(self, model: Model, template: str = "") -> None:
        """
        Args:
            model: any model; only its text is used.
            template: empty for `TEMPLATE`; else it holds {question}, {accepted} and {answer} once each, and its last
                line ends in the delimiter. ``chat:`` before it puts the model's chat template around it.

        Raises:
            CrosstaskError: for another template, or a tokenizer in which yes and no begin with the same token.
        """
        plain = (template or TEMPLATE).replace("\\n", "\n")
        chat = plain.startswith("chat:")
        body, newline, last = plain.removeprefix("chat:").rstrip().rpartition("\n")
        try:
            names = [name for _, name, _, _ in Formatter().parse(body) if name is not None]
        except ValueError as error:
            raise CrosstaskError(f"the judge's template {template!r} cannot be read: {error}") from error
        if sorted(names) != sorted(_FIELDS) or "{" in last:
            raise CrosstaskError(
                f"the judge's template {template!r} must hold {{question}}, {{accepted}} and {{answer}} once each, and "
                "then a last line that asks for yes or no and ends in a colon"
            )
        self.model, self.body = model, body
        self.frame = Template("", newline + last, turns="chat" if chat else "plain")
        self.yes, self.no = (self._first_tokens(words) for words in _WORDS.values())
        if both := set(self.yes) & set(self.no):
            token = model.tokenizer.convert_ids_to_tokens(min(both))
            raise CrosstaskError(
                f"model {model.name!r} cannot judge: in its tokenizer yes and no both begin with {token!r}"
            )

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict per case, in order.

        Raises:
            CrosstaskError: if an answer or a question holds a special token of the judge, or its logits are no numbers.
        """
        asked = list(dict.fromkeys(self.text(case) for case in cases if case.answer.strip()))
        prompts = [render(self.model, Specification(), text, template=self.frame) for text in asked]
        found = sweep_logits(self.model, prompts, [[RowPatch(0, None)]] * len(prompts))
        said = {text: self._verdict(logits[0]) for text, logits in zip(asked, found, strict=True)}
        return [said[self.text(case)] if case.answer.strip() else Verdict(False) for case in cases]

    def _verdict(self, logits: Float[Tensor, " V"]) -> Verdict:
        given = torch.log_softmax(logits.double(), 0)
        yes, no = torch.logsumexp(given[self.yes], 0), torch.logsumexp(given[self.no], 0)
        score = (yes - no).item()
        if not math.isfinite(score):
            raise CrosstaskError(f"the judge {self.model.name!r} gives logits that are no numbers")
        return Verdict(score > 0, score, torch.logaddexp(yes, no).exp().item())

    def text(self, case: Case) -> str:
        """What the judge reads before the last line."""
        return self.body.format(
            question=case.question, accepted=" / ".join(case.accepted), answer=" ".join(case.answer.split())
        )

    def _first_tokens(self, words: Sequence[str]) -> list[int]:
        spelled = [before + word for word in words for before in ("", " ")]
        ids = self.model.tokenizer(spelled, add_special_tokens=False)["input_ids"]
        # A lone space or byte in front would stand for both words.
        return sorted({piece[0] for piece in ids if self.model.tokenizer.decode(piece[:1]).strip()})
