"""Mixtures against plain sums over their experts, one image at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from interp.errors import CrosstaskError
from interp.tuning.strategies.covft.context import Residual, context_extractor
from interp.tuning.strategies.covft.mixture import Mixture
from interp.tuning.strategies.covft.options import CoVFTOptions
from interp.tuning.strategies.covft.tower import Pass, TowerPasses

WIDTH, TEXT = 6, 8
COUNTS = (4, 2, 5)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 10), nn.Linear(10, WIDTH)

    def forward(self, u: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(u)))


def mixture(**options: object) -> tuple[Mixture, TowerPasses]:
    """One whose experts and router are unlike."""
    torch.manual_seed(0)
    passes = TowerPasses(nn.Module(), [], None)
    found = Mixture(FeedForward(), passes, CoVFTOptions(text="hashing", **options), image=WIDTH, text=TEXT).double()
    for parameter in found.parameters():
        nn.init.normal_(parameter, std=0.7)
    return found.eval(), passes


def images() -> tuple[list[Tensor], Tensor]:
    """Tokens of three images of unlike sizes, and what is asked of each."""
    drawn = torch.Generator().manual_seed(1)
    tokens = [torch.randn(count, WIDTH, generator=drawn, dtype=torch.float64) for count in COUNTS]
    return tokens, torch.randn(3, TEXT, generator=drawn, dtype=torch.float64)


def weights_of(found: Mixture, tokens: Tensor, text: Tensor) -> Tensor:
    """As the formulas say, for one image."""
    options, count = found.options, len(found.experts)
    if not options.routes:
        return torch.full((count,), 1 / count, dtype=torch.float64)
    logits = found.router(found.context(tokens[None], text[None], None)[0])
    full = logits.exp() / logits.exp().sum()
    if options.routing == "dense":
        return full
    kept = full.sort(descending=True).indices[: options.active]
    return torch.stack([full[n] if n in kept else full.new_zeros(()) for n in range(count)]) / full[kept].sum()


def packed(found: Mixture, passes: TowerPasses, tokens: list[Tensor], text: Tensor) -> list[Tensor]:
    with passes.given(Pass(3, text, torch.tensor(COUNTS))):
        return list(found(torch.cat(tokens)).split(COUNTS))


def filled_up(found: Mixture, passes: TowerPasses, tokens: list[Tensor], text: Tensor) -> list[Tensor]:
    mask = torch.arange(max(COUNTS)) < torch.tensor(COUNTS)[:, None]
    padded = torch.stack([nn.functional.pad(one, (0, 0, 0, max(COUNTS) - len(one)), value=9.0) for one in tokens])
    with passes.given(Pass(3, text, mask=mask)):
        mixed = found(padded)
    return [mixed[n, :count] for n, count in enumerate(COUNTS)]


@pytest.mark.parametrize("run", [packed, filled_up])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_experts": 2, "context": "text"},
        {"context": "image"},
        {"context": "concat"},
        {"routing": "sparse"},
        {"routing": "sparse", "active": 1, "context": "concat"},
        {"routing": "uniform"},
        {"routing": "random"},
    ],
    ids=str,
)
def test_mixture_is_the_weighted_sum_of_its_experts(options: dict, run) -> None:
    found, passes = mixture(**options)
    tokens, text = images()
    with torch.no_grad():
        for n, mixed in enumerate(run(found, passes, tokens, text)):
            g = weights_of(found, tokens[n], text[n])
            expected = sum(weight * expert(tokens[n]) for weight, expert in zip(g, found.experts, strict=True))
            torch.testing.assert_close(mixed, expected)
            torch.testing.assert_close(found.weights[n], g)


def test_lots_fall_on_all_experts_and_weigh_those_that_are_drawn_alike() -> None:
    found, passes = mixture(routing="random", active=2)
    tokens, text = images()
    found.train()
    torch.manual_seed(2)
    drawn = torch.cat([(packed(found, passes, tokens, text), found.weights)[1] for _ in range(40)])
    assert set(drawn.flatten().tolist()) == {0.0, 0.5}
    assert (drawn.sum(1) == 1).all()
    assert (drawn > 0).double().mean(0).tolist() == pytest.approx([0.5] * 4, abs=0.2)  # 120 lots


def test_residual_block_adds_to_what_it_is_given() -> None:
    torch.manual_seed(0)
    found = Residual(WIDTH, 12).double()
    v = torch.randn(3, WIDTH, dtype=torch.float64)
    inner = v @ found.up.weight.T + found.up.bias
    summed = v + (inner * torch.sigmoid(1.702 * inner)) @ found.down.weight.T + found.down.bias
    expected = (summed - summed.mean(-1, keepdim=True)) / (summed.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(found(v), expected)


def test_joined_context_is_the_mean_of_the_tokens_that_are_there_and_the_text() -> None:
    extractor = context_extractor(WIDTH, TEXT, CoVFTOptions(context="concat", text="hashing")).double()
    tokens, text = images()
    mask = torch.tensor([[True, True, False, False]])
    with torch.no_grad():
        found = extractor(tokens[0][None], text[:1], mask)
        expected = torch.cat([extractor.image_block(tokens[0][:2]).mean(0), extractor.text_block(text[0])])
    torch.testing.assert_close(found[0], expected)


def test_hidden_layer_of_no_width_is_refused() -> None:
    with pytest.raises(CrosstaskError, match=r"option res_mult of covft leaves no hidden layer to .* of width 6"):
        context_extractor(WIDTH, TEXT, CoVFTOptions(res_mult=0.01, text="hashing"))


def test_balance_is_that_of_the_first_run_of_a_pass() -> None:
    found, passes = mixture(balance=1.0)
    found.train()
    tokens, text = images()
    one = Pass(3, text, torch.tensor(COUNTS))
    with passes.given(one):
        found(torch.cat(tokens))
        assert found.take_balance() is not None
        found(torch.cat(tokens))  # as checkpointing does in the backward pass
        assert found.take_balance() is None
