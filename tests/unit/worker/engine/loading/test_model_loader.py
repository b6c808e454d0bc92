"""Loading models from local folders."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models import CPU, random_model, save_random_model
from worker.engine import ModelLoader
from worker.errors import ConfigError


@pytest.fixture
def folder(tmp_path):
    return save_random_model(tmp_path, seed=3)


def test_the_model_is_ready_for_inference(folder):
    model = ModelLoader(folder).load(CPU)
    assert not model.training
    assert (model.device, model.dtype) == (CPU, torch.float32)
    expected = random_model(seed=3).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_is_as_asked_for(folder, dtype):
    assert ModelLoader(folder, dtype).load(CPU).dtype == getattr(torch, dtype)


def test_an_unknown_dtype(folder):
    with pytest.raises(ConfigError, match="dtype 'int3' is not known: use auto, float32, bfloat16, float16"):
        ModelLoader(folder, "int3")


def test_no_progress_bar_is_shown(folder, capfd):
    ModelLoader(folder).load(CPU)
    assert capfd.readouterr().err == ""


def test_missing_tensors_are_refused_not_made_up(folder):
    """transformers fills them with random numbers and logs a warning."""
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"incomplete: 1 tensors are missing, model.layers.1.mlp.up_proj.weight"):
        ModelLoader(folder).load(CPU)


def test_a_truncated_file(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"cannot be loaded.*Download it again"):
        ModelLoader(folder).load(CPU)


def test_a_config_of_no_known_model(folder):
    (folder / "config.json").write_text('{"model_type": "of my own"}')
    with pytest.raises(ConfigError, match="cannot be loaded"):
        ModelLoader(folder).load(CPU)
