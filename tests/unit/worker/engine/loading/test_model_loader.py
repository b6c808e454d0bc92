"""Loading models from local folders."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tests.models import CPU, VOCAB_SIZE, random_model, save_random_model
from worker.engine import Engine, ModelLoader
from worker.engine.loading.facts import MemoryFacts, memory_facts, why_not_served
from worker.engine.loading.model_config import text_config
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


def load(folder: Path) -> PreTrainedModel:
    return ModelLoader(folder).load(CPU)


def edit(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text())
    for name, value in changes.items():
        content[name] = value
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not GONE}))


GONE = "to be left out"
UP = "model.layers.1.mlp.up_proj.weight"


class TestWeights:
    def test_that_are_missing_are_refused_not_made_up(self, folder):
        """transformers fills them with random numbers and logs a warning."""
        weights = load_file(folder / "model.safetensors")
        del weights[UP]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ConfigError, match=rf"incomplete: 1 tensors are missing .*, {UP} the first"):
            load(folder)

    def test_for_fewer_layers_than_config_json_says(self, folder):
        edit(folder / "config.json", num_hidden_layers=3, layer_types=GONE)
        with pytest.raises(ConfigError, match=r"12 tensors are missing that config.json asks for, model.layers.2"):
            load(folder)

    def test_for_more_layers_than_config_json_says(self, folder, caplog):
        edit(folder / "config.json", num_hidden_layers=1, layer_types=GONE)
        load(folder)
        assert "no place for 12 tensors of the weights, model.layers.1" in caplog.text

    def test_of_another_shape_than_config_json_says(self, folder):
        edit(folder / "config.json", intermediate_size=512)
        with pytest.raises(
            ConfigError,
            match=r"down_proj.weight has the shape \[64, 128\] in the file and \[64, 512\] by .*, and 5",
        ):
            load(folder)

    @pytest.mark.parametrize("length", [0, 1, 1000, -1])
    def test_that_are_cut_off(self, folder, length):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:length])
        with pytest.raises(
            ConfigError, match=r"^model.safetensors in .* (is empty|was cut off \(.*\)): download it"
        ):
            load(folder)

    def test_that_are_pickled_and_cut_off(self, folder):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"PK")
        with pytest.raises(ConfigError, match=r"are no weights, .* Download them again"):
            load(folder)

    def test_that_are_pickled(self, folder):
        expected = load_file(folder / "model.safetensors")
        torch.save(expected, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        assert torch.equal(load(folder).state_dict()[UP], expected[UP])

    def test_that_are_pickled_with_code(self, folder):
        """torch's own advice is to run it."""
        torch.save({UP: torch.nn.Linear(2, 2)}, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        with pytest.raises(ConfigError, match="code in them is never run here"):
            load(folder)


class TestConfig:
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("", "config.json in .* is empty"),
            ('{"model_type": "qwen2",', "config.json in .* is broken or was cut off"),
            ("[" * 5_000, "config.json in .* is broken or was cut off"),
            ("[]", "config.json in .* holds no JSON object"),
            ("{}", "config.json in .* has no model_type"),
            ('{"model_type": 7}', "config.json in .* has no model_type"),
            ('{"model_type": "of my own"}', "type 'of my own', which transformers .* does not know: upgrade"),
            ('{"model_type": "t5"}', "a t5 model has an encoder"),
            ('{"model_type": "bart"}', "a bart model has an encoder"),
            ('{"model_type": "bert"}', "a bert model has an encoder"),
            ('{"model_type": "clip"}', "a clip model is no model that generates text"),
            (
                '{"model_type": "qwen2", "num_hidden_layers": "two"}',
                "is refused by transformers: .*two",
            ),
        ],
    )
    def test_that_cannot_be_served(self, folder, content, said):
        (folder / "config.json").write_text(content)
        with pytest.raises(ConfigError, match=said):
            load(folder)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"rope_parameters": {"rope_type": "su", "rope_theta": 1.0}}, "it knows no 'su'"),
            ({"hidden_act": "x"}, "it knows no 'x'"),
            ({"num_attention_heads": 0}, "integer division or modulo by zero"),
            ({"pad_token_id": 10**6}, "Padding_idx must be within num_embeddings"),
        ],
    )
    def test_of_which_transformers_makes_no_model(self, folder, changes, said):
        """Weights are not to be downloaded again for it; `doctor` sees it, too."""
        edit(folder / "config.json", **changes)
        with pytest.raises(ConfigError, match=f"^config.json is refused by transformers: {said}"):
            load(folder)
        assert said in str(why_not_served(folder))

    def test_with_a_part_that_is_not_the_models(self, folder):
        edit(folder / "config.json", text_config={"vocab_size": 3})
        with pytest.raises(ConfigError, match=r"has a text_config, .* a qwen2 model has no place"):
            load(folder)

    def test_is_looked_at_before_the_tokenizer(self, folder):
        (folder / "config.json").write_text("{")
        (folder / "tokenizer.json").unlink()
        with pytest.raises(ConfigError, match=r"^config.json in .* is broken"):
            Engine.load(folder, CPU)

    def test_with_several_parts_that_generate_text(self):
        config = Qwen2Config()
        config.generator, config.text_config = Qwen2Config(), Qwen2Config()
        with pytest.raises(ConfigError, match="several parts that could generate text"):
            text_config(config)


