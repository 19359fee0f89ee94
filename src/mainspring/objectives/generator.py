"""A network that finds replaced tokens beside the generator that replaces them, as one module to train.

Clark et al. 2020 (ELECTRA) share the embeddings of the two; He et al. 2023 (DeBERTa-v3, arXiv 2111.09543),
section 3.2, show that the two tasks pull a shared table in opposite directions, and let the discriminator use
E_D = stop_gradient(E_G) + E_delta (equation 4), with E_delta = 0 at the start.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.config import parse
from mainspring.data.batch import TokenBatch
from mainspring.errors import ConfigError
from mainspring.nn.config import TransformerConfig
from mainspring.nn.head import Columns
from mainspring.nn.init import Initial, declare
from mainspring.nn.transformer import Output, Transformer
from mainspring.nn.vocabulary import WHOLE, Vocabulary
from mainspring.objectives.around import AroundNetwork, network_tensors

Sharing = Literal["shared", "separate", "disentangled"]
"""What the embeddings of generator and discriminator have in common: ES, NES and GDES of the paper."""

GENERATOR = "generator."
"""Where the generator's parameters stand in the names of the whole."""
_TABLES = ("token", "position")


class GeneratorAndDiscriminator(AroundNetwork):
    """Both networks; each forward runs one of them.

    Args:
        network: the discriminator, which is what the training is for.
        generator: of the same vocabulary.
        sharing: of the tables of tokens and of positions.

    Raises:
        ConfigError: the tables differ in shape and are to be shared.
    """

    def __init__(self, network: Transformer, generator: Transformer, sharing: Sharing) -> None:
        super().__init__(network)
        self.generator = generator
        if sharing != "separate":
            for name in _TABLES:
                self._share(name, sharing)

    def forward(
        self,
        batch: TokenBatch,
        *,
        part: Literal["generator", "discriminator"],
        select: Tensor | None = None,
        columns: Columns = "all",
    ) -> Output:
        """Run one of the networks; arguments and result are those of `Transformer.forward`."""
        chosen = self.generator if part == "generator" else self.network
        output: Output = chosen(batch, select=select, columns=columns)
        return output

    def blocks(self) -> list[nn.Module]:
        """The layers of both."""
        return [*self.generator.blocks(), *self.network.blocks()]

    def _share(self, name: str, sharing: Sharing) -> None:
        ours, theirs = (getattr(net.embeddings, name) for net in (self.network, self.generator))
        if ours is None or theirs is None:
            return
        if ours.weight.shape != theirs.weight.shape:
            raise ConfigError(
                f"objective.embeddings = {sharing!r}: the {name} tables differ, {list(ours.weight.shape)} in "
                f"the model and {list(theirs.weight.shape)} in the generator; give it the same embed_dim, or "
                "use 'separate'"
            )
        table = theirs if sharing == "shared" else Difference(theirs)
        setattr(self.network.embeddings, name, table)


class Difference(nn.Embedding):
    """A table that is another's, which gets no gradient by it, plus one of its own that starts at 0.

    Only the difference is a parameter. The sum of the tables is never made: looking up is linear.
    """

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__(base.num_embeddings, base.embedding_dim)
        self._base = (base,)  # in a tuple: the base is no child of this module
        declare(self, Initial(0.0))

    @property
    def base(self) -> nn.Embedding:
        """The table that it differs from."""
        return self._base[0]

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the sum: input [...] -> [..., width]."""
        return F.embedding(input, self._base[0].weight.detach()) + F.embedding(input, self.weight)


def generator_config(config: TransformerConfig, changes: dict[str, Any]) -> TransformerConfig:
    """The generator of a discriminator: half its depth, its width, a head that fills masks; then `changes`.

    Raises:
        ConfigError: `config` has no head for replaced tokens, or the changes make no sense.
    """
    if config.head != "replaced":
        raise ConfigError(
            f"this objective trains a model to find replaced tokens, and its head is {config.head!r}; use a "
            "preset of electra, or set model.config.head = 'replaced'"
        )
    values = config.model_dump(mode="json") | {
        "n_layers": max(1, config.n_layers // 2),
        "head": "tokens",
        "head_context": False,
        "head_transform": True,
        "head_bias": True,
        "tied": True,
        "pooler": False,
        "pair_classes": 0,
    }
    return parse(TransformerConfig, values | changes)


def discriminator_state(state: dict[str, Tensor], sharing: Sharing) -> dict[str, Tensor]:
    """The discriminator's own weights out of those of both; a difference is added to its base."""
    result = network_tensors(state)
    for name in _TABLES if sharing == "disentangled" else ():
        key = f"embeddings.{name}.weight"
        if key in result and GENERATOR + key in state:
            result[key] = result[key] + state[GENERATOR + key]
    return result


@torch.no_grad()
def sample_tokens(logits: Tensor, draws: Tensor, vocabulary: Vocabulary = WHOLE) -> Tensor:
    """One token a row, of probability softmax(logits), by inversion of its distribution function.

    Args:
        logits: [N, C].
        draws: where in [0, 1) the function is inverted, fp64 [N]: the same draw gives the same token wherever
            it is computed.
        vocabulary: which tokens the columns of the logits are; those of all ranks are gathered, a few rows at
            a time.

    Returns:
        int64 [N].
    """
    tokens = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    rows = max(1, (1 << 22) // max(1, vocabulary.total or logits.shape[1]))
    for start in range(0, logits.shape[0], rows):
        part = slice(start, start + rows)
        reached = torch.softmax(vocabulary.gather(logits[part]).double(), dim=1).cumsum(1)
        found = torch.searchsorted(reached, (draws[part] * reached[:, -1])[:, None], right=True)
        tokens[part] = found[:, 0].clamp(max=reached.shape[1] - 1)
    return tokens
