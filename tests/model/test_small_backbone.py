"""The backbone that the larger study begins from is whole or not there."""

from __future__ import annotations

import pytest
from scripts.make_small_backbone import write_untrained

from cocoa.backbones import Backbone


def test_a_backbone_that_is_killed_while_it_is_written_is_not_taken_for_made(tmp_path, monkeypatch):
    def killed(self, folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(Backbone, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        write_untrained(tmp_path / "untrained")
    assert not (tmp_path / "untrained").exists()
