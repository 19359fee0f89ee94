"""Direction benchmarks: what layers of experts are worth at small scale, at equal FLOPs, over seeds.

- `moe`: eight experts, one a token, in every other layer of a causal language model beside the dense model.
- `rts`: random token selection beside positional dropping (first come), both at a capacity factor of 1.
- `zcode`: Z-code's training in miniature: translation from 24 languages (Tatoeba) with denoising, experts
  beside the dense twin; chrF and BLEU by sacrebleu, which has to be importable.

`benchmarks.pretrain` has the machinery. Nothing is passed or missed.
"""

import sys

from benchmarks.pretrain import arguments, run

NAMES = ("moe", "rts", "zcode")


if __name__ == "__main__":
    sys.exit(run("experts", "Layers of experts at small scale (direction)", arguments(__doc__ or "", NAMES)))
