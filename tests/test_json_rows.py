"""JSON of any size, read a block at a time."""

from __future__ import annotations

import json

from prepared_rows import PAIRS, prepared_from

from finetune_core.data.json_rows import json_values


def test_a_json_file_is_read_in_blocks(tmp_path):
    class Slow:
        """A file that gives seven characters at a time."""

        def __init__(self, text):
            self.text, self.at = text, 0

        def read(self, _):
            self.at += 7
            return self.text[self.at - 7 : self.at]

    for content in (json.dumps(PAIRS), json.dumps(PAIRS, indent=3), json.dumps({"a": 1.25, "rows": PAIRS, "b": "]"})):
        assert [record.value for record in json_values(Slow(content))] == PAIRS


def test_splits_inside_a_json_object_are_kept(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"train": PAIRS[:20], "test": PAIRS[20:]}))
    prepared = prepared_from(tmp_path / "x.json", validation_size=0)
    assert (len(prepared.train), len(prepared.test)) == (20, 20)
