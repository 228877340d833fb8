"""How the question reaches the tower: its own images, in generate() too, and where checkpointing runs a block again."""

from __future__ import annotations

import contextlib

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.strategies.covft.mixture import Mixture
from interp.tuning.strategies.covft.options import CoVFTOptions
from interp.tuning.strategies.covft.strategy import block_norms, graft_mixtures
from interp.tuning.strategies.graft import Graft
from interp.tuning.text_context import ContextSlot, context_inputs, context_of
from interp.tuning.text_encoder import HashingEncoder
from tests.interp.tuning.covft import ASKED, batch, covft, logits, loss, part_experts, tower_output
from tests.tiny import picture, tiny_llava
from tests.tiny_families import VISION

TOWERS = {"clip": tiny_llava, "siglip": lambda: tiny_llava(cls=False), "qwen2_5_vl": VISION["qwen2_5_vl"]}
SIZES = ((12, 10), (24, 8), (16, 16))
MIXED = (
    (ASKED[0][0], (picture(1, SIZES[0]), picture(2, SIZES[1]))),
    (ASKED[1][0], (picture(3, SIZES[2]),)),
)
OTHER = "What colour is the sky?"


@pytest.mark.parametrize("options", [{}, {"context": "concat"}, {"routing": "sparse"}], ids=str)
@pytest.mark.parametrize("tower", TOWERS)
def test_question_changes_its_own_images_alone(tower: str, options: dict) -> None:
    model = TOWERS[tower]()
    changed = (MIXED[0], (OTHER, MIXED[1][1]))
    with covft(model, **options) as found:
        part_experts(found)
        before, after = (tower_output(model, batch(model, asked, reads=found), found) for asked in (MIXED, changed))
    torch.testing.assert_close(before[:2], after[:2], atol=1e-10, rtol=1e-10)  # rounding alone, of other rows together
    assert not torch.allclose(before[2], after[2])


@pytest.mark.parametrize("tower", TOWERS)
def test_image_among_others_is_encoded_as_alone(tower: str) -> None:
    model = TOWERS[tower]()
    with covft(model) as found:
        part_experts(found)
        together = tower_output(model, batch(model, MIXED, reads=found), found)
        vectors, weights = found.context_vectors()[1], found.routing()[1]
        alone = tower_output(model, batch(model, MIXED[1:], reads=found), found)
        torch.testing.assert_close(together[2], alone[0])
        torch.testing.assert_close(vectors[2:], found.context_vectors()[1])
        torch.testing.assert_close(weights[2:], found.routing()[1])
        assert weights.shape == (3, 4)
        torch.testing.assert_close(weights.sum(1), torch.ones(3, dtype=weights.dtype))


def test_missing_context_and_one_for_other_images_raise() -> None:
    model = tiny_llava()
    with covft(model) as found:
        inputs = batch(model, ASKED, reads=found)
        with pytest.raises(CrosstaskError, match="was called without one"):
            logits(model, inputs)
        with pytest.raises(CrosstaskError, match="encodes 3 images, but its context is for 1"):
            logits(model, inputs | {"context_owner": torch.tensor([0])}, found)
        with pytest.raises(CrosstaskError, match="number its 2 texts from 0"):
            logits(model, inputs | {"context_owner": torch.tensor([0, 1, 2])}, found)
        with pytest.raises(CrosstaskError, match="outside a call of the tower"):
            found.mixtures[0](torch.zeros(1, 5, 16, dtype=torch.float64))
        assert logits(model, inputs, found).isfinite().all()  # what failed has left nothing behind


def test_routing_that_asks_no_question_needs_none() -> None:
    model = tiny_llava()
    for options in ({"routing": "uniform"}, {"routing": "random"}, {"context": "image"}):
        with covft(model, **options) as found:
            inputs = batch(model, ASKED, reads=found)
            assert not any(name.startswith("context_") for name in inputs)
            assert logits(model, inputs).isfinite().all()


@pytest.mark.parametrize("tower", ["clip", "qwen2_5_vl"])
@pytest.mark.parametrize("beams", [1, 3])
def test_generate_encodes_images_with_their_question(tower: str, beams: int) -> None:
    model = TOWERS[tower]()
    with covft(model) as found:
        part_experts(found, scale=0.5)
        inputs = batch(model, MIXED, reads=found)
        given = {
            name: t
            for name, t in inputs.items()
            if name not in ("labels", "logits_to_keep", "position_ids") and not name.startswith("context_")
        }
        calls: list[int] = []
        handle = found.mixtures[1].register_forward_hook(lambda *_: calls.append(1))
        if "image_grid_thw" in given:
            image = model.module.config.image_token_id
            given["mm_token_type_ids"] = (given["input_ids"] == image).int()
        with found.context(inputs):
            written = model.module.generate(**given, max_new_tokens=3, num_beams=beams, do_sample=False)
        handle.remove()
        assert len(calls) == 1
        assert written.shape[0] == 2
        expected = found.routing()[1]
        tower_output(model, inputs, found)
        torch.testing.assert_close(found.routing()[1], expected)
        with pytest.raises(CrosstaskError, match="was called without one"):
            model.module.generate(**given, max_new_tokens=1)


