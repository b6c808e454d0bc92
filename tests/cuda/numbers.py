"""Numbers for the stand-in: what torch does on its device is done on the CPU, in the order of the streams.

torch does every operation for real, with kernels that do nothing: it allocates, checks, captures. Beside each
goes its twin on the CPU, put on the stream as a piece of work over raw addresses. A lazy stream does its work when
somebody waits for it, as late as any GPU could, and captured work is done at each replay. So whatever is read
before it is ready, used again too early, or baked into a capture gives wrong tokens. Not for compiled code, which
torch does not dispatch operation by operation.
"""

import ctypes
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import CausalBias
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from . import card

CPU = torch.device("cpu")
WAITS = {"aten::nonzero", "aten::masked_select", "aten::_unique2"}
"""A GPU would be waited for: the shape of what comes out hangs on data."""
CONVERSIONS = {"aten::to", "aten::_to_copy"}
EMPTY = {"aten::empty", "aten::empty_strided", "aten::empty_like", "aten::new_empty", "aten::new_empty_strided"}


class Numbers(TorchDispatchMode):
    """While it is entered, device tensors have their numbers. `failures`: what has gone wrong on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        CausalBias.__new__ = _make_bias
        self.failures: list[BaseException] = []
        self.reads = 0
        """How often the host has read from the device."""
        self._work: dict[int, tuple[Callable[[], None], bool]] = {}
        self._numbers = count(1)
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_long)(self._do)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves, spec = tree_flatten((args, kwargs))
        inputs = [leaf for leaf in leaves if _is_on_device(leaf)]
        name = func._schema.name
        if not inputs and torch.device(kwargs.get("device") or "cpu").type != "cuda":
            return func(*args, **kwargs)
        if name in WAITS:
            raise RuntimeError(f"{name} waits for the device")
        self.reads += name == "aten::_local_scalar_dense"
        if name == "aten::copy_" and args[0].device.type != args[1].device.type:
            return self._across(args[0], args[1], non_blocking=(*args, kwargs.get("non_blocking", False))[2])
        if name in CONVERSIONS and (made := _elsewhere(args[0], [*leaves])) is not None:
            return self._across(made, args[0], non_blocking=kwargs.get("non_blocking", False))
        known = {_storage(tensor) for tensor in inputs}
        places = tree_unflatten([_Place(leaf) if _is_on_device(leaf) else leaf for leaf in leaves], spec)
        result = func(*args, **kwargs)
        made = [
            _Place(leaf) if _is_on_device(leaf) and _storage(leaf) not in known else None
            for leaf in tree_flatten(result)[0]
        ]
        if name not in EMPTY and (func._schema.is_mutable or any(made)):  # else a view, or a number that was read
            device = inputs[0].device if inputs else torch.device(kwargs["device"])
            self._enqueue(device, lambda: _do_twin(func, *places, made))
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.cuda.synchronize()  # nobody else can do what is enqueued yet

    def with_twin(self, kernel: Callable[..., Tensor], twin: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """For a kernel that torch does not dispatch: launched, and then given the numbers of its twin."""

        def both(*args: Any) -> Tensor:
            places = tree_map(lambda leaf: _Place(leaf) if _is_on_device(leaf) else leaf, args)
            result = kernel(*args)
            place = _Place(result)
            self._enqueue(result.device, lambda: place.on_cpu().copy_(twin(*tree_map(_on_cpu, places))))
            return result

        return both

    def _across(self, to: Tensor, source: Tensor, *, non_blocking: bool) -> Tensor:
        """A copy between the two sides, which is a copy of bytes once both have one form."""
        self.reads += source.is_cuda
        alike = to.dtype == source.dtype and to.shape == source.shape
        if alike and to.is_contiguous() and source.is_contiguous():
            return torch.ops.aten.copy_.default(to, source, non_blocking)
        with self:
            source = source.expand(to.shape).to(to.dtype).contiguous()
            between = torch.empty(to.shape, dtype=to.dtype, device=to.device)
        torch.ops.aten.copy_.default(between, source, non_blocking)
        with self:
            return to.copy_(between)

    def _enqueue(self, device: torch.device, work: Callable[[], None]) -> None:
        number = next(self._numbers)
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream().cuda_stream
            self._work[number] = work, card.is_capturing(stream)
            card.enqueue(stream, self._callback, number)

    def _do(self, number: int) -> None:
        work, stays = self._work[number]
        try:
            with torch._C._DisableTorchDispatch(), torch.inference_mode():
                work()
        except BaseException as error:  # noqa: BLE001 - nothing can be raised through the library
            self.failures.append(error)
        if not stays:  # it is not in a graph, which would do it again
            del self._work[number]


class _Place:
    """Where the numbers of a device tensor are, without the tensor: its memory is given back when it would be."""

    def __init__(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._address, self._bytes, self._dtype = storage.data_ptr(), storage.nbytes(), tensor.dtype
        self._form = tuple(tensor.size()), tuple(tensor.stride()), tensor.storage_offset()

    def on_cpu(self) -> Tensor:
        """The same memory as a tensor of the CPU."""
        if not self._bytes:
            return torch.empty(self._form[0], dtype=self._dtype)
        memory = (ctypes.c_uint8 * self._bytes).from_address(self._address)
        whole = self._bytes // self._dtype.itemsize * self._dtype.itemsize
        return torch.frombuffer(memory, dtype=torch.uint8)[:whole].view(self._dtype).as_strided(*self._form)


def _do_twin(func: Any, args: Any, kwargs: Any, made: list[_Place | None]) -> None:
    """What the operation does, on the CPU.  made: where its new results are to be, and None for the others."""
    args, kwargs = tree_map(_on_cpu, (args, kwargs))
    kwargs.pop("pin_memory", None)
    results = tree_flatten(TWINS.get(str(func), func)(*args, **kwargs))[0]
    for result, place in zip(results, made, strict=False):  # attention gives more than a twin does
        if place is not None and isinstance(result, Tensor):
            place.on_cpu().copy_(result)


def _on_cpu(leaf: Any) -> Any:
    if isinstance(leaf, _Place):
        return leaf.on_cpu()
    if isinstance(leaf, torch.Generator):
        return torch.Generator().manual_seed(leaf.initial_seed())
    return CPU if isinstance(leaf, torch.device) else leaf


def _elsewhere(tensor: Tensor, leaves: list[Any]) -> Tensor | None:
    """Memory for a tensor that goes to another device; None for one that stays."""
    others = [leaf.device if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    devices = [other for other in others if isinstance(other, torch.device) and other.type != tensor.device.type]
    dtypes = [leaf for leaf in leaves if isinstance(leaf, torch.dtype)]
    return torch.empty_like(tensor, device=devices[0], dtype=dtypes[0] if dtypes else None) if devices else None


def _is_on_device(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_cuda


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float | None) -> Tensor:
    """(batch, heads, rows, head_dim); key-value heads may be fewer. Causal ends at the lower right."""
    rows, seen = query.shape[2], key.shape[2]
    mask = torch.ones(rows, seen, dtype=torch.bool).tril(seen - rows) if causal else None
    return functional.scaled_dot_product_attention(
        query, key, value, mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )


def _flash(
    query: Tensor, key: Tensor, value: Tensor, _: float = 0.0, causal: bool = False, **options: Any
) -> Tensor:
    return _attention(query, key, value, causal=causal, scale=options.get("scale"))


def _efficient(query: Tensor, key: Tensor, value: Tensor, *options: Any, scale: float | None = None) -> Tensor:
    """(batch, rows, heads, head_dim)"""
    heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
    lower_right = 2
    assert options[6] in (0, lower_right), "another kind of mask"
    return _attention(*heads_first, causal=options[6] == lower_right, scale=scale).transpose(1, 2)


def _product(some: Tensor, others: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.bmm(some.to(dtype), others.to(dtype))


TWINS = {
    "aten._scaled_dot_product_flash_attention.default": _flash,
    "aten._efficient_attention_forward.default": _efficient,
    "aten.bmm.dtype": _product,
}
"""Of operations that a CPU does not have."""


def _make_bias(cls: type[CausalBias], *_: Any) -> CausalBias:
    """Without the mode, under which no subclass of Tensor can be made."""
    with _disable_current_modes():
        return Tensor.__new__(cls)
