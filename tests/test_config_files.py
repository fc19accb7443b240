from pathlib import Path

import pytest

from moa_dspy.config import MoAConfig, ModelConfig


def refusal(folder: Path, text: str | bytes, name: str = "moa.yaml") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as raised:
        MoAConfig.load(path)
    return str(raised.value).replace(f"{folder}/", "")


def test_an_error_names_the_file_the_line_and_the_key(tmp_path: Path) -> None:
    text = "proposer_models:\n  - openai/a\n  - model: openai/b\n    temperatur: 0.5\n\nlimits:\n  strict: maybe\n"
    first, second = refusal(tmp_path, text).splitlines()
    assert first.startswith("moa.yaml, line 4: proposer_models, entry 2, temperatur: unknown key. Did you mean 'temper")
    assert second.startswith("moa.yaml, line 7: limits, strict: Input should be a valid boolean")


def test_the_line_of_something_missing_is_that_of_what_it_is_missing_in(tmp_path: Path) -> None:
    text = "layers: 1\nproposer_models:\n  - openai/a\n  - name: b\n"
    assert refusal(tmp_path, text) == (
        "moa.yaml, line 4: proposer_models, entry 2, model: the key is missing. Required: model."
    )
    assert refusal(tmp_path, "layers: 1\n").startswith("moa.yaml, line 1: proposer_models: the key is missing.")


def test_json_has_lines_too(tmp_path: Path) -> None:
    text = '{\n\t"proposer_models": ["openai/a"],\n\t"layers": 0\n}'
    assert refusal(tmp_path, text, "moa.json") == (
        "moa.json, line 3: layers: Input should be greater than or equal to 1."
    )


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("moa.yaml", "layers: 2\nproposer_models: [a\n", "line 3: no valid YAML: expected ',' or ']'"),
        ("moa.yaml", "layers: 2\n\tx: 1\n", "line 2: no valid YAML: "),
        ("moa.yaml", "layers: 2\n---\nlayers: 3\n", "line 2: no valid YAML: but found another document."),
        ("moa.yaml", "layers: 2\nx: \x00\n", "line 2: no valid YAML: special characters are not allowed."),
        ("moa.yaml", "layers: !!python/name:os.system\n", "line 1: no valid YAML: could not determine a constructor"),
        ("moa.yaml", "layers: 2\nx: &x [*x]\n", "line 2: this holds itself, so it has no end."),
        ("moa.yml", b"layers: 2\nx: \xff\n", "line 2: not UTF-8. Save the file as UTF-8."),
        ("moa.json", '{\n"layers": 2,,\n}', "line 2: no valid JSON: Expecting property name"),
    ],
)
def test_what_cannot_be_read_names_the_line(tmp_path: Path, name: str, text: str | bytes, what: str) -> None:
    assert refusal(tmp_path, text, name).startswith(f"{name}, {what}")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("moa.yaml", "layers: 2\nlimits:\n  strict: true\n  strict: false\n", ", line 4"),
        ("moa.json", '{"layers": 2,\n "limits": {"strict": true,\n "strict": false}}', ", line 3"),
        # What YAML takes for no text: JSON knows no line of it.
        ("moa.json", '{"router": "\x7f", "limits": {"strict": true, "strict": false}}', ""),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, name: str, text: str, line: str) -> None:
    assert refusal(tmp_path, text, name) == (
        f"{name}{line}: the key 'strict' is given twice, so one of the two would be ignored. Keep one."
    )


@pytest.mark.parametrize(("text", "found"), [("", "nothing"), ("- a\n", "a list"), ("a", "a str")])
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str, found: str) -> None:
    assert refusal(tmp_path, text).startswith(f"moa.yaml holds {found} where a mapping of settings belongs")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no config file .*moa\.yaml"):
        MoAConfig.load(tmp_path / "moa.yaml")


@pytest.mark.parametrize("name", ["moa.toml", "moa"])
def test_another_format_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"must end in \.yaml, \.yml, \.json"):
        MoAConfig(proposer_models=["a"]).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"must end in \.yaml, \.yml, \.json"):
        MoAConfig.load(tmp_path / name)


def test_anchors_and_merges_are_read(tmp_path: Path) -> None:
    path = tmp_path / "moa.yaml"
    path.write_text(
        "proposer_models:\n  - &warm {model: openai/a, temperature: 0.7}\n  - {<<: *warm, model: openai/b}\n"
    )
    assert MoAConfig.load(path).proposer_models == [
        ModelConfig(model="openai/a", temperature=0.7),
        ModelConfig(model="openai/b", temperature=0.7),
    ]


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "moa.yaml"
    path.write_bytes(b"\xef\xbb\xbfproposer_models: [openai/a]\n")
    assert MoAConfig.load(path).proposer_models == ["openai/a"]