def gradients(model: Model, found, *, between: str, reentrant: bool | None) -> dict[str, torch.Tensor]:
    """Gradients of a step; after its forward pass the context was cleared, or overwritten by another forward pass."""
    model.module.train()
    if reentrant is not None:
        model.module.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.module.enable_input_require_grads()
    inputs = batch(model, MIXED, reads=found)
    changed = batch(model, ((OTHER, MIXED[0][1]), (OTHER, MIXED[1][1])), reads=found)
    inputs["pixel_values"] = inputs["pixel_values"].requires_grad_()  # the reentrant kind asks for such an input
    made = loss(model, inputs, found)
    again: list[int] = []
    if between == "overwritten":
        with found.context(changed), torch.no_grad():
            logits(model, changed, found)
            handle = found.mixtures[0].experts[0].register_forward_hook(lambda *_: again.append(1))
            made.backward()
    else:
        handle = found.mixtures[0].experts[0].register_forward_hook(lambda *_: again.append(1))
        made.backward()
    handle.remove()
    assert len(again) == (reentrant is not None)
    model.module.eval()
    if reentrant is not None:
        model.module.gradient_checkpointing_disable()
        model.module.disable_input_require_grads()
    found_gradients = {name: p.grad.clone() for name, p in found.trainable().items() if p.grad is not None}
    model.module.zero_grad()
    return found_gradients


@pytest.mark.parametrize("tower", ["clip", "qwen2_5_vl"])
def test_checkpointing_gives_the_gradients_without_it(tower: str) -> None:
    model = TOWERS[tower]()
    with covft(model) as found:
        part_experts(found)
        plain = gradients(model, found, between="cleared", reentrant=None)
        assert any("context.pooling.query" in name and bool(g.any()) for name, g in plain.items())
        for reentrant in (False, True):
            for between in ("cleared", "overwritten"):
                kept = gradients(model, found, between=between, reentrant=reentrant)
                assert kept.keys() == plain.keys()
                for name, gradient in plain.items():
                    torch.testing.assert_close(kept[name], gradient, msg=f"{name}, {between}, reentrant {reentrant}")


def test_checkpointing_after_the_strategy_has_gone_is_transformers_own() -> None:
    model = tiny_llava()
    model.module.gradient_checkpointing_enable({"use_reentrant": False})
    block = model.module.model.vision_tower.encoder.layers[1]
    before = block._gradient_checkpointing_func
    model.module.train()
    with covft(model) as found:
        loss(model, batch(model, ASKED, reads=found), found).backward()
    assert block._gradient_checkpointing_func is before


@pytest.mark.parametrize(("layers", "expected"), [("auto", range(11, 23)), ("early", range(11)), ("4-7", range(4, 8))])
def test_blocks_of_clip_large_are_chosen_as_in_the_paper(layers: str, expected: range) -> None:
    assert CoVFTOptions(layers=layers).chosen(23, 24) == list(expected)


def test_trained_numbers_of_clip_large_are_the_released_codes() -> None:
    with torch.device("meta"):
        config = CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
            projection_dim=768,
        )
        tower = CLIPVisionModel(config).requires_grad_(False)
    options, graft, blocks = CoVFTOptions(), Graft(), tower.encoder.layers
    found = graft_mixtures(graft, tower, blocks, options.chosen(23, 24), options, slot=ContextSlot(), text=768)
    assert sum(p.numel() for p in found[11].context.parameters()) == 10_497_792
    assert sum(p.numel() for p in found[11].parameters()) == 44_075_780
    for parameter in block_norms(blocks).values():
        parameter.requires_grad_(True)
    assert sum(p.numel() for p in tower.parameters() if p.requires_grad) == 529_007_664


def test_pooling_is_multi_head_attention_with_the_text_joined_to_every_key() -> None:
    """The folded form, with and without padding, beside torch's own attention over [image ; text]."""
    torch.manual_seed(0)
    from interp.tuning.strategies.covft.context import Pooling

    ours = Pooling(12, 10, 12, 4).double()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    theirs = torch.nn.MultiheadAttention(12, 4, kdim=22, vdim=22, batch_first=True).double()
    with torch.no_grad():
        theirs.q_proj_weight.copy_(ours.query.weight)
        theirs.k_proj_weight.copy_(ours.key.weight)
        theirs.v_proj_weight.copy_(ours.value.weight)
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    tokens, text = torch.randn(3, 5, 10).double(), torch.randn(3, 12).double()
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])
    keys = torch.cat([tokens, text[:, None].expand(-1, 5, -1)], -1)
    expected = theirs(text[:, None], keys, keys, key_padding_mask=~mask)[0][:, 0]
    torch.testing.assert_close(ours(text, tokens, text, mask), expected)


