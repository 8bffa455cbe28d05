"""The arrows between the rooms: one way, and few."""

import doctest
import importlib
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "trl", "peft")


def imports_of(path: Path) -> set[str]:
    """Top-level names that a file imports anywhere."""
    return set(re.findall(r"^\s*(?:from|import)\s+([A-Za-z_]\w*)", path.read_text(encoding="utf-8"), re.M))


def test_the_core_never_imports_gradio():
    assert [f.name for f in (ROOT / "finetune_core").rglob("*.py") if "gradio" in imports_of(f)] == []


def test_the_screen_never_imports_the_torch_family():
    files = [*(ROOT / "finetune_ui").glob("*.py"), ROOT / "app.py"]
    assert {f.name: imports_of(f) & set(HEAVY) for f in files if imports_of(f) & set(HEAVY)} == {}


PANELS = ("choose", "check", "watch", "prove", "talk", "share")


@pytest.mark.parametrize("panel", PANELS)
def test_panels_do_not_import_each_other(panel):
    text = (ROOT / "finetune_ui" / f"{panel}.py").read_text(encoding="utf-8")
    others = "|".join(name for name in PANELS if name != panel)
    found = re.findall(rf"(?:from \.(?:{others}) import|from \. import [^\n]*\b(?:{others})\b(?! as))", text)
    assert [line for line in found if "finetune_core" not in line] == []


@pytest.mark.parametrize(
    "module",
    ["finetune_core", "finetune_core.run", "finetune_core.launch", "finetune_core.preflight", "finetune_core.data",
     "finetune_core.check", "finetune_core.render", "finetune_core.cli", "finetune_core.starter",
     "finetune_core.jobs.follow", "finetune_core.jobs.hardware",
     "finetune_ui"],
)  # fmt: skip
def test_importing_it_leaves_torch_out(module):
    code = f"import sys, {module}; print([m for m in ('torch','gradio') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert said.strip() == "[]"


def test_the_readme_names_every_room_of_the_core():
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## How it is built")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([\w*]+)/?`", table))
    core = {path.stem for path in (ROOT / "finetune_core").iterdir() if not path.name.startswith("__")}
    others = {path.stem for path in [*ROOT.iterdir(), *(ROOT / "finetune_ui").glob("*.py")]}
    assert [room for room in core if not any(fnmatch(room, name) for name in named)] == []
    assert [name for name in named if not any(fnmatch(room, name) for room in core | others)] == []


def test_no_file_runs_a_shell_or_foreign_model_code():
    for path in [*ROOT.glob("finetune_*/**/*.py"), ROOT / "app.py"]:
        text = path.read_text(encoding="utf-8")
        assert "os.system" not in text and "shell=True" not in text, path.name
        assert "trust_remote_code=True" not in text, path.name
        assert "share=True" not in text, path.name


def test_every_loader_says_that_it_runs_no_foreign_code():
    for path in (ROOT / "finetune_core").rglob("*.py"):
        for call in re.finditer(
            r"\bAuto\w+\.from_pretrained\((?:[^()]|\([^()]*\))*\)", path.read_text(encoding="utf-8")
        ):
            if "{place}" not in call.group():  # the snippet on the model card: a text, where False is the default
                assert "trust_remote_code=False" in call.group(), f"{path.name}: {call.group()[:80]}"


WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(ROOT.glob("finetune_*/**/*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_in_docstrings_are_true(module, tiny_tokenizer):
    assert doctest.testmod(importlib.import_module(module), extraglobs={"tokenizer": tiny_tokenizer}).failed == 0
