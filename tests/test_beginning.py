"""Rows that begin alike are computed from one beginning, to the same end."""

import pyarrow as pa
import pytest
import torch
from conftest import chat_rows, write_jsonl
from datasets import Dataset, Features, LargeList, Value
from planned import A100, LAPTOP, SMALL
from test_packing import WITHOUT_SDPA, tiny
from torch.nn.functional import scaled_dot_product_attention

from finetune_core import attention, side_by_side, trainer
from finetune_core.attention import attend_rows_apart
from finetune_core.encoded import COLUMNS, SCHEMA, encode, shared_beginning, without_beginning
from finetune_core.grouping import with_beginning
from finetune_core.packing import EXACT, attends_by_row
from finetune_core.plan import make_plan
from finetune_core.preflight import look
from finetune_core.recipe import Recipe
from finetune_core.render import load_tokenizer
from finetune_core.trainer import build_trainer

DRAWING = {"gpt2", "gpt_bigcode", "seed_oss"}  # they come with dropout, which draws anew for each row


@pytest.mark.parametrize(
    "shared, lengths, most, kept",
    [
        (3, (21,), 512, 128),
        (16, (16, 16), 512, 128),  # nothing is filled up
        (7, (5, 40, 17, 1, 23, 39), 512, 128),  # several groups of like length, out of order
        (7, (5, 40, 17, 1, 23, 39), 512, 20),  # shares of the longer ones are computed again
        (7, (5, 40, 17, 1, 23, 39), 20, 128),  # and those are too long to be held whole
        (30, (5, 9), 20, 128),  # and so is the beginning
        (7, (30, 40), 5, 128),
    ],
)
def test_every_row_looks_at_the_beginning_and_at_itself(monkeypatch, shared, lengths, most, kept):
    monkeypatch.setattr(attention, "LONGEST_BATCHED_FLOAT32", most)
    monkeypatch.setattr(side_by_side, "LONGEST_KEPT", kept)
    torch.manual_seed(0)
    tokens = shared + sum(lengths)
    states = [
        torch.randn(1, heads, tokens, width, dtype=torch.float64, requires_grad=True)
        for heads, width in ((6, 8), (2, 8), (2, 12))
    ]
    over = torch.randn(1, tokens, 6, 12, dtype=torch.float64)
    queries = torch.tensor([0, shared, *lengths]).cumsum(0)
    keys = queries + torch.arange(len(queries)).sub(1).clamp(min=0) * shared
    out, _ = attention._attend(torch.nn.Module(), *states, None, scaling=0.3, cu_seq_lens_q=queries, cu_seq_lens_k=keys)
    row = torch.repeat_interleave(torch.arange(len(lengths) + 1), torch.tensor([shared, *lengths]))
    at = torch.arange(tokens)
    seen = ((row[:, None] == row[None]) | (row[None] == 0)) & (at[:, None] >= at[None])
    dense = scaled_dot_product_attention(*states, attn_mask=seen, scale=0.3, enable_gqa=True).transpose(1, 2)
    assert torch.allclose(out, dense)
    for mine, theirs in zip(
        torch.autograd.grad(out, states, over), torch.autograd.grad(dense, states, over), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-6)  # what flows to the beginning is added up in float32


def packs(beginning, rows):
    """A batch as TRL's collator makes it of whole rows, and one of rows whose beginning lies before them once."""

    def collated(rows, untrained):
        ends = torch.tensor([0, *map(len, rows)]).cumsum(0).to(torch.int32)
        labels = torch.cat([torch.cat([torch.full_like(row[:untrained], -100), row[untrained:]]) for row in rows])
        longest = max(map(len, rows))
        return {
            "input_ids": torch.cat(rows)[None],
            "labels": labels[None],
            "position_ids": torch.cat([torch.arange(len(row)) for row in rows])[None],
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": longest,
            "max_length_k": longest,
        }

    whole = collated([torch.cat([beginning, row]) for row in rows], len(beginning) + 2)
    return whole, with_beginning(collated(rows, 2), beginning.tolist())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("model_type", sorted(filter(attends_by_row, EXACT - WITHOUT_SDPA - DRAWING)))
