"""Options that several commands of the worker have. Where none is given, the settings decide."""

from pathlib import Path
from typing import get_args

import click

from producer.broker.options import DEFAULT_REDIS_URL
from producer.contract.keys import DEFAULT_PREFIX

from .engine_options import Dtype

FILE = click.Path(path_type=Path, dir_okay=False)

model_name_option = click.option(
    "--model-name",
    help="A name from the model paths file; with --model-path, the name of the queue.  "
    "[env: GENQUEUE_MODEL_NAME]  [default: the folder's name]",
)
model_path_option = click.option(
    "--model-path",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A model folder, as `hf download` makes it; no model paths file is needed.  [env: GENQUEUE_MODEL_PATH]",
)
device_option = click.option(
    "--device", help="As torch names it: cuda:0, cpu.  [env: GENQUEUE_DEVICE]  [default: cuda:0]"
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(get_args(Dtype)),
    help="[env: GENQUEUE_DTYPE]  [default: auto: bfloat16 on a GPU, or float16 on an old one; float32 on a CPU]",
)
redis_url_option = click.option(
    "--redis-url", metavar="URL", help=f"[env: GENQUEUE_REDIS_URL, REDIS_URL]  [default: {DEFAULT_REDIS_URL}]"
)
prefix_option = click.option(
    "--prefix",
    help=f"First part of every key of genqueue's own.  [env: GENQUEUE_PREFIX]  [default: {DEFAULT_PREFIX}]",
)
model_paths_option = click.option(
    "--model-paths",
    type=FILE,
    envvar="GENQUEUE_MODEL_PATHS",
    help="Where each model is.  [env: GENQUEUE_MODEL_PATHS]  "
    "[default: configs/model_paths.yaml here, else in the checkout]",
)
config_option = click.option(
    "--config",
    "config_file",
    type=FILE,
    envvar="GENQUEUE_CONFIG",
    help="Settings.  [env: GENQUEUE_CONFIG]  [default: configs/worker.yaml here, else in the checkout]",
)
