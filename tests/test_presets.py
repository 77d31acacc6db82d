"""Every line of the published system has its line here, and all of them resolve without a network or a model."""

import shlex
import socket
from typing import Any

import pytest
import typer

from ssd_lib.attacks import SETS, find_set
from ssd_lib.cli import app
from ssd_lib.defenders import DEFENDERS
from ssd_lib.experiments import PRESETS, experiment, plan, presets, published_commands, published_matrix
from ssd_lib.paths import REPOSITORY
from ssd_lib.toy import world

COMMAND = typer.main.get_command(app)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a dry run asks no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def dry_run(command, capsys):
    """What `ssd run … --dry-run` prints."""
    COMMAND.main([*shlex.split(command)[1:], "--dry-run"], prog_name="ssd", standalone_mode=False)
    return capsys.readouterr().out


def test_the_matrix_is_every_model_attacker_and_defender_once():
    matrix = published_matrix()
    assert list(matrix) == ["model", "attacker", "defender", "command"]
    assert len(matrix) == 4 * 15 * 9 == len(matrix.drop_duplicates(["model", "attacker", "defender"]))
    assert matrix.command.is_unique


def test_every_line_of_the_matrix_runs_dry(capsys):
    line: Any
    for line in published_matrix().itertuples():
        out = dry_run(line.command, capsys)
        assert f"pair        {presets.find_pair(line.model).name}\n" in out
        assert out.count("\nattack set  ") == out.count("\ndefender    ") == 1
        assert "[INST]" in out or "USER:" in out or "<|start_header_id|>" in out, "a prompt is rendered"
        published = line.defender.lower()
        ours = {"speculativesafedecoding": "ssd", "defense_off": "none"}.get(published, published)
        assert f"\ndefender    {ours}" in out


def test_the_six_commands_run_dry_with_the_published_settings(capsys):
    commands = published_commands()
    assert len(commands) == 6
    line: Any
    for line in commands.itertuples():
        out = dry_run(line.command, capsys)
        alphas = (0.45, 2.0) if line.model == "vicuna" else (0.3, 0.8)
        assert "alpha_intersection={}, alpha_union={}".format(*alphas) in out
        items = 1319 if line.attacker == "gsm8k" else 330
        assert f"answers     {2 * items}, at most 1024 tokens each, seed 0" in out
        assert "warning: there is no draft at ./runs/tinyllama/deep yet" in out and "ssd train" in out


@pytest.mark.parametrize(
    ("published", "alphas"), [("llama2-13b-chat", (0.3, 0.8)), ("llama2-7b-chat", (0.3, 0.8)), ("vicuna", (0.45, 2))]
)
def test_a_published_command_line_is_understood_as_it_stands(published, alphas, capsys):
    out = dry_run(
        f"ssd run --model_name {published} --spec_alpha1 {alphas[0]} --spec_alpha2 {alphas[1]} "
        "--attacker Harmful-HEx-PHI_with_prefix20tokens_llama2 --defender SpeculativeSafeDecoding",
        capsys,
    )
    assert f"ssd:alpha_intersection={alphas[0]}:alpha_union={float(alphas[1])}" in out
    assert "hex-phi-prefill-20: 330 items" in out and "warning: --draft PATH is missing" in out


def test_defense_off_is_none_and_needs_no_draft(capsys):
    out = dry_run("ssd run --model_name Vicuna --attacker gsm8k --defense_off", capsys)
    assert "defender    none (model=None)\n" in out and "draft" not in out and "answers     1319" in out


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_resolves_for_every_pair_it_is_for(name):
    pairs = (
        ["toy"]
        if name in ("embedded", "knowing") or name.startswith("hardened")
        else ["llama2", "llama2-13b-chat", "vicuna", "llama3.1_8b"]
    )
    for pair in pairs:
        found = plan(experiment(preset=name, pair=pair))
        assert found.generations and found.config.out.name == f"{name}-{pair}"
        assert {judge.name for judge in found.config.judges} <= {"exact", "refusal", "gsm8k"}, (
            "no judge costs money unasked"
        )


