"""Hooks read and write exactly where and as often as they say, on tensors and tuples, and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from interp.batches import collate
from interp.hooks import Edit, HookError, capture, narrow, patch
from interp.models.base import Model
from interp.prompts import Specification, render
from tests.tiny import LAYERS, WIDTH, picture


class Block(nn.Module):
    """A fake decoder block: doubles its input and returns it in one of several wrappings."""

    def __init__(self, wrapping: str) -> None:
        super().__init__()
        self.wrapping = wrapping

    def forward(self, hidden: Tensor) -> object:
        self.returned = hidden * 2
        return {
            "tensor": self.returned,
            "tuple": (self.returned, "attention", None),
            "dict": {"hidden": self.returned},
            "flat": self.returned[0],
        }[self.wrapping]


class Stack(nn.Module):
    def __init__(self, wrapping: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(wrapping) for _ in range(3))

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            out = block(hidden)
            if block.wrapping == "tuple":  # a hook hands on what it does not understand
                hidden, *rest = out
                assert rest == ["attention", None]
            else:
                hidden = out
        return hidden


def no_hooks(blocks: nn.ModuleList) -> bool:
    return not any(block._forward_hooks or block._forward_pre_hooks for block in blocks)


def one_edit(vector: Tensor, row: int = 1, column: int = 2, **options: object) -> Edit:
    return Edit(torch.tensor([row]), torch.tensor([column]), vector[None], **options)  # type: ignore[arg-type]


HIDDEN = torch.arange(2 * 4 * 5, dtype=torch.float64).reshape(2, 4, 5) + 1
VECTOR = torch.full((5,), -7.0, dtype=torch.float64)


@pytest.mark.parametrize("wrapping", ["tensor", "tuple"])
def test_capture_returns_the_named_positions_of_every_block(wrapping: str) -> None:
    stack = Stack(wrapping)
    with capture(stack.blocks, torch.tensor([1, 3])) as captured:
        stack(HIDDEN)
    expected = torch.stack([HIDDEN[[0, 1], [1, 3]] * 2 ** (layer + 1) for layer in range(3)])
    torch.testing.assert_close(captured.states, expected)
    with capture(stack.blocks, torch.tensor([[0, 1], [3, 2]]), layers=[2, 0]) as several:
        stack(HIDDEN)
    assert several.states.shape == (2, 2, 2, 5)
    torch.testing.assert_close(several.states[1, 1, 0], HIDDEN[1, 3] * 8)


@pytest.mark.parametrize("wrapping", ["tensor", "tuple"])
def test_patch_writes_at_its_site_only_and_out_of_place(wrapping: str) -> None:
    stack = Stack(wrapping)
    with patch(stack.blocks, {1: one_edit(VECTOR)}):
        patched = stack(HIDDEN)
    expected = HIDDEN * 8
    expected[1, 2] = VECTOR * 2
    torch.testing.assert_close(patched, expected)
    torch.testing.assert_close(stack.blocks[1].returned, HIDDEN * 4)  # what the block returned was not written into


def test_patch_adds_with_a_scale() -> None:
    stack = Stack("tuple")
    with patch(stack.blocks, {2: one_edit(VECTOR, mode="add", scale=0.5)}):
        patched = stack(HIDDEN)
    torch.testing.assert_close(patched[1, 2], HIDDEN[1, 2] * 8 - 3.5)
    torch.testing.assert_close(patched[0], HIDDEN[0] * 8)


def test_capture_inside_a_patch_sees_the_patched_stream() -> None:
    stack = Stack("tensor")
    with patch(stack.blocks, {0: one_edit(VECTOR)}), capture(stack.blocks, torch.tensor([2, 2])) as captured:
        stack(HIDDEN)
    torch.testing.assert_close(captured.states[:, 1], torch.stack([VECTOR, VECTOR * 2, VECTOR * 4]))


def test_patch_that_changes_nothing_raises_unless_allowed() -> None:
    stack, same = Stack("tensor"), HIDDEN[1, 2] * 2
    with pytest.raises(HookError, match=r"changes nothing in rows \[1\]"), patch(stack.blocks, {0: one_edit(same)}):
        stack(HIDDEN)
    with patch(stack.blocks, {0: one_edit(same)}, allow_noop=True):
        torch.testing.assert_close(stack(HIDDEN), HIDDEN * 8)
    two = Edit(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.stack([VECTOR, same]))
    with pytest.raises(HookError, match=r"rows \[1\]"), patch(stack.blocks, {0: two}):  # one of two rows is enough
        stack(HIDDEN)


def test_firing_counts_are_held() -> None:
    stack, columns = Stack("tensor"), torch.tensor([1, 1])
    with pytest.raises(HookError, match="read 1 times, but layer 0 0 times"), capture(stack.blocks, columns):
        pass
    with pytest.raises(HookError, match="layer 0 2 times"), capture(stack.blocks, columns):
        stack(stack(HIDDEN))
    twice = patch(stack.blocks, {1: one_edit(VECTOR)}, times=2)
    with pytest.raises(HookError, match="patched 2 times, but layer 1 1 times"), twice:
        stack(HIDDEN)
    with patch(stack.blocks, {1: one_edit(VECTOR)}):
        stack(HIDDEN)
        torch.testing.assert_close(stack(HIDDEN), HIDDEN * 8)  # the second call passes untouched
        torch.testing.assert_close(stack(HIDDEN[:, :1]), HIDDEN[:, :1] * 8)  # as does one too short for the site
    assert no_hooks(stack.blocks)


def test_call_too_short_for_the_site_does_not_count() -> None:
    stack = Stack("tensor")
    with pytest.raises(HookError, match="layer 0 0 times"), patch(stack.blocks, {0: one_edit(VECTOR)}):
        stack(HIDDEN[:, :2])


@pytest.mark.parametrize("wrapping", ["dict", "flat"])
def test_other_outputs_are_refused(wrapping: str) -> None:
    stack = Stack(wrapping)
    with pytest.raises(HookError, match="Block returned"), capture(stack.blocks, torch.tensor([0, 0])):
        stack(HIDDEN)
    assert no_hooks(stack.blocks)


def test_hooks_are_removed_when_the_model_fails() -> None:
    stack = Stack("tensor")
    reading, writing = capture(stack.blocks, torch.tensor([0, 0])), patch(stack.blocks, {0: one_edit(VECTOR)})
    with pytest.raises(RuntimeError, match="out of memory"), writing, reading:
        raise RuntimeError("out of memory")
    assert no_hooks(stack.blocks)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda: one_edit(VECTOR[:3]), "does not fit"),
        (lambda: one_edit(VECTOR, row=2), "does not fit"),
        (lambda: Edit(torch.tensor([0, 1]), torch.tensor([0]), VECTOR[None]), "expected as many of each"),
        (lambda: Edit(torch.tensor([0, 0]), torch.tensor([1, 1]), torch.stack([VECTOR] * 2)), "writes twice"),
        (lambda: one_edit(VECTOR, mode="multiply"), "unknown mode 'multiply'"),
    ],
)
def test_edits_that_do_not_fit_raise(edit: object, complaint: str) -> None:
    stack = Stack("tensor")
    with pytest.raises(HookError, match=complaint), patch(stack.blocks, {0: edit()}):  # type: ignore[operator]
        stack(HIDDEN)
    assert no_hooks(stack.blocks)


def test_layer_and_batch_out_of_range_raise() -> None:
    stack = Stack("tensor")
    with pytest.raises(HookError, match="layer 3 is out of range"), patch(stack.blocks, {3: one_edit(VECTOR)}):
        stack(HIDDEN)
    with pytest.raises(HookError, match="3 rows of a batch that has 2"), capture(stack.blocks, torch.tensor([0, 0, 0])):
        stack(HIDDEN)


def test_capture_and_patch_work_under_generate(llava: Model) -> None:
    prompts = [render(llava, Specification(), picture(0)), render(llava, Specification(), "a longer query")]
    batch = collate(llava, prompts)
    vector = torch.randn(WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    edit = one_edit(vector, row=0, column=int(batch.positions[0]))
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "use_cache": True}
    inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
    with patch(llava.blocks, {1: edit}), capture(llava.blocks, batch.positions) as captured:
        llava.module.generate(**inputs, **options)
    assert captured.states.shape == (LAYERS, 2, WIDTH)
    torch.testing.assert_close(captured.states[1, 0], vector)


class Attending(nn.Module):
    """A fake block that is called as transformers calls one, and adds up what each column sees."""

    def forward(self, hidden: Tensor, *, attention_mask: Tensor, position_ids: Tensor, **given: object) -> Tensor:
        self.columns = hidden.shape[1]
        assert attention_mask.shape[-2:] == (self.columns, self.columns + 2)  # two columns of a cache before them
        assert position_ids.shape[-1] == self.columns
        return hidden + attention_mask.sum(-1)[:, 0, :, None] + position_ids[..., None]


def run_attending(blocks: nn.ModuleList, hidden: Tensor, **given: object) -> Tensor:
    n = hidden.shape[1]
    mask = torch.cat([torch.ones(1, 1, n, 2), torch.eye(n)[None, None]], dim=-1)
    for block in blocks:
        hidden = block(hidden, attention_mask=mask, position_ids=torch.full((1, n), 7), **given)
    return hidden


def test_narrowed_blocks_run_the_first_columns_and_the_others_follow_column_0() -> None:
    blocks = nn.ModuleList(Attending() for _ in range(3))
    alike = torch.ones(1, 5, 2, dtype=torch.float64)
    expected = run_attending(blocks, alike)
    with narrow(blocks, [1, 2, 4]):
        torch.testing.assert_close(run_attending(blocks, alike), expected)
    assert [block.columns for block in blocks] == [1, 2, 4]
    assert no_hooks(blocks)
    edit = Edit(torch.tensor([0]), torch.tensor([1]), torch.full((1, 2), -3.0, dtype=torch.float64))
    with patch(blocks, {0: edit}):
        patched = run_attending(blocks, alike)
    with narrow(blocks, [1, 2, 4]), patch(blocks, {0: edit}):
        torch.testing.assert_close(run_attending(blocks, alike), patched)
    assert not torch.allclose(patched, expected)


def test_narrowing_refuses_what_it_cannot_cut() -> None:
    blocks, alike = nn.ModuleList(Attending() for _ in range(3)), torch.ones(1, 5, 2)
    with pytest.raises(HookError, match="'alibi', of which it is not known"), narrow(blocks, [1, 2, 4]):
        run_attending(blocks, alike, alibi=torch.ones(5))
    assert no_hooks(blocks)
    for widths in ([1, 2], [2, 1, 4], [0, 1, 2]):
        with pytest.raises(HookError, match="for 3 blocks; expected as many, growing from 1"), narrow(blocks, widths):
            pass
    with pytest.raises(HookError, match="layer 0 0 times"), narrow(blocks, [1, 2, 4]):
        pass
