"""Settings: every wrong file is refused in one line; the sample is what the field docs say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from milter_bounce import config
from milter_bounce.system.settings import LIMIT_BYTES, load_settings
from tests.conftest import ROOT

BAD = sorted((ROOT / "tests" / "bad_config").glob("*.toml"))


def test_sample_is_generated_from_the_field_docs():
    """conf/milter-bounce.toml is exactly what ``milter-bounce config`` prints."""
    assert (ROOT / "conf" / "milter-bounce.toml").read_text() == config.sample()


def test_sample_as_it_stands_is_the_default():
    """With every option commented out the sample gives the defaults, and so it does with every option set."""
    assert config.load(config.sample(), "sample") == config.Settings()
    uncommented = "\n".join(
        line[1:] if line.startswith("#") and " = " in line and not line.startswith("# ") else line
        for line in config.sample().splitlines()
    )
    assert config.load(uncommented, "sample") == config.Settings()


def test_every_option_has_its_manual():
    """No option stands without a text that says what it does."""
    sections = [config.Settings, *(type(f.default) for f in config.Settings.model_fields.values())]
    models = [s for s in sections if isinstance(s, type) and issubclass(s, config.BaseModel)]
    bare = [
        f"{model.__name__}.{name}"
        for model in models
        for name, info in model.model_fields.items()
        if not info.description and not isinstance(info.default, config.BaseModel)
    ]
    assert bare == []
    assert len(models) > 3


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.stem)
def test_bad_config_is_refused_in_one_line(path):
    """The one line names file, key, value and remedy."""
    expected = path.read_text().splitlines()[0].removeprefix("# expect: ")
    with pytest.raises(config.ConfigError) as caught:
        load_settings(path)
    line = str(caught.value)
    assert expected in line
    assert "\n" not in line


def test_bad_config_does_not_start_a_program():
    """``milterd -c`` with a wrong file prints the line and ends with status 2."""
    path = ROOT / "tests" / "bad_config" / "bad-mode.toml"
    ran = subprocess.run(
        [sys.executable, "-m", "milter_bounce", "milterd", "-c", str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert "mode = 'strict'" in ran.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"mode = '\xff'", "is not UTF-8 at byte 8", id="not-utf-8"),
        pytest.param(b"#" * (LIMIT_BYTES + 1), "is larger than 1 MiB", id="too-large"),
        pytest.param(None, "cannot be read: No such file or directory", id="missing"),
    ],
)
def test_unreadable_config_is_refused(tmp_path, content, says):
    """A file that is no configuration at all says so."""
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(config.ConfigError, match=says):
        load_settings(path)


def test_output_to_a_file_without_a_name_is_refused():
    """A log that can never be written is a wrong configuration."""
    with pytest.raises(config.ConfigError, match=r"log\.output_file = '': .*absolute/path"):
        config.load('[log]\noutput = "file"\n', "x.toml")


def test_output_file_may_be_left_out_elsewhere():
    """Without output = "file" the name is not looked at."""
    assert config.load('[log]\noutput = "stdout"\n', "x.toml").log.output_file == ""


def numbers():
    """Yield every numeric option with its section's class and its key."""
    sections = [config.Settings, *(type(f.default) for f in config.Settings.model_fields.values())]
    for model in sections:
        if isinstance(model, type) and issubclass(model, config.BaseModel):
            for name, info in model.model_fields.items():
                if info.annotation in {int, float}:
                    yield pytest.param(model, name, id=f"{model.__name__}.{name}")


@pytest.mark.parametrize(("model", "name"), list(numbers()))
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 10**12, 10**400, -1])
def test_no_number_is_endless_or_absurd(model, name, value):
    """Every numeric option has an end on both sides: none makes a time that no calendar holds."""
    with pytest.raises(config.ValidationError):
        model.model_validate({name: value})


@pytest.mark.parametrize(("model", "name"), list(numbers()))
@pytest.mark.parametrize("value", [True, False, "1", "1.0"])
def test_number_is_a_number(model, name, value):
    """TOML has types: neither a boolean nor a string stands for a number, in any option."""
    with pytest.raises(config.ValidationError):
        model.model_validate({name: value})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[block]\nthreshold = 1" + "0" * 5000, id="digits"),
        pytest.param("[block]\nthreshold = 0x" + "f" * 5000, id="hex-digits"),
        pytest.param("mode = 0x" + "f" * 5000, id="hex-digits-for-a-word"),
        pytest.param("x = " + "[" * 100_000, id="arrays"),
        pytest.param("a" + ".a" * 5_000 + " = 1", id="tables"),
    ],
)
def test_toml_that_breaks_its_reader_is_refused_in_one_line(text):
    """What tomllib, int() or repr() choke on is a wrong configuration, and nothing else."""
    with pytest.raises(config.ConfigError) as caught:
        config.load(text, "x.toml")
    assert str(caught.value).startswith("x.toml: ")
    assert "\n" not in str(caught.value)