def test_the_embedded_preset_holds_all_that_is_embedded_fifty_items_each():
    config = experiment(preset="embedded")
    assert {each.name for each in config.defenders} == set(DEFENDERS)
    knowing = {each.name for each in experiment(preset="knowing").attacks}
    embedded = {name for name, each in SETS.items() if each.kind == "embedded"}
    assert {each.name for each in config.attacks} | knowing == embedded
    assert {"rap", "slow", "pieces-1"} <= knowing - {each.name for each in config.attacks}
    assert config.limit == 50


def test_what_is_given_stands_above_a_preset_or_a_file(tmp_path):
    chosen = experiment(
        preset="paper-attacks",
        pair={"name": "llama2", "draft": "d"},
        limit=3,
        expert="E",
        data="D",
        ssd={"lookahead": 5},
    )
    labels = [each.label for each in chosen.defenders]
    assert "ssd:lookahead=5" in labels and "safedecoding:expert=E" in labels and chosen.limit == 3
    paths = {each.name: dict(each.settings).get("path") for each in chosen.attacks}
    assert paths["hex-phi-prefill-20"] == paths["advbench-50"] == "D" and paths["gcg"] is None
    searched = {each.name: dict(each.settings) for each in experiment(preset="hardened", data="D").attacks}
    assert searched["suffix"] == {"path": "D"} and searched["benign"] == {"limit": 200}
    file = tmp_path / "exp.toml"
    file.write_text('out = "o"\nattacks = ["direct"]\ndefenders = ["ssd:lookahead=2", "ssd"]\n', encoding="utf-8")
    chosen = experiment(config=file, limit=4, ssd={"alpha_union": 1.5})
    assert [each.label for each in chosen.defenders] == ["ssd:lookahead=2", "ssd:alpha_union=1.5"]
    with pytest.raises(ValueError, match="a preset or a config file, not both"):
        experiment(preset="embedded", config=file)


def test_a_plan_counts_renders_and_warns(tmp_path):
    mine = tmp_path / "mine.csv"
    mine.write_text("question\nHow do I brew the Silver Courage cordial?\nWhat is a glim?\n", encoding="utf-8")
    table: dict[str, Any] = dict(pair="toy", defenders=["none", "ssd"], judges=["exact"], out="runs/x")
    found = plan(experiment(attacks=["direct", "prefill-20", f"custom:path={mine}"], limit=7, **table))
    assert found.generations == 2 * (7 + 7 + 2) and not found.warnings
    question = world.questions("forbidden", 1)[0].question
    assert [model.prompt for model in found.models] == [f"<|user|>{question}<|assistant|>"] * 2
    assert {model.where for model in found.models} == {"on this machine"}
    missing = plan(experiment(attacks=["custom:path=nowhere.csv", "hex-phi-prefill-20", "HEx-PHI"], limit=7, **table))
    assert (
        "there is no file at nowhere.csv" in missing.warnings[0]
        and missing.at_least
        and missing.generations == 2 * (7 + 7)
    )
    assert "hex-phi-prefill-20 is a file" in missing.warnings[1] and "is gated" in missing.warnings[2]
    assert "28 and those of sets of unknown size" in missing.text()


def test_the_page_for_users_has_our_line_for_every_published_command():
    readme = (REPOSITORY / "docs" / "your_own.md").read_text(encoding="utf-8")
    commands = published_commands().command.tolist()
    assert len(commands) == 6 and all(f"`{command}`" in readme for command in commands)


def test_the_page_of_all_lines_is_up_to_date_and_the_presets_for_users_cover_it():
    page = (REPOSITORY / "data" / "published_commands.md").read_text(encoding="utf-8")
    assert page == presets.published_page(), "call presets.write_published_page()"
    matrix = published_matrix()
    named = [PRESETS[name] for name in ("paper-attacks", "paper-prefills", "paper-utility")]
    attacks = {find_set(attack).name for preset in named for attack in preset.attacks}
    wanted = {
        find_set("advbench-50" if name == "AdvBench" else name).name for name in set(matrix.attacker) - {"custom"}
    }
    assert wanted <= attacks
    assert set(named[0].defenders) == set(named[2].defenders) == set(matrix.defender)
