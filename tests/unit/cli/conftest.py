"""A configuration, its store, and the command line on both."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from milter_bounce.cli import main
from milter_bounce.system.sqlite_store import SqliteStore


@pytest.fixture
def mode():
    return "advise"


@pytest.fixture
def conf(tmp_path, mode):
    path = tmp_path / "milter-bounce.toml"
    path.write_text(
        f'mode = "{mode}"\n[store]\npath = "{tmp_path}/state.db"\n'
        f'[log]\noutput = "file"\noutput_file = "{tmp_path}/mail.log"\n',
        encoding="utf-8",
    )
    return path


@pytest.fixture
def store(tmp_path):
    return SqliteStore(tmp_path / "state.db")


@pytest.fixture
def run(conf):
    def command(*words, text=None):
        return CliRunner().invoke(main, [*words, "-c", str(conf)], input=text, catch_exceptions=False)

    return command