class TestGenerationConfig:
    """transformers goes on without one that it cannot read, and answers do not end."""

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ('{"eos_token_id": [2, 0', "generation_config.json in .* is broken or was cut off"),
            ("", "generation_config.json in .* is empty"),
            ('{"eos_token_id": "</s>"}', "eos_token_id is '</s>', and no id"),
            ('{"eos_token_id": [[2]]}', r"eos_token_id is \[\[2\]\], and no id"),
        ],
    )
    def test_that_cannot_be_used(self, folder, content, said):
        (folder / "generation_config.json").write_text(content)
        with pytest.raises(ConfigError, match=said):
            Engine.load(folder, CPU)

    def test_that_is_not_there(self, folder):
        (folder / "generation_config.json").unlink()
        assert Engine.load(folder, CPU).eos_token_ids == {VOCAB_SIZE}


class TestCodeInTheFolder:
    """transformers asks on stdout whether to run it, and takes the answer from stdin: `yes | ...` runs it."""

    @pytest.fixture
    def with_code(self, folder, monkeypatch):
        monkeypatch.setattr("builtins.input", lambda _: "y")
        auto_map = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.X"}
        for name in ("configuration_x.py", "modeling_x.py"):
            (folder / name).write_text(
                f"open({str(folder / 'ran')!r}, 'w').close()\n"
                "from transformers import Qwen2Config, Qwen2ForCausalLM\n"
                "class XConfig(Qwen2Config):\n    model_type = 'x'\n"
                "class X(Qwen2ForCausalLM):\n    config_class = XConfig\n"
            )
        edit(folder / "config.json", auto_map=auto_map)
        return folder

    def test_that_would_be_needed_is_refused(self, with_code, capsys):
        edit(with_code / "config.json", model_type="x")
        for what in (load, lambda folder: Engine.load(folder, CPU), memory_of):
            with pytest.raises(
                ConfigError, match=r"needs Python code of that folder \(auto_map\). It is never run"
            ):
                what(with_code)
        assert not (with_code / "ran").exists()
        assert capsys.readouterr().out == ""

    def test_that_is_not_needed_is_left_alone(self, with_code):
        assert type(load(with_code)) is Qwen2ForCausalLM
        assert memory_of(with_code).model_context == 128
        assert not (with_code / "ran").exists()


def memory_of(folder: Path) -> MemoryFacts:
    return memory_facts(folder, CPU, "auto", 1000)
