"""ZeRO stages 1 to 3 on PyTorch's FSDP2 (`fully_shard`): one unit for each block, one for the rest.

What a rank keeps whole, and when the ranks talk (m micro-batches in a step):

- stage 1: optimizer states are sharded. Gradients add up unsharded; one reduce-scatter and one all-gather a
  step.
- stage 2: gradients too: a reduce-scatter each micro-batch; parameters stay gathered between micro-batches.
- stage 3: parameters too: gathered for the forward and again for the backward of each block.

A parameter that no rank used has a gradient of zero here, not None as in one process: weight decay still
shrinks it.

On gloo the collectives are our own exchanges (`mainspring.comm`), under the interfaces that FSDP2 leaves
open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, ReduceScatter
from torch.utils._pytree import tree_map_only

from mainspring import comm
from mainspring.comm import Counter
from mainspring.parallel.blocks import shardable_blocks
from mainspring.parallel.broadcast import broadcast_tensors
from mainspring.parallel.plan import Plan
from mainspring.parallel.precision import Autocast, Precision
from mainspring.parallel.replicate import GradientReducer
from mainspring.parallel.strategy import Strategy, on_meta


class Sharded(Strategy):
    """A model whose states are sharded over the ranks of `group`."""

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        group: dist.ProcessGroup,
        counter: Counter,
        *,
        precision: Precision,
        reduce: Literal["mean", "sum"],
    ) -> None:
        super().__init__(model, plan, group, counter)
        if not on_meta(model.parameters()):
            broadcast_tensors(
                [*model.parameters(), *model.buffers()], name="start", group=self.group, counter=counter
            )
        for parameter in model.parameters():
            # FSDP2 shards row-major tensors only: channels-last weights become so (activations need not).
            parameter.data = parameter.data.contiguous()
        dtypes = (torch.bfloat16, torch.float32) if precision == "bf16" else (None, None)
        policy = MixedPrecisionPolicy(*dtypes)
        # A number cannot be sharded: parameters without dimensions stay replicated.
        scalars = {name: p for name, p in model.named_parameters() if p.ndim == 0}
        kind = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
        mesh = DeviceMesh.from_group(group, kind, mesh_dim_names=("data",))
        options: dict[str, Any] = {"mesh": mesh, "mp_policy": policy, "ignored_params": set(scalars.values())}
        blocks = shardable_blocks(model)
        for block in blocks:
            fully_shard(block, reshard_after_forward=plan.zero == 3, **options)
        # The rest stays gathered from its forward to its backward, which follow each other at once.
        fully_shard(model, reshard_after_forward=False, **options)
        self._units: list[FSDPModule] = [m for m in (model, *blocks) if isinstance(m, FSDPModule)]
        self._root = self._units[0]
        self._reduce = reduce
        self._scalars: GradientReducer | None = None
        if not on_meta(scalars.values()):
            self._reduce_scalars()
        if precision == "bf16" and any(b.is_floating_point() for b in model.buffers()):
            Autocast(model)  # so that fp32 buffers may meet bf16 activations
        self._precision = precision
        gather, scatter = _AllGather(counter), _ReduceScatter(counter, reduce)
        for unit in self._units:
            unit.set_custom_all_gather(gather)
            unit.set_custom_reduce_scatter(scatter)
            # Division is the exchange's: for FSDP2 there is nothing to scale.
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
        if hasattr(self._root, "set_reduce_scatter_unused_params"):
            self._root.set_reduce_scatter_unused_params(True)
        for module in (model, *blocks):
            module.register_forward_hook(_own_products, prepend=True)  # before FSDP2's own hook
        model.register_forward_hook(self._after_forward)

    def materialized(self, *, equal: bool) -> None:
        scalars = [p for p in self.model.parameters() if p.ndim == 0]
        tensors = [*self.model.buffers(), *(() if equal else scalars)]
        broadcast_tensors(tensors, name="start", group=self.group, counter=self.counter)
        self._reduce_scalars()

    def no_sync(self) -> AbstractContextManager[None]:
        return nullcontext() if self.plan.zero == 3 else self._keep_gathered()

    def settle(self) -> None:
        for unit in self._units:
            unit.reshard()

    @contextmanager
    def _keep_gathered(self) -> Iterator[None]:
        self._root.set_reshard_after_backward(False)
        quiet: AbstractContextManager[None] = nullcontext()
        if self.plan.zero == 1:
            self._root.set_requires_gradient_sync(False)
            quiet = self._scalars.no_sync() if self._scalars is not None else quiet
        try:
            with quiet:
                yield
        finally:
            self._root.set_reshard_after_backward(True)
            if self.plan.zero == 1:
                self._root.set_requires_gradient_sync(True)
                if self._precision == "bf16":
                    self._fill_missing_sums()

    def _fill_missing_sums(self) -> None:
        # FSDP2 adds up bf16 gradients in fp32 but stands in for a missing one with bf16 zeros, and then
        # refuses to reduce the mixture: give parameters that were not used so far an fp32 sum as well.
        for unit in self._units:
            for group in unit._get_fsdp_state()._fsdp_param_groups:
                if all(p.unsharded_accumulated_grad is None for p in group.fsdp_params):
                    continue
                for param in group.fsdp_params:
                    if param.sharded_param.requires_grad and param.unsharded_accumulated_grad is None:
                        zeros = torch.zeros_like(param.unsharded_param, dtype=torch.float32)
                        param.unsharded_accumulated_grad = zeros

    def _reduce_scalars(self) -> None:
        named = self.model.named_parameters()
        scalars = {name: p for name, p in named if p.ndim == 0 and p.requires_grad}
        if scalars and self._scalars is None:
            self._scalars = GradientReducer(scalars, self.group, self._reduce, self.counter)

    def _after_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        # Without a backward nobody drops the gathered parameters, and an optimizer step would leave them
        # stale.
        if not torch.is_grad_enabled():
            self.settle()
        elif self._scalars is not None:
            self._scalars.expect(output)


def _own_products(module: nn.Module, args: Any, output: Any) -> Any:
    """Outputs that are views of a fresh matrix product, as tensors of their own (nothing is copied).

    A linear layer over [B, T, D] is a product and a view of it. FSDP2 hangs its hooks on outputs and warns
    about each view, since an operation in place would get round them. A product does not keep its result for
    backward, so nobody else has to know of such an operation.
    """
    return tree_map_only(Tensor, _own_product, output) if torch.is_grad_enabled() else output


def _own_product(tensor: Tensor) -> Tensor:
    node = tensor.grad_fn
    views = ("ViewBackward", "UnsafeViewBackward")
    if tensor._base is None or node is None or not node.name().startswith(views):
        return tensor
    source = node.next_functions[0][0]
    if source is None or not source.name().startswith(("MmBackward", "AddmmBackward", "BmmBackward")):
        return tensor
    own: Tensor = torch.ops.aten._unsafe_view(tensor, tensor.shape)
    return own


class _Allocate:
    """Buffers for FSDP2's copies in and out."""

    def allocate(
        self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _AllGather(_Allocate, AllGather):
    """FSDP2's all-gather, counted and through `mainspring.comm`."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        for work in comm.all_gather(
            output_tensor, input_tensor, name="parameters", group=group, counter=self._counter
        ):
            work.wait()
        return None


class _ReduceScatter(_Allocate, ReduceScatter):
    """FSDP2's reduce-scatter, counted and through `mainspring.comm`; it also takes the mean."""

    def __init__(self, counter: Counter, reduce: Literal["mean", "sum"]) -> None:
        self._counter, self._reduce = counter, reduce

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> dist.Work | None:
        comm.reduce_scatter(
            output_tensor, input_tensor, name="gradients", op=self._reduce, group=group, counter=self._counter
        ).wait()
        return None
