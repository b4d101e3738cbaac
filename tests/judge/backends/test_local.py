from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flexgym.core.errors import CheckpointError
from flexgym.judge.backends.local import check_source
from flexgym.judge.sources import EMBEDDED_JUDGE, locate_judge

FILES = ["config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
CONTENTS = {
    "nested": ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested more than 100"),
    "cut": ("{", "cannot be read as JSON"),
    "list": ("[1]", "must hold a JSON object, got list"),
    "bytes": ("\x00\x01", "cannot be read as JSON"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", CONTENTS)
def test_json_of_a_checkpoint_is_checked_before_a_library_reads_it(tmp_path, name, content):
    source = Path(locate_judge(EMBEDDED_JUDGE))
    for path in source.glob("*.json"):
        shutil.copy(path, tmp_path)
    check_source(tmp_path)
    text, message = CONTENTS[content]
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        check_source(tmp_path)
    assert name in str(caught.value)
