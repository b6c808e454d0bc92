"""What loading small weights takes: peak anonymous memory, and time, of a bfloat16 checkpoint on a CPU.

    python -m tests.benchmarks.loading --shape qwen2-7b --weights int4

The checkpoint is a sparse file of zeros, which takes no room on a disk and is read as any other. Anonymous memory
is what a machine must have; pages of the file are taken back when it is short of them. The last line of stdout is
a JSON object.
"""

import argparse
import copy
import json
import threading
import time
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import Qwen2ForCausalLM

from worker.engine import ModelLoader
from worker.engine.loading.small_weights import described

from .engine import commit, hardware, versions
from .shapes import SHAPES


def main() -> None:
    """Load once, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2-7b")
    parser.add_argument("--weights", choices=["int8", "int4"], default="int4")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is made; else a temporary folder")
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        size = write_zeros(folder, options.shape)
        device = torch.device("cpu")
        before = anonymous_bytes()
        watch = Watch()
        started_at = time.perf_counter()
        model = ModelLoader(folder, weights=options.weights).load(device)
        seconds = time.perf_counter() - started_at
        result = {
            "hardware": hardware(device),
            "versions": versions(),
            "commit": commit(),
            "shape": options.shape,
            "files_bytes": size,
            "weights": described(model),
            "before_bytes": before,
            "peak_anonymous_bytes": watch.stop(),
            "after_bytes": anonymous_bytes(),
            "seconds": round(seconds, 1),
        }
    print(json.dumps(result))


def write_zeros(folder: Path, shape: str) -> int:
    """A checkpoint of that shape in bfloat16.  Returns the bytes of its tensors."""
    config = copy.deepcopy(SHAPES[shape])
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    place, header = 0, {}
    for tensor_name, tensor in model.state_dict().items():
        if config.tie_word_embeddings and tensor_name == "lm_head.weight":
            continue
        end = place + 2 * prod(tensor.shape)
        header[tensor_name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    encoded = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    encoded += b" " * (-len(encoded) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + place)
    return place


def anonymous_bytes() -> int:
    """Of this process, resident.  Source: proc(5)."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0])


class Watch:
    """Looks at the anonymous memory of this process, fifty times a second."""

    def __init__(self) -> None:
        self._peak = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._stopped.wait(0.02):
            self._peak = max(self._peak, anonymous_bytes())

    def stop(self) -> int:
        """The most there was."""
        self._stopped.set()
        self._thread.join()
        return self._peak


if __name__ == "__main__":
    main()
