"""Presets are files of settings: all that come along are valid, and mistakes in one's own are named."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cryoloom.cli import reconstruct
from cryoloom.cli.main import build_app
from cryoloom.jobs.presets import PRESETS, with_preset
from cryoloom.jobs.settings import HeteroSettings, InputSettings, ReconstructSettings

DEFAULT = ReconstructSettings(input=InputSettings("/x.star"))
HETERO = HeteroSettings(input=InputSettings("/x.star"))
names, preset_file = PRESETS[ReconstructSettings].names, PRESETS[ReconstructSettings].file


def test_the_presets_that_come_along():
    assert set(names()) >= {"cryoai", "cryoai-compact", "cryoposenet", "hybrid"}


@pytest.mark.parametrize("name", names())
def test_each_is_valid_and_says_how_poses_are_found(name):
    settings = with_preset(DEFAULT, name)
    assert settings.poses in ("amortized", "hybrid")
    assert settings.input == DEFAULT.input


def test_the_presets_of_conformations():
    assert PRESETS[HeteroSettings].names() == ["compact", "paper"]
    assert with_preset(HETERO, "compact").methods["vae"] == HETERO.methods["vae"]
    assert {with_preset(HETERO, name).method for name in ("compact", "paper")} == {"vae"}
    paper = with_preset(HETERO, "paper").methods["vae"]
    assert (paper.encoder_width, paper.decoder_width, paper.batch, paper.rate) == (1024, 1024, 8, 1e-4)
    assert paper.latent == HETERO.methods["vae"].latent


def test_presets_of_another_kind_of_run_are_refused():
    with pytest.raises(ValueError, match="compact, paper"):
        with_preset(HETERO, "cryoai")


def test_cryoai_as_published():
    a = with_preset(DEFAULT, "cryoai").methods["amortized"]
    assert (a.encoder, a.symmetrised, a.volume, a.width, a.encoder_rate) == ("paper", True, "fouriernet", 256, 1e-4)


def test_cryoposenet_has_real_voxels_and_a_plain_loss():
    a = with_preset(DEFAULT, "cryoposenet").methods["amortized"]
    assert (a.volume, a.symmetrised) == ("real", False)


def test_a_copy_can_be_changed(tmp_path: Path):
    mine = tmp_path / "mine.toml"
    mine.write_text(preset_file("hybrid").read_text().replace("rounds = 100", "rounds = 7"))
    assert with_preset(DEFAULT, str(mine)).methods["wake_sleep"].rounds == 7
    assert with_preset(DEFAULT, str(mine)).methods["wake_sleep"].channels == DEFAULT.methods["wake_sleep"].channels


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("poses = 'magic'", "magic"),
        ("[amortized]\nwidht = 3", "widht"),
        ("[amortized]\nwidth = 'wide'", "wide"),
        ("seeds = 3", "seeds"),
        ("poses = ", "TOML"),
    ],
)
def test_mistakes_are_named_with_the_file(tmp_path: Path, text: str, found: str):
    mine = tmp_path / "mine.toml"
    mine.write_text(text)
    with pytest.raises(ValueError, match=found) as error:
        with_preset(DEFAULT, str(mine))
    assert "mine.toml" in str(error.value)


def test_a_preset_that_is_not_there():
    with pytest.raises(ValueError, match="cryoposenet"):
        with_preset(DEFAULT, "nonesuch")


def test_the_command_line_comes_before_a_preset(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text('poses = "hybrid"\n[abinit]\nrestarts = 7\nconsidered = 900\n')
    begun = []
    monkeypatch.setattr(reconstruct, "start_run", lambda settings, output, options: begun.append(settings))

    def settings(*arguments):
        given = ["reconstruct", "x.star", "-o", "run", "--preset", str(tmp_path / "mine.toml"), *arguments]
        result = CliRunner().invoke(build_app(), given)
        assert result.exit_code == 0, result.output
        return begun[-1]

    assert settings().methods["abinit"].restarts == 7
    assert settings("--restarts", "2").methods["abinit"].restarts == 2
    assert settings("--restarts", "2").methods["abinit"].considered == 900
    assert settings("--poses", "search").poses == "search"
