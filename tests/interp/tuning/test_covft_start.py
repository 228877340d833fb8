"""CoVFT at its start and in its first steps: the pretrained output, and a router that moves only when it should."""

from __future__ import annotations

import pytest
import torch

from interp.tuning.strategies.covft import CoVFT
from tests.interp.tuning.covft import ASKED, batch, covft, logits, loss, part_experts
from tests.tiny import tiny_llava
from tests.tiny_families import VISION

TOWERS = {"clip": tiny_llava, "siglip": lambda: tiny_llava(cls=False), "qwen2_5_vl": VISION["qwen2_5_vl"]}
ROUTINGS = ({}, {"routing": "sparse"}, {"routing": "uniform"}, {"routing": "random"})
CONTEXTS = ({"context": "text"}, {"context": "image"}, {"context": "concat"})


def steps(found: CoVFT, inputs: dict, *, number: int, rate: float = 1e-2, weigh: bool = True) -> None:
    """Train what is trained in the tower, on a loss with a minimum."""
    trained = [p for name, p in found.trainable().items() if "vision" in name or "visual" in name]
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0, eps=1e-16)
    with torch.no_grad():
        before = logits(found.model, inputs, found)
    target = before + torch.randn(before.shape, generator=torch.Generator().manual_seed(5), dtype=before.dtype)
    for _ in range(number):
        optimiser.zero_grad()
        (logits(found.model, inputs, found) - target).square().mean().backward()
        optimiser.step()


def router_gradient(found: CoVFT) -> float:
    parts = [p for m in found.mixtures.values() for part in (m.router, m.context) for p in part.parameters()]
    return max(float(p.grad.abs().max()) for p in parts if p.grad is not None)


@pytest.mark.parametrize("options", [*ROUTINGS, *CONTEXTS], ids=str)
@pytest.mark.parametrize("tower", TOWERS)
def test_output_is_the_pretrained_towers_at_the_start(tower: str, options: dict) -> None:
    model = TOWERS[tower]()
    inputs = batch(model, ASKED)
    with torch.no_grad():
        before = logits(model, inputs)
        with covft(model, **options) as found:
            torch.testing.assert_close(logits(model, batch(model, ASKED, reads=found), found), before)


@pytest.mark.parametrize("tower", TOWERS)
def test_router_and_context_get_no_gradient_at_step_0_and_some_after(tower: str) -> None:
    model = TOWERS[tower]()
    with covft(model) as found:
        inputs = batch(model, ASKED, reads=found)
        loss(model, inputs, found).backward()
        experts = max(float(p.grad.abs().max()) for m in found.mixtures.values() for p in m.experts.parameters())
        assert experts > 1e-3
        assert router_gradient(found) < 1e-9 * experts
        model.module.zero_grad()
        steps(found, inputs, number=2)
        model.module.zero_grad()
        loss(model, inputs, found).backward()
        assert router_gradient(found) > 1e-6 * experts


def test_router_that_begins_at_zero_never_moves() -> None:
    model = tiny_llava()
    with covft(model) as found:
        for mixture in found.mixtures.values():
            for parameter in mixture.router.parameters():
                torch.nn.init.zeros_(parameter)
        inputs = batch(model, ASKED, reads=found)
        steps(found, inputs, number=5)
        for mixture in found.mixtures.values():
            first, *others = mixture.experts
            for other in others:
                for ours, theirs in zip(first.parameters(), other.parameters(), strict=True):
                    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)
            assert float(mixture.router.weight.detach().abs().max()) < 1e-6


def test_random_router_parts_the_experts() -> None:
    model = tiny_llava()
    with covft(model) as found:
        steps(found, batch(model, ASKED, reads=found), number=5)
        first, second, *_ = found.mixtures[0].experts
        assert float((first.fc1.weight - second.fc1.weight).abs().max()) > 1e-5


def test_uniform_routing_is_one_trainable_feed_forward_part() -> None:
    ends = []
    for experts in (1, 4):
        model = tiny_llava()
        with covft(model, routing="uniform", num_experts=experts) as found:
            steps(found, batch(model, ASKED, reads=found), number=5, rate=1e-3)
            ends.append(found.mixtures[1].experts[0].fc1.weight.detach().clone())
    torch.testing.assert_close(ends[0], ends[1], atol=1e-6, rtol=0)


def test_what_is_trained_is_experts_router_context_norms_projector_and_lora() -> None:
    model = tiny_llava()
    with covft(model, layers="1") as found:
        kinds = {
            "mlp" if ".layers.1.mlp." in name else "norm" if "layer_norm" in name else name.split(".")[1]
            for name in found.trainable()
        }
        assert kinds == {"mlp", "norm", "multi_modal_projector", "language_model"}
        norms = [name for name in found.trainable() if "layer_norm" in name]
        assert len(norms) == 8  # two norms of weight and bias in both blocks, also in the one without experts
        assert not any("lora" not in name for name in found.trainable() if "language_model" in name)
    with covft(model, layers="1", language="none", projector=False, train_norms=False) as found:
        assert all(".layers.1.mlp." in name for name in found.trainable())


def test_model_is_bit_for_bit_as_before_after_detaching() -> None:
    model = tiny_llava()
    inputs = batch(model, ASKED)
    before = {name: t.clone() for name, t in model.module.state_dict().items()}
    with torch.no_grad():
        expected = logits(model, inputs)
    with covft(model) as found:
        part_experts(found)
        steps(found, batch(model, ASKED, reads=found), number=1)
    after = model.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not hasattr(model.module.config, "crosstask_strategy")
    with torch.no_grad():
        assert torch.equal(logits(model, inputs), expected)
