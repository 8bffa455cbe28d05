"""What leaves is what was trained: loaded again and asked the same, or it does not leave."""

import json
import shutil

import pytest
import yaml
from conftest import chat_rows, write_jsonl
from filelock import FileLock
from tuned import make_tuned_run

from finetune_core import cli, launch
from finetune_core.errors import FinetuneError
from finetune_core.takeaway import merge
from finetune_core.takeaway.export import bytes_needed, export
from finetune_core.takeaway.parity import ALLOWED, Trace, judge, require

ANSWER = [5, 6, 7]


def traced(answer=ANSWER, *, ended=True, logprobs=(-0.1, -0.2, -0.3), margins=(2.0, 2.0, 2.0, 2.0)):
    return Trace(list(answer), ended, list(logprobs), list(margins))


def judged(reference, exported, format="bfloat16"):
    return judge([reference], [exported], format, engine="transformers", split="test")


# --- the judgement, on numbers ---


def test_the_same_answer_with_the_same_log_probabilities_passes():
    found = judged(traced(), traced())
    assert (found.same, found.compared, found.logprob_mean, found.passed) == (1, 1, 0.0, True)


@pytest.mark.parametrize(
    ("exported", "why"),
    [
        (traced([5, 9, 7]), "another token where the tuned model was sure"),
        (traced([5, 6]), "an answer that ends too early"),
        (traced(ended=False), "an answer that does not end"),
        (traced(logprobs=(-0.1, -0.2, -0.9)), "log-probabilities that are off by more than rounding"),
        (traced(logprobs=(-0.1, float("nan"), -0.3)), "log-probabilities that are not numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_different_model_fails(exported, why):
    assert not judged(traced(), exported).passed, why


def test_parting_at_a_near_tie_is_no_mistake_and_is_not_called_the_same():
    found = judged(traced(margins=(2.0, 0.01, 2.0, 2.0)), traced([5, 9]))
    assert (found.same, found.ties, found.passed) == (0, 1, True)


def test_four_bits_may_answer_otherwise_but_not_be_another_model():
    assert judged(traced(), traced([5, 9, 7]), "q4_0").passed
    assert not judged(traced(), traced(logprobs=(-3.1, -3.2, -3.3)), "q4_0").passed


@pytest.mark.parametrize(
    ("off", "answers", "bound", "passes"),
    [
        (0.03, [ANSWER, ANSWER], 0.04, True),
        (0.05, [ANSWER, ANSWER], 0.04, False),  # the same words, but not as sure of them
        (0.05, [ANSWER, [5, 9]], 0.1, True),  # undecided at every word, and parts where it was
        (0.11, [ANSWER, [5, 9]], 0.1, False),
        (0.05, [[5, 6, 9], [5, 9]], 0.04, False),  # one of them parts where it was sure
        (0.0, [[5, 6, 9], [5, 9]], 0.04, False),
    ],
)
def test_eight_bits_may_be_further_off_only_where_each_answer_that_parts_is_a_near_tie(off, answers, bound, passes):
    undecided = traced(logprobs=(-1.15, -1.2, -1.35), margins=(2.0, 0.3, 2.0, 2.0))
    exported = [traced(answer, logprobs=tuple(p - off for p in undecided.logprobs)) for answer in answers]
    found = judge([undecided] * 2, exported, "q8_0", engine="llama.cpp", split="test")
    assert (found.allowed, found.passed) == (bound, passes)


def test_nothing_compared_is_nothing_proven():
    assert not judge([], [], "float32", engine="transformers", split="test").passed


def test_a_failed_comparison_says_the_numbers():
    with pytest.raises(FinetuneError, match="1 of 1 answers differ") as caught:
        require(judged(traced(), traced([5, 9, 7])))
    assert caught.value.code == "parity-failed"


def test_a_narrower_format_is_allowed_more():
    order = ["float32", "float16", "bfloat16", "q8_0", "q4_0"]
    allowed = [ALLOWED[name].logprob for name in order]
    assert allowed == sorted(allowed)


# --- the whole, on a real model ---


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir):
    run = make_tuned_run(tmp_path_factory.mktemp("runs"), tiny_model_dir, max_new_tokens=12)
    for name, rows in (("train", chat_rows(40)[:20]), ("test", chat_rows(40)[20:])):
        write_jsonl(run.path / "data" / f"{name}.jsonl", rows)
    (run.path / "data" / "card.json").write_text(json.dumps({"rows": {"train": 20, "test": 20}}))
    return run


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def merged(run, told, tmp_path_factory):
    """A merged export: (what export gave, its folder)."""
    output = tmp_path_factory.mktemp("out") / "merged"
    return export(run, "merged", output, tell=lambda kind, **data: told.append(data["name"])), output


def test_merged_weights_give_every_answer_of_the_adapter(merged):
    parity = merged[0]["parity"]
    assert (parity["same"], parity["compared"], parity["split"]) == (20, 20, "test")
    assert parity["logprob_mean"] < 1e-4


def test_the_merged_model_is_not_the_base_model(merged, tiny_model_dir):
    from safetensors.torch import load_file

    ours, base = load_file(merged[1] / "model.safetensors"), load_file(tiny_model_dir / "model.safetensors")
    assert {name.split(".")[-2] for name in ours if not ours[name].equal(base[name])} >= {"q_proj", "down_proj"}
    assert ours["model.embed_tokens.weight"].equal(base["model.embed_tokens.weight"])


def test_a_stranger_loads_the_merged_folder_with_its_template(merged, run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(merged[1], trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(merged[1], trust_remote_code=False)
    assert str(model.dtype) == "torch.float32"
    assert tokenizer.chat_template == (run.result_dir / "chat_template.jinja").read_text()


def test_an_export_names_its_files_and_says_where_it_is(merged):
    made, output = merged
    assert made["path"] == str(output)
    assert {"model.safetensors", "README.md", "recipe.yaml", "parity.json", "tokenizer.json"} <= set(made["files"])
    assert made["files"] == sorted(str(file.relative_to(output)) for file in output.rglob("*") if file.is_file())


def test_an_export_tells_its_stages(merged, told):
    assert list(dict.fromkeys(told)) == ["fetching", "merging", "comparing", "saving"]


def test_no_file_of_an_export_knows_a_path_of_this_machine(merged, tiny_model_dir):
    for file in merged[1].glob("*.*"):
        if file.name != "model.safetensors":
            assert str(tiny_model_dir.parent) not in file.read_text(), file.name


def test_the_adapter_is_exported_as_it_was_trained(run, tmp_path):
    made = export(run, "adapter", tmp_path / "adapter")
    assert (made["parity"]["same"], made["parity"]["compared"]) == (20, 20)
    name = "adapter_model.safetensors"
    assert (tmp_path / "adapter" / name).read_bytes() == (run.result_dir / name).read_bytes()
    assert "training_args.bin" not in made["files"]


def test_both_sides_of_a_comparison_compute_in_the_same_format_whatever_memory_is_left(run, tmp_path, monkeypatch):
    """torch keeps what the first model took, so a second look at the free memory would choose another."""
    from finetune_core import model
    from finetune_core.machine import Machine

    looks, loaded, freed, load = [], [], [], model.load_base

    def shrinking():
        looks.append(1)
        return Machine(cores=2, memory_gb=8, available_gb=8 if len(looks) == 1 else 0, gpus=(), kind="cpu")

    monkeypatch.setattr("finetune_core.takeaway.export.this_machine", shrinking)
    monkeypatch.setattr(model, "load_base", lambda *at, **how: loaded.append(how["dtype"]) or load(*at, **how))
    monkeypatch.setattr(model, "free_memory", lambda: freed.append(len(loaded)))
    assert export(run, "adapter", tmp_path / "adapter")["parity"]["passed"]
    assert loaded == ["float32", "float32"] and freed == [1]


def test_a_fully_tuned_model_is_exported_whole(runs_dir, tiny_model_dir, tmp_path):
    run = make_tuned_run(runs_dir, tiny_model_dir, method="full", max_new_tokens=6)
    made = export(run, "merged", tmp_path / "out")  # it has no rows: plain questions are asked
    assert made["parity"]["split"] == "plain questions" and made["parity"]["passed"]


def test_an_export_that_answers_otherwise_is_not_kept(run, tmp_path, monkeypatch):
    real = merge.merge

    def forgetful(run, base, folder):
        real(run, base, folder)
        shutil.copyfile(base / "model.safetensors", folder / "model.safetensors")  # the adapter is lost

    monkeypatch.setattr("finetune_core.takeaway.export.merge", forgetful)
    with pytest.raises(FinetuneError) as caught:
        export(run, "merged", tmp_path / "out" / "merged")
    assert caught.value.code == "parity-failed"
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_with_another_template_is_not_kept(run, tmp_path, monkeypatch):
    real = merge.merge

    def other_template(run, base, folder):
        real(run, base, folder)
        path = folder / "chat_template.jinja"
        path.write_text(path.read_text().replace("assistant\n", "assistant \n"))

    monkeypatch.setattr("finetune_core.takeaway.export.merge", other_template)
    with pytest.raises(FinetuneError, match="otherwise than in training"):
        export(run, "merged", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_folder_with_files_is_never_written_into(run, tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(FinetuneError) as caught:
        export(run, "merged", tmp_path)
    assert caught.value.code == "not-empty" and (tmp_path / "mine.txt").read_text() == "kept"


def test_too_little_disk_is_said_before_anything_is_made(run, tmp_path, monkeypatch):
    monkeypatch.setattr("finetune_core.files.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(FinetuneError, match="are free on the disk") as caught:
        export(run, "merged", tmp_path / "out")
    assert caught.value.code == "disk-full" and not (tmp_path / "out").exists()


def test_what_an_export_needs_follows_from_the_weights(run, tiny_model_dir):
    weights = merge.count_weights(tiny_model_dir)
    assert bytes_needed(run, tiny_model_dir, "merged") == 4 * weights
    assert bytes_needed(run, tiny_model_dir, "gguf", ("f16",)) == 6 * weights


# --- the command ---


def test_the_export_verb_answers_with_one_json_object(run, tmp_path, capsys):
    code = cli.main(["export", str(run.path), "--to", "merged", "--output", str(tmp_path / "out"), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert code == 0 and said["path"] == str(tmp_path / "out") and said["parity"]["same"] == 20
    last = launch.taking(run, "merged").said()
    assert last.outcome == "finished" and last.made["files"] == said["files"]


def test_a_refused_export_is_an_error_in_words(run, tmp_path, capsys):
    (tmp_path / "there").write_text("")
    code = cli.main(["export", str(run.path), "--to", "merged", "--output", str(tmp_path / "there"), "--json"])
    assert code == 1 and json.loads(capsys.readouterr().out)["error"]["code"] == "not-empty"
    assert launch.taking(run, "merged").said().error["code"] == "not-empty"


def test_two_exports_of_a_run_do_not_work_at_once(run, tmp_path, capsys):
    with FileLock(run.path / ".take.lock"):
        code = cli.main(["export", str(run.path), "--to", "gguf", "--output", str(tmp_path / "out"), "--json"])
    assert code == 1 and json.loads(capsys.readouterr().out)["error"]["code"] == "busy"
    assert launch.taking(run, "gguf").said() is None


def test_an_export_whose_process_died_is_not_called_busy(run):
    with pytest.raises(SystemExit), launch.taking(run, "gguf").working() as say:
        say(0.5, stage="merging")
        died = (run.path / "take-gguf.json").read_text()
        raise SystemExit
    (run.path / "take-gguf.json").write_text(died)
    said = launch.taking(run, "gguf").said()
    assert said.outcome == "failed" and said.error["code"] == "interrupted"


def test_the_card_of_an_export_is_one_that_the_hub_reads(merged):
    text = (merged[1] / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "transformers" and front["pipeline_tag"] == "text-generation"
    assert "base_model" not in front  # a folder of this machine is no name on the Hub
    assert "20 of 20" in text
