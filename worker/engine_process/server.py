"""The engine process: `python -m worker.engine_process.server`, which the worker starts over a socket pair.

A process of its own, because torch and asyncio would take turns on one interpreter lock: a token of a small
model is made in less time than it takes to publish one, and a long prefill must not hold up a heartbeat. It
also means that a crash of the device takes down the engine and not the worker, which starts another.

Here it becomes one that ends with its worker; what it does then is in `serving`.
"""

import gc
import logging
import os
import socket
import sys
from functools import partial
from typing import NoReturn

from producer.contract import GenqueueError

from .. import logs
from ..extras import worker_extra
from .kernel_cache import set_up_kernel_cache
from .lifeline import end_group_with_this_process, end_with_parent, ignore_signals
from .protocol import EngineConfig

logger = logging.getLogger("worker.engine_process.server")  # run as a program, its own name is __main__

EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2


def main(descriptor: str, parent_pid: str, config: str) -> NoReturn:
    """Serve over an inherited socket.  config: the JSON form of an EngineConfig."""
    ignore_signals()
    end_group_with_this_process()
    end_with_parent(int(parent_pid))
    engine = EngineConfig.model_validate_json(config)
    logs.configure("warning", engine.log_format, speaker="engine")
    set_up_kernel_cache()
    with socket.socket(fileno=int(descriptor)) as connection:  # closed first: the worker hears of our end by that
        connection.set_inheritable(False)  # a child that held it would hide our death from the worker
        code = _serve_to_the_end(connection, engine)
    logging.shutdown()
    # On a device that has failed, whatever would tidy up now may wait for it for ever.
    os._exit(code)


def _serve_to_the_end(connection: socket.socket, config: EngineConfig) -> int:
    """Returns the exit code."""
    try:
        _serve(connection, config)
    except (BrokenPipeError, ConnectionResetError):
        logger.info("the worker has gone")
    except GenqueueError as error:
        logger.error("%s", error)  # noqa: TRY400 - the message says what to do; a traceback would hide it
        return EXIT_BAD_CONFIG
    except Exception:
        logger.critical("the engine has failed, and ends: its job goes on in another one", exc_info=True)
        return EXIT_FAILED
    return 0


def _serve(connection: socket.socket, config: EngineConfig) -> None:
    with worker_extra():
        # Only now: to import torch takes seconds, in which the worker may die.
        from .serving import EngineServer, load_engine  # noqa: PLC0415
    gc.freeze()  # what was imported stays: to look through it for garbage is a pause in the middle of a text
    logs.adopt()
    EngineServer(connection).serve(partial(load_engine, config))


if __name__ == "__main__":
    main(*sys.argv[1:])
