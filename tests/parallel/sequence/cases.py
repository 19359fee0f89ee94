"""Models and batches whose tokens are cut over ranks: every scheme of positions, every kind of mask."""

import torch

from mainspring.data.batch import IGNORE, TokenBatch, bidirectional_batch, causal_batch
from mainspring.models.deberta.config import deberta_v2, discriminator
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.config import Rotary, T5Bias

ROWS, LENGTH, VOCAB = 4, 24, 40


def config(heads=4, **other):
    values = {"d_model": 32, "n_heads": heads, "n_layers": 2, "d_ff": 48, "vocab_size": VOCAB, **other}
    return TransformerConfig(**{"max_positions": LENGTH, "init_std": 0.3, **values})


def bias(**other):
    return {"positions": (T5Bias(buckets=8, max_distance=12, **other),)}


MODELS = {
    "absolute": lambda: config(),
    "rotary": lambda: config(positions=(Rotary(),)),
    "t5": lambda: config(**bias()),
    "gated": lambda: config(**bias(gate="query")),
    "gated by input": lambda: config(**bias(gate="input")),
    "three heads": lambda: config(3, d_model=24, positions=(Rotary(),)),
    "encoder-decoder": lambda: config(n_layers=0, encoder_layers=2, decoder_layers=2, **bias()),
    "experts": lambda: config(experts={"count": 4, "every": 1, "capacity_factor": None}),
    "disentangled": lambda: deberta_v2(
        32, 2, 4, d_ff=48, vocab_size=VOCAB, max_positions=LENGTH, init_std=0.3
    ),
    "replaced": lambda: discriminator(
        32, 2, 4, d_ff=48, vocab_size=VOCAB, max_positions=LENGTH, init_std=0.3
    ),
}


def model(name, seed=0):
    return initialize(Transformer(MODELS[name]()), seed).train()


def batch(kind, seed=0, length=LENGTH):
    """Tokens with labels on two in three of them."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCAB, (ROWS, length), generator=draw)
    index = torch.arange(length).expand_as(ids)
    ends = torch.tensor([length, length - 3, 7, 1])[:, None]
    doc = (index >= 5).long() + (index >= 16)
    match kind:
        case "causal":
            made = causal_batch(ids)
        case "causal, padded":
            made = causal_batch(ids, valid=index < ends)
        case "causal, packed":
            made = causal_batch(ids, doc=doc)
        case "bidirectional":
            made = bidirectional_batch(ids)
        case "bidirectional, padded":
            made = bidirectional_batch(ids, valid=index < ends)
        case "bidirectional, packed":
            made = bidirectional_batch(ids, doc=doc)
        case "prefix":
            made = TokenBatch(ids, index, (index - 9).clamp(min=0))
        case "pseudo-masked":  # the text, then at the places of some of it a mask and a pseudo-mask each
            half, more = length * 2 // 3, length - length * 2 // 3
            at = torch.arange(more) // 2 * 2
            rank = torch.cat([torch.zeros(half), 1 + at / 2]).long().expand_as(ids)
            pos = torch.cat([torch.arange(half), at]).expand_as(ids)
            made = TokenBatch(ids, pos, rank, probe=((index >= half) & (index % 2 == 0)))
        case "anything":
            rank = torch.randint(4, ids.shape, generator=draw)
            probe = torch.rand(ids.shape, generator=draw) < 0.3
            pos = torch.randint(length, ids.shape, generator=draw)
            made = TokenBatch(ids, pos, rank, probe, doc=doc, valid=index < ends)
    labelled = torch.rand(ids.shape, generator=draw) < 0.66
    if made.valid is not None:
        labelled &= made.valid
    return made._replace(labels=torch.randint(VOCAB, ids.shape, generator=draw).where(labelled, IGNORE))


KINDS = (
    "causal", "causal, padded", "causal, packed", "bidirectional", "bidirectional, padded",
    "bidirectional, packed", "prefix", "pseudo-masked", "anything",
)  # fmt: skip


def loss(network, view, source=None, ranks=1):
    """Sum of the losses at the labels, and how many these are; `ranks` have the same losses of balance."""
    where = view.labels != IGNORE
    out = network(view, select=where, source=source)
    labels = view.labels[where]
    if out.logits.shape[-1] == 1:
        logits = out.logits.flatten()
        total = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, (labels % 2).float(), reduction="sum"
        )
    else:
        total = torch.nn.functional.cross_entropy(out.logits, labels, reduction="sum")
    if out.auxiliary is not None:
        total = total + 20.0 * out.auxiliary.sum() / ranks
    return total, len(labels)
