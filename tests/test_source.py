"""Where rows come from: a name that leads nowhere is refused with a way out."""

from __future__ import annotations

import pytest

from finetune_core.data import prepare
from finetune_core.errors import FinetuneError
from finetune_core.recipe import Recipe


@pytest.mark.parametrize("name", ["nowhere.csv", "./nowhere", "/nowhere/at/all", "https://example.com/x.csv", "a b c"])
def test_what_does_not_exist_is_refused_with_a_way_out(name):
    with pytest.raises(FinetuneError) as caught:
        prepare(Recipe(dataset_name=name))
    assert caught.value.code == "no-file"
    assert "owner/name" in caught.value.fix
