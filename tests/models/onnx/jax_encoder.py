"""Makes jax_encoder.onnx and jax_encoder.npz beside this file.

In an environment of its own with jax 0.10.2, flax 0.12.8 and jax2onnx 0.17.1: `python jax_encoder.py`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx
from jax2onnx import to_onnx

GRAPH = Path(__file__).with_suffix(".onnx")


class Layer(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=16, decode=False, rngs=rngs)
        self.before, self.between = nnx.LayerNorm(16, rngs=rngs), nnx.LayerNorm(16, rngs=rngs)
        self.up, self.down = nnx.Linear(16, 32, rngs=rngs), nnx.Linear(32, 16, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.before(x))
        return x + self.down(jax.nn.gelu(self.up(self.between(x))))


class Encoder(nnx.Module):
    def __init__(self, rngs):
        self.table = nnx.Embed(20, 16, rngs=rngs)
        self.first, self.second = Layer(rngs), Layer(rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, ids):
        return self.head(self.second(self.first(self.table(ids))).mean(1))


def main():
    model = Encoder(nnx.Rngs(0))
    ids = np.random.default_rng(0).integers(0, 20, (5, 7)).astype(np.int32)
    onnx.save(to_onnx(model, inputs=[jax.ShapeDtypeStruct(("B", 7), jnp.int32)], model_name="encoder"), GRAPH)
    loss, grads = nnx.value_and_grad(lambda m: jnp.mean(jnp.square(m(ids))))(model)
    np.savez(
        GRAPH.with_suffix(".npz"),
        ids=ids,
        logits=np.asarray(model(ids)),
        loss=np.asarray(loss),
        table=np.asarray(grads.table.embedding.get_value()),
        norms=np.sort([float(jnp.linalg.norm(leaf.ravel())) for leaf in jax.tree.leaves(grads)]),
    )


if __name__ == "__main__":
    main()
