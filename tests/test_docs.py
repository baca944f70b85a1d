"""The prose tells the truth: its code runs, its commands exist, its tables are those of the registry and the zoo.

python tests/test_docs.py      # writes the generated tables of README.md anew
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md"))]
DOCUMENTS += sorted((ROOT / "data").rglob("*.md"))
LESSONS = sorted((ROOT / "notebooks").glob("[!.]*.ipynb"))
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FOLDERS = ("workbench/", "tests/", "data/", "notebooks/")
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [body for _, name, body in FENCED.findall(text) if name == language]


def commands(text: str) -> list[str]:
    """Every `workbench VERB ...` and `make TARGET` in blocks for the shell and in inline code."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", FENCED.sub("", text))
    return [line.strip() for line in lines if re.match(r"\s*(workbench|make|python -m|pip) ", line)]


# The generated tables.


def tables() -> dict[str, str]:
    """Marker -> the table between `<!-- marker -->` and `<!-- /marker -->` of README.md."""
    from workbench.methods.docs import grid_table, method_table
    from workbench.model.zoo.docs import zoo_table

    return {"methods": method_table(), "grid": grid_table(), "zoo": zoo_table()}


def with_tables(text: str) -> str:
    """The text with the tables as they are now."""
    for marker, table in tables().items():
        before, after = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
        assert text.count(before) == text.count(after) == 1, f"README.md has no markers for {marker}"
        start, stop = text.index(before) + len(before), text.index(after)
        text = f"{text[:start]}{table}\n{text[stop:]}"
    return text


def test_the_tables_are_those_of_the_registry_and_the_zoo():
    text = README.read_text("utf-8")
    assert text == with_tables(text), "refresh them: python tests/test_docs.py"


def test_every_method_and_every_trained_model_has_its_row():
    from workbench.grid import Scheme
    from workbench.methods import METHODS, parameters_of
    from workbench.methods.docs import own_parameters
    from workbench.model import zoo

    made = tables()
    for name in METHODS:
        (row,) = [line for line in made["methods"].splitlines() if line.startswith(f"| `{name}` ")]
        assert all(f"`{parameter.name}`" in row for parameter in own_parameters(METHODS[name]))
        assert len(re.findall(r"(?<!\\)\|", row)) == 8, "a bar in a cell is escaped"
    assert all(f"| `{parameter.name}` |" in made["grid"] for parameter in parameters_of(Scheme))
    for entry in zoo.MODELS:
        assert (f"[`{entry.name}`]" in made["zoo"]) == (entry.folder / "training.json").is_file()


def test_a_table_that_is_out_of_date_is_found():
    text = README.read_text("utf-8")
    stale = re.sub(r"(perplexity: \w+) [\d.]+", r"\1 1.0", text)
    assert stale != text
    assert with_tables(stale) == with_tables(text)


# Code and commands.


@pytest.mark.parametrize(
    ("path", "code"),
    [
        pytest.param(path, code, id=f"{path.name}-{number}")
        for path in DOCUMENTS
        for number, code in enumerate(blocks(path.read_text("utf-8"), "python"))
    ],
)
def test_the_python_runs_as_printed(path, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"{path.name}", "exec"), {"__name__": "__main__"})
    if path == README:
        said, files = capsys.readouterr().out, {each.name for each in tmp_path.iterdir()}
        exports, density = "tiny-llama-4bit" in files, "density.html" in files
        assert exports != density, "one block exports, the other draws a density"
        words = ("perplexity", "relative_error") if exports else ("after_alpha", "edge", "matched")
        assert all(word in said for word in words)


def test_the_readme_runs_ten_lines():
    code = blocks(README.read_text("utf-8"), "python")[0]
    assert len([line for line in code.splitlines() if line]) == 10


@pytest.mark.parametrize("text", blocks(README.read_text("utf-8"), "yaml"))
def test_the_recipes_are_recipes_for_the_embedded_model(text):
    import workbench as wb

    recipe = wb.Recipe.from_yaml(text)
    assert wb.plan(wb.load("tiny-llama"), recipe).work


def shell() -> dict[str, set[str]]:
    """Verb -> its options, from the command itself."""
    from workbench import cli

    found = typer.main.get_command(cli.app).commands.items()  # type: ignore[attr-defined]
    return {name: {o for p in verb.params for o in (*p.opts, *p.secondary_opts)} for name, verb in found}


def faults(line: str) -> list[str]:
    """What is wrong with a command of the documents."""
    words, verbs = shlex.split(line, comments=True), shell()
    if words[0] == "workbench":
        verb = words[1]
        if verb == "VERB":
            return []
        if verb not in verbs:
            return [f"there is no verb {verb}"]
        options = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--help"}
        return [f"{verb} has no {option}" for option in sorted(options - verbs[verb])]
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return [f"there is no target {w}" for w in words[1:] if "=" not in w and w not in targets]
    if words[:2] == ["python", "-m"] and words[2].startswith("workbench"):
        return [] if importlib.util.find_spec(words[2]) else [f"there is no module {words[2]}"]
    return []


@each_document
def test_its_commands_exist(path):
    assert {line: faults(line) for line in commands(path.read_text("utf-8")) if faults(line)} == {}


def test_the_readme_shows_every_verb():
    shown = {line.split()[1] for line in commands(README.read_text("utf-8")) if line.startswith("workbench")}
    assert set(shell()) <= shown


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("workbench mesure tiny-llama", "there is no verb mesure"),
        ("workbench layers tiny-llama --recipe r.yaml", "layers has no --recipe"),
        ("make labs", "there is no target labs"),
        ("python -m workbench.model.zoo.train_everything", "there is no module"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line, fault):
    assert commands(f"Say `{line}`.\n\n```sh\n{line}\n```\n") == [line, line]
    assert fault in faults(line)[0]


@each_document
def test_its_links_and_paths_lead_somewhere(path):
    text = path.read_text("utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [link for link in links if not link.startswith("http") and not (path.parent / link).exists()]
    named = [name for name in re.findall(r"`([\w./-]+)`", FENCED.sub("", text)) if name.startswith(FOLDERS)]
    # A name in capitals stands for one that the reader chooses; the artefacts come from a run of the tests.
    named = [name for name in named if not re.search(r"[A-Z]{3}", name) and name != "tests/artifacts"]
    assert missing + [name for name in named if not (ROOT / name).exists()] == []


@each_document
def test_its_words_are_the_houses(path):
    text = re.sub(r"`[^`\n]+`", "", FENCED.sub("", path.read_text("utf-8")))
    assert re.findall(r"\b(simply|powerful|neighbor\w*|color\w*|behavior\w*|license)\b", text) == []


# The lessons and the data.


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_made_for_any_kernel_and_waits_to_be_run(path):
    notebook = json.loads(path.read_text("utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    if path.name != "00_start.ipynb":
        assert not notebook["metadata"].get("workbench", {}).get("run_on_open", False)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))


def test_every_folder_of_data_has_a_card_and_all_of_them_are_small():
    from workbench.model.zoo import MODELS

    data, fetched = ROOT / "data", {entry.name for entry in MODELS if entry.target}  # git leaves those out
    folders = [folder for folder in data.iterdir() if folder.is_dir() and folder.name not in fetched]
    assert [folder.name for folder in folders if not (folder / "README.md").is_file()] == []
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 30e6


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text("utf-8")), "utf-8")