def test_loss_and_gradients_are_those_of_whole_rows(model_type, checkpointing):
    """Of rows within the sliding window of those that have one."""
    model = tiny(model_type).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    assert attend_rows_apart(model)
    torch.manual_seed(1)
    whole, short = packs(torch.randint(3, 64, (6,)), [torch.randint(3, 64, (length,)) for length in (4, 9, 7)])
    assert short["input_ids"].shape[1] == whole["input_ids"].shape[1] - 2 * 6

    def learned(batch):
        model.zero_grad()
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        return loss, [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    (loss, wanted), (mine, found) = learned(whole), learned(short)
    torch.testing.assert_close(mine, loss, rtol=1e-5, atol=1e-6)
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(other, one, rtol=2e-3, atol=2e-5)


def rows_of(*rows, untrained):
    labels = [[-100] * untrained + ids[untrained:] for ids in rows]
    return Dataset.from_dict({"input_ids": list(rows), "labels": labels}).cast(FEATURES)


FEATURES = Features({name: LargeList(Value("int32")) for name in ("input_ids", "labels")})


@pytest.mark.parametrize(
    "rows, untrained, shared",
    [
        (([1, 2, 3, 7, 8, 9], [1, 2, 3, 4, 5, 6]), 4, [1, 2, 3]),
        (([1, 2, 3, 7, 8, 9], [1, 2, 3, 4, 5, 6]), 3, [1, 2]),  # the last one would have to foresee each row's next
        (([1, 2, 3, 7], [1, 2, 3]), 2, [1]),
        (([1, 2, 3], [1, 2, 3]), 0, []),  # all of it is trained
        (([1, 2, 3, 4], [5, 2, 3, 4]), 2, []),
        (([1, 2, 3, 4],), 2, [1]),
    ],
)
def test_the_beginning_is_what_all_rows_share_and_none_trains(rows, untrained, shared):
    found = shared_beginning([rows_of(*rows, untrained=untrained)])
    assert list(found) == shared
    both = [rows_of(rows[0], untrained=untrained), rows_of(*rows, untrained=untrained)]
    assert list(shared_beginning(both)) == shared


def on_disk(rows, path):
    """As `encode` writes them, in two pieces."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        for at in (slice(0, 2), slice(2, None)):
            writer.write_table(pa.table({name: rows[at][name] for name in COLUMNS}, schema=SCHEMA))
    return Dataset.from_file(str(path))


@pytest.mark.parametrize("is_mapped", [True, False])
def test_rows_without_their_beginning_keep_the_rest_in_order(tmp_path, is_mapped):
    rows = [[1, 2, *range(10, 10 + length)] for length in (3, 9, 5)]
    made = rows_of(*rows, untrained=3)
    whole = on_disk(made, tmp_path / "rows.arrow") if is_mapped else made
    short = without_beginning(whole, 2)
    assert bool(short.cache_files) == is_mapped
    assert short["input_ids"] == [row[2:] for row in rows]
    assert short["labels"] == [[-100, *row[3:]] for row in rows]


def trained(recipe, tiny_model_dir, folder, rows):
    """(losses, tokens counted, tokens computed) of a short training."""
    encoded = encode(rows, load_tokenizer(tiny_model_dir), recipe.max_length, folder / "rows.arrow")
    made = build_trainer(recipe, tiny_model_dir, folder, (encoded, None), [], LAPTOP)
    computed = []
    kept = made.model.forward

    def forward(*args, **kwargs):
        computed.append(kwargs["input_ids"].numel())
        return kept(*args, **kwargs)

    made.model.forward = forward
    made.train()
    logged = [line for line in made.state.log_history if "loss" in line]
    return [line["loss"] for line in logged], logged[-1]["num_tokens"], sum(computed)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_training_learns_the_same_from_fewer_computed_tokens(tiny_model_dir, tmp_path, method):
    rows = [
        {
            "messages": [
                {"role": "system", "content": "You sort what people write to a shop, and nothing else."},
                *row["messages"],
            ]
        }
        for row in chat_rows(12)
    ]
    recipe = Recipe(
        model_name_or_path=str(tiny_model_dir), method=method, packing=True, packing_length=4096, max_steps=4,
        per_device_train_batch_size=1, learning_rate=1e-2, logging_steps=1, eval_steps=10, save_steps=10,
        dtype="float32",
    )  # fmt: skip
    found = {}
    for share in (False, True):
        (tmp_path / str(share)).mkdir()
        found[share] = trained(recipe.replace(share_prefix=share), tiny_model_dir, tmp_path / str(share), rows)
    (losses, tokens, computed), (mine, counted, fewer) = found[False], found[True]
    assert mine == pytest.approx(losses, rel=1e-3)
    assert counted == tokens and fewer < 0.8 * computed
    assert losses[-1] < losses[0]


def test_dropout_and_short_windows_share_nothing(tiny_model_dir, tmp_path):
    rows = [{"messages": [{"role": "system", "content": "Sort this."}, *row["messages"]]} for row in chat_rows(6)]
    encoded = encode(rows, load_tokenizer(tiny_model_dir), 512, tmp_path / "rows.arrow")
    recipe = Recipe(model_name_or_path=str(tiny_model_dir), share_prefix=True, packing=True)
    model = tiny("llama")
    model.config.sliding_window = None
    assert len(trainer.beginning_of(model, recipe, (encoded, None))) > 3
    assert trainer.beginning_of(model, recipe.replace(lora_dropout=0.1), (encoded, None)) == ()
    assert trainer.beginning_of(tiny("gpt2"), recipe, (encoded, None)) == ()
    assert trainer.beginning_of(tiny("mistral"), recipe, (encoded, None)) == ()  # a window of 16 tokens


def test_rows_that_keep_their_beginning_after_all_are_not_cut(tiny_model_dir, tmp_path):
    rows = [{"messages": [{"role": "system", "content": "Sort this. " * 20}, *row["messages"]]} for row in chat_rows(6)]
    encoded = encode(rows, load_tokenizer(tiny_model_dir), 512, tmp_path / "rows.arrow")
    recipe = Recipe(
        model_name_or_path=str(tiny_model_dir), share_prefix=True, packing=True, packing_length=64, lora_dropout=0.1,
        per_device_train_batch_size=1, logging_steps=1, eval_steps=1, save_steps=1, learning_rate=1e-3,
    )  # fmt: skip
    made = build_trainer(recipe, tiny_model_dir, tmp_path, (encoded, None), [], LAPTOP)
    assert made.beginning == ()
    assert sum(map(len, made.train_dataset["input_ids"])) == sum(map(len, encoded["input_ids"])) > 6 * 64


def test_the_plan_counts_the_beginning_once_a_pack():
    lengths, pinned = [200] * 240, {"packing_length": 512, "packing": True}
    plain, shared = (make_plan(Recipe(**pinned), SMALL, lengths, LAPTOP, shared=tokens) for tokens in (0, 150))
    assert (plain.recipe.share_prefix, shared.recipe.share_prefix) == (False, True)
    assert any("same 150 tokens" in reason for reason in shared.reasons)
    assert shared.tokens == plain.tokens and shared.tokens_per_second > 2 * plain.tokens_per_second
    assert shared.seconds < plain.seconds / 2
    # the head is met by every trained token all the same
    assert shared.flops_per_token > plain.flops_per_token * (50 * 240 / (200 * 240))
    assert 8 <= 512 / 50 * shared.recipe.gradient_accumulation_steps <= 16  # rows a step, 8 asked


@pytest.mark.parametrize(
    "changes, machine, shared, expected",
    [
        ({}, LAPTOP, 150, True),
        ({}, LAPTOP, 5, False),  # too few to pay
        ({}, LAPTOP, 0, False),
        ({}, A100, 150, False),  # not measured there
        ({"share_prefix": True}, A100, 150, True),
        ({"share_prefix": True}, LAPTOP, 0, False),
        ({"share_prefix": False}, LAPTOP, 150, False),
        ({"lora_dropout": 0.1}, LAPTOP, 150, False),
        ({"packing": False}, LAPTOP, 150, False),
        ({"num_processes": 2}, LAPTOP, 150, False),
    ],
)
def test_the_beginning_is_shared_where_it_is_exact_and_pays(changes, machine, shared, expected):
    assert make_plan(Recipe(**changes), SMALL, [200] * 240, machine, shared=shared).recipe.share_prefix is expected


@pytest.mark.parametrize(
    "changes, shared, why",
    [
        ({"packing": False}, 150, "not packed"),
        ({}, 0, "different tokens"),
        ({"lora_dropout": 0.1}, 150, "not be exact"),
        ({}, 150, ""),
    ],
)
def test_a_beginning_that_is_not_shared_as_asked_is_told(changes, shared, why):
    made = make_plan(Recipe(share_prefix=True, **changes), SMALL, [200] * 240, LAPTOP, shared=shared)
    told = [reason for reason in made.reasons if "not computed once, as was asked" in reason]
    assert [why in reason for reason in told] == ([True] if why else [])


def test_the_check_finds_what_the_worker_shares(tiny_model_dir, tmp_path):
    rows = [{"messages": [{"role": "system", "content": "Sort this."}, *row["messages"]]} for row in chat_rows(60)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    seen = look(Recipe(model_name_or_path=str(tiny_model_dir), dataset_name=str(path)))
    encoded = encode(seen.prepared.train, seen.tokenizer, 1024, tmp_path / "rows.arrow")
    assert seen.diagnosis.shared_tokens == len(shared_beginning([encoded])) > 3
    longer = look(seen.recipe.replace(max_length=512), earlier=seen)  # nothing is rendered again
    assert longer.diagnosis.shared_tokens == seen.diagnosis.shared_tokens
    other = [*rows[:-1], {"messages": [{"role": "system", "content": "Be kind."}, *rows[-1]["messages"][1:]]}]
    write_jsonl(path, other)
    assert look(seen.recipe).diagnosis.shared_tokens < seen.diagnosis.shared_tokens


@pytest.mark.parametrize(
    "lengths, changes",
    [
        ([200] * 239 + [0], {}),  # a row that the template refuses has no tokens
        ([200] * 239 + [40], {}),  # one that trains nothing may end before the others part
        ([200] * 240, {"max_length": 64}),  # all are cut within their beginning
    ],
)
def test_rows_that_end_within_the_beginning_of_the_others_are_planned(lengths, changes):
    made = make_plan(Recipe(**changes), SMALL, lengths, LAPTOP, shared=150)
    assert made.seconds > 0 and made.steps > 0
    assert made.recipe.share_prefix is ("max_length" not in changes)


def test_a_page_of_rows_cut_within_their_system_prompt_says_so(tiny_model_dir, tmp_path):
    """And has a plan all the same."""
    rows = [
        {"messages": [{"role": "system", "content": "Sort this. " * 40}, *row["messages"]]} for row in chat_rows(60)
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    seen = look(Recipe(model_name_or_path=str(tiny_model_dir), dataset_name=str(path), max_length=32))
    assert seen.diagnosis.verdict == "blocked" and seen.plan.steps > 0
