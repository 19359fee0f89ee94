"""Find what a path is - a run, a checkpoint, a model in any layout - and what it can do.

In three steps, so that weights are read only where they are needed (a packed file may stand for them): `find`
says what is there, `read` reads its network and weights, and `equip` adds the tokenizer and how prompts are
laid out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mainspring.config import Section
from mainspring.errors import UsageError, WeightsError
from mainspring.finetune import native, sentences
from mainspring.finetune.heads import HeadConfig, TaskModel, encoder_config
from mainspring.finetune.pooling import EmbedConfig, Embedder
from mainspring.finetune.published import import_task, task_of
from mainspring.infer.layout import GENERATING, Layout
from mainspring.infer.layout import layout_of as prompt_layout
from mainspring.infer.written import Written, kept, published, written_by
from mainspring.models import FAMILIES, resolve
from mainspring.models.exchange import LOOKED_FOR, import_model, layout_of
from mainspring.models.files import read_json
from mainspring.models.weights import expected_shapes
from mainspring.nn.config import TransformerConfig
from mainspring.nn.transformer import Transformer
from mainspring.objectives import CausalConfig, Vocabulary, build, network_state
from mainspring.text.tokenizer import Tokenizer
from mainspring.train.checkpoint import latest
from mainspring.train.checkpoint.manifest import NAME as MANIFEST
from mainspring.train.run import Run

Kind = Literal["run", "native task", "sentences", "published task", "model"]
Network = Transformer | TaskModel | Embedder


class Shape(Section):
    """What a network is built from; goes into packed files."""

    family: str = ""
    """Name of its family, where it has one."""
    config: TransformerConfig
    """The transformer."""
    head: HeadConfig | None = None
    """The head of a task model."""
    embed: EmbedConfig | None = None
    """How an embedder's rows become vectors."""

    def build(self) -> Network:
        """The network, without memory for its parameters."""
        with torch.device("meta"):
            if self.head is not None:
                return TaskModel(self.config, self.head)
            return Transformer(self.config) if self.embed is None else Embedder(self.config, self.embed)


def shape_of(network: Network) -> Shape:
    """What a network is built from."""
    if isinstance(network, TaskModel):
        return Shape(config=network.encoder.config, head=network.head_config)
    if isinstance(network, Embedder):
        return Shape(config=network.encoder.config, embed=network.embed_config)
    return Shape(config=network.config)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something loadable is."""

    kind: Kind
    directory: Path
    checkpoint: Path | None = None
    """Of a run."""

    @property
    def files(self) -> list[Path]:
        """Every file whose bytes decide what is loaded; of a checkpoint its manifest, which has checksums."""
        if self.checkpoint is not None:
            names = ("recipe.toml", "tokenizer.json")
            return [self.checkpoint / MANIFEST, *(self.directory / name for name in names)]
        patterns = ("*.safetensors", "*.json", "*.txt", "*.model", "[0-9]*_*/*", "mp_rank_*/*")
        found = {file for pattern in patterns for file in self.directory.glob(pattern)}
        return sorted(file for file in found if file.is_file())


@dataclass(frozen=True, slots=True)
class Equipment:
    """What goes with a network."""

    tokenizer: Tokenizer
    name: str
    """Name of the run or directory."""
    layout: Layout | None
    """How it reads prompts; None: it continues them, or writes nothing."""
    refusal: str | None
    """Why it does not write text; None: it does."""
    causal: bool
    """Whether each token sees those before it alone."""


def find(path: str | Path) -> Place:
    """What a path is: a run directory or the recipe.toml in it (its newest checkpoint), a checkpoint inside
    one, a task model or an embedder, or a folder with a model in any layout that `models.exchange` reads.

    Raises:
        UsageError: nothing loadable is there; says what was looked for.
    """
    path = Path(path).resolve()
    if path.is_file() and path.name == "recipe.toml":
        path = path.parent
    if (path / "recipe.toml").is_file():
        run = Run(path)
        checkpoint = latest(run.checkpoints)
        if checkpoint is None:
            raise UsageError(
                f"{path}: the run has no complete checkpoint yet; looked for step-... in {run.checkpoints}"
            )
        return Place("run", path, checkpoint)
    # A checkpoint lies in the folder "checkpoints" of its run.
    if path.is_dir() and (path.parent.parent / "recipe.toml").is_file() and path.parent.name == "checkpoints":
        return Place("run", path.parent.parent, path)
    if (path / native.SETTINGS).is_file():
        return Place("native task", path)
    if (path / sentences.MODULES).is_file():
        return Place("sentences", path)
    layout = layout_of(path)
    if layout == "hf" and task_of(read_json(path / "config.json")) is not None:
        return Place("published task", path)
    if layout is not None:
        return Place("model", path)
    found = (
        "it does not exist" if not path.exists() else "it is a file" if path.is_file() else "none is there"
    )
    raise UsageError(
        f"{path}: no model can be loaded from here. Looked for recipe.toml (a run directory), for a "
        f"checkpoint (a run's checkpoints/step-...), for {native.SETTINGS} (a task model), for "
        f"{sentences.MODULES} (sentence-transformers), and for {LOOKED_FOR}; {found}"
    )


def read(place: Place) -> tuple[Shape, dict[str, Tensor]]:
    """The network that is at a place, and its tensors by our names, as they are stored.

    Raises:
        WeightsError, CheckpointError, ConfigError: what is there is damaged, or fits no network.
    """
    match place.kind:
        case "run":
            return _read_run(place)
        case "native task":
            settings, state = native.import_native_task(place.directory)
            return Shape(**{n: getattr(settings, n) for n in ("family", "config", "head", "embed")}), state
        case "sentences":
            embedder = sentences.import_sentences(place.directory)
            shape = Shape(family=embedder.family, config=embedder.config, embed=embedder.embed)
            return shape, embedder.state
        case "published task":
            task = import_task(place.directory)
            return Shape(family=task.family, config=task.config, head=task.head), task.state
        case "model":
            imported = import_model(place.directory)
            return _without_idle_heads(place, imported.family, imported.config, imported.state)


def equip(place: Place, shape: Shape, direction: str | None = None) -> Equipment:
    """The tokenizer, and how prompts are laid out.

    Args:
        place: what `find` gave.
        shape: what `read` gave, or a packed file.
        direction: languages of source and target, by the name of the pairs that it was trained on, where it
            is told them and there are several.

    Raises:
        UsageError: there is no such direction.
    """
    directory = place.directory
    tokenizer = Tokenizer.load(directory)
    written = _written(place, shape)
    causal = written is not None and isinstance(written.objective, CausalConfig)
    if shape.embed is not None and shape.family in FAMILIES:  # it reads as it was trained to
        causal = FAMILIES[shape.family].causal
    refusal = _refusal(place, shape, written)
    layout = None
    if refusal is None and written is not None:
        layout = prompt_layout(written.objective, tokenizer, written.languages(direction))
    return Equipment(tokenizer, directory.name, layout, refusal, causal)


def assemble(shape: Shape, state: Mapping[str, Tensor]) -> Network:
    """The network with these tensors as its parameters, in evaluation mode.

    Raises:
        WeightsError: names or shapes differ.
    """
    model = shape.build()
    try:
        # Of published matrices that are stored the other way round, some are views.
        model.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"the weights do not fit the model: {error}") from error
    return model.eval().requires_grad_(False)


def usable_device(device: str | torch.device) -> torch.device:
    """The device, where it can be used.

    Raises:
        UsageError: it cannot.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {str(device)!r} cannot be used here: {reason}") from error