def test_balancing_loss_is_one_for_equal_shares_and_taken_once() -> None:
    model = tiny_llava()
    with covft(model, balance=2.0) as found:
        mixture: Mixture = found.mixtures[1]
        model.module.train()
        torch.nn.init.zeros_(mixture.router.weight)
        torch.nn.init.zeros_(mixture.router.bias)
        torch.nn.init.zeros_(found.mixtures[0].router.weight)
        torch.nn.init.zeros_(found.mixtures[0].router.bias)
        logits(model, batch(model, ASKED, reads=found), found)
        penalty = found.penalty()
        assert float(penalty.detach()) == pytest.approx(2.0)
        assert found.penalty() is None
        model.module.eval()


def test_context_of_a_batch_holds_states_where_they_are_wanted() -> None:
    encoder = HashingEncoder(8)
    found = context_of(context_inputs(encoder, ["one two three", "one"], [0, 1, 1], states=True))
    assert found.of_images.shape == (3, 8)
    assert found.states is not None
    assert found.mask is not None
    assert found.mask.tolist() == [[True, True, True], [True, False, False]]
    torch.testing.assert_close(found.states[0, 0], found.states[1, 0])


@pytest.mark.parametrize(("reentrant", "kept"), [(False, True), (True, False)])
def test_balance_whose_gradient_is_lost_raises(reentrant: bool, kept: bool) -> None:
    model = tiny_llava()
    with covft(model, balance=1.0) as found:
        model.module.train()
        model.module.gradient_checkpointing_enable({"use_reentrant": reentrant})
        inputs = batch(model, ASKED, reads=found)
        inputs["pixel_values"].requires_grad_(True)
        logits(model, inputs, found)
        with contextlib.nullcontext() if kept else pytest.raises(CrosstaskError, match="use_reentrant=False"):
            penalty = found.penalty()
            assert penalty.requires_grad
        model.module.gradient_checkpointing_disable()
        model.module.eval()


def test_balance_of_a_pass_that_was_not_asked_for_is_let_go() -> None:
    model = tiny_llava()
    with covft(model, balance=1.0) as found:
        model.module.train()
        inputs = batch(model, ASKED, reads=found)
        logits(model, inputs, found)
        with found.context(inputs):  # a batch without images would follow
            pass
        assert found.penalty() is None
        model.module.eval()


@pytest.mark.parametrize(
    ("read", "layers", "said"),
    [
        (-2, "1", r"'1', but the tower's blocks are 0 to 0 of 2; nothing reads the others"),
        (-2, "0-1", r"'0-1', but the tower's blocks are 0 to 0 of 2"),
        (-1, "2", r"'2', but the tower's blocks are 0 to 1$"),
        (-1, "1-0", r"'1-0', but the tower's blocks are 0 to 1"),
        (-2, "early", r"'early', but the tower's blocks are 0 to 0 of 2"),
    ],
)
def test_blocks_that_nothing_reads_are_refused(read: int, layers: str, said: str) -> None:
    model = tiny_llava()
    model.module.config.vision_feature_layer = read
    with pytest.raises(CrosstaskError, match=said), covft(model, layers=layers):
        pass


@pytest.mark.parametrize("training", [False, True])
def test_new_modules_are_in_the_models_mode(training: bool) -> None:
    model = tiny_llava()
    model.module.train(training)
    with covft(model, routing="random") as found:
        assert all(part.training == training for mixture in found.mixtures.values() for part in mixture.modules())
    model.module.eval()


def test_images_and_videos_do_not_share_a_context() -> None:
    model = VISION["qwen2_5_vl"]()
    with covft(model) as found, torch.no_grad():
        inputs = batch(model, ASKED[1:], reads=found)
        tower = model.module.get_encoder(modality="image")
        pixels, grid = inputs["pixel_values"], inputs["image_grid_thw"]
        video = torch.cat([pixels, pixels]), grid * torch.tensor([2, 1, 1])
        with found.context(inputs):
            tower(video[0], grid_thw=video[1])
        with found.context(inputs):
            tower(pixels, grid_thw=grid)
            tower(pixels, grid_thw=grid)
            with pytest.raises(CrosstaskError, match="encodes videos with a context that it has read for images"):
                tower(video[0], grid_thw=video[1])


def test_threads_of_data_parallel_are_refused() -> None:
    model = tiny_llava()
    with covft(model) as found:
        inputs = batch(model, ASKED, reads=found)
        replica = model.module.get_encoder(modality="image")._replicate_for_data_parallel()
        with found.context(inputs), pytest.raises(CrosstaskError, match="one process for each card"):
            replica(inputs["pixel_values"])