def _read_run(place: Place) -> tuple[Shape, dict[str, Tensor]]:
    from mainspring.train.checkpoint import load_model_state

    assert place.checkpoint is not None
    recipe = Run(place.directory).read_recipe()
    tokenizer = Tokenizer.load(place.directory)
    config = resolve(recipe.model, tokenizer.vocab_size)
    objective = build(recipe.objective, Vocabulary.of_tokenizer(tokenizer))
    state = network_state(objective, load_model_state(place.checkpoint))
    return _without_idle_heads(place, recipe.model.family, config, dict(state))


def _without_idle_heads(
    place: Place, family: str, config: TransformerConfig, state: dict[str, Tensor]
) -> tuple[Shape, dict[str, Tensor]]:
    """Heads of pretraining do nothing in an encoder that writes no text, and are left out."""
    whole = Shape(family=family, config=config)
    if config.is_encoder_decoder or _refusal(place, whole, _written(place, whole)) is None:
        return whole, state
    bare = encoder_config(config)
    wanted = expected_shapes(bare)
    if not set(wanted) <= set(state):  # `assemble` says which are missing
        return whole, state
    return Shape(family=family, config=bare), {name: state[name] for name in wanted}


def _written(place: Place, shape: Shape) -> Written | None:
    """What the network has learnt, as far as that is known."""
    if shape.head is not None or shape.embed is not None:
        return None
    if place.kind == "run":
        return written_by(Run(place.directory).read_recipe(), shape.config, place.directory)
    written = kept(place.directory) or published(shape.family)
    if written is None and FAMILIES[shape.family].causal:
        written = Written(CausalConfig())
    return written


def _refusal(place: Place, shape: Shape, written: Written | None) -> str | None:
    """Why the network writes no text, if it does not."""
    if written is not None and written.writes:
        return None
    if place.kind == "run" and written is not None:
        return (
            f"{place.directory}: trained with objective {written.objective.kind!r}, which does not learn to "
            f"write text; generation needs a model trained with one of {', '.join(GENERATING)}"
        )
    causal = sorted(name for name, family in FAMILIES.items() if family.causal or published(name))
    what = shape.family or "model of this kind"
    return (
        f"{place.directory}: a {what} does not continue text; generation needs a model that writes "
        f"({', '.join(causal)})"
    )
