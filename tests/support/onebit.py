"""The compressed mean, 1-bit Adam, 1-bit LAMB and 0/1 Adam of W ranks in one process and in double precision,
written from the papers: the oracle of what the ranks do."""

import torch


def signs(z, runs):
    """Each run as the mean of its absolute values times its signs."""
    parts = [torch.where(part >= 0, 1.0, -1.0) * part.abs().mean() for part in z.split(runs) if len(part)]
    return torch.cat(parts).to(z.dtype) if parts else z.clone()


class Mean:
    """W workers and W servers, chunk by chunk."""

    def __init__(self, chunks):
        self.chunks = [[n for n in runs if n] for runs in chunks]
        self.sizes = [sum(runs) for runs in self.chunks]
        self.worker = torch.zeros(len(chunks), sum(self.sizes), dtype=torch.float64)
        self.server = [torch.zeros(size, dtype=torch.float64) for size in self.sizes]

    def __call__(self, rows):
        z = rows.double() + self.worker
        runs = [n for chunk in self.chunks for n in chunk]
        q = torch.stack([signs(row, runs) for row in z])
        self.worker = z - q
        out = []
        for number, part in enumerate(q.mean(0).split(self.sizes)):
            s = part + self.server[number]
            sent = signs(s, self.chunks[number])
            self.server[number] = s - sent
            out.append(sent)
        return torch.cat(out)

    @property
    def owed(self):
        return self.worker.mean(0) + torch.cat(self.server)

    def share(self):
        owed = self.owed
        self.worker.zero_()
        self.server = list(owed.split(self.sizes))


class Simulated:
    """Optimizers over W ranks; `x` [n] are the weights, all in one row, `sizes` the tensors in it.

    Args:
        start: weights.
        sizes: elements of each tensor.
        decay: weight decay of each tensor; LAMB adapts those that have one.
        mean: what joins messages.
        directions: messages of 1-bit Adam hold momenta over the root of the variance.
    """

    def __init__(self, start, sizes, decay, mean, *, lr, betas, eps, freeze, directions=True):
        self.directions = directions
        self.x = start.double().clone()
        self.sizes, self.mean = sizes, mean
        self.lr, self.betas, self.eps, self.freeze = lr, betas, eps, freeze
        self.decay = self.spread(decay)
        self.decays = decay
        self.m, self.v = torch.zeros_like(self.x), torch.zeros_like(self.x)
        self.t = 0

    def spread(self, values):
        """A value of each tensor, for each of its elements."""
        sizes = torch.tensor(self.sizes)
        return torch.tensor(values, dtype=torch.float64).repeat_interleave(sizes)

    def moments(self, g):
        b1, b2 = self.betas
        self.m, self.v = b1 * self.m + (1 - b1) * g, b2 * self.v + (1 - b2) * g * g
        return self.m / (1 - b1**self.t), self.v / (1 - b2**self.t)

    def direction(self, m, v):
        return m / (v.sqrt() + self.eps) + self.decay * self.x

    @property
    def weights(self):
        """Of each rank [W, n] (or of all [n])."""
        return self.x


class Adam(Simulated):
    def step(self, rows):
        self.t += 1
        if self.t <= self.freeze:
            m, v = self.moments(rows.double().mean(0))
            if self.t == self.freeze:
                self.m, self.v = m, v
        else:
            b1 = self.betas[0]
            rows, moves = b1 * self.m + (1 - b1) * rows.double(), self.v != 0
            if self.directions:
                width = self.v.sqrt() + self.eps
                self.m = self.mean(rows * moves / width) * width * moves
            else:
                self.m = self.mean(rows) * moves
            m, v = self.m, self.v
        self.x = self.x - self.lr * self.direction(m, v)


class Lamb(Simulated):
    """With the default thresholds; `mean` has one run a chunk."""

    def parts(self, x):
        return x.split(self.sizes)

    def step(self, rows):
        self.t += 1
        if self.t == 1:
            self.c, self.r = [0.0] * len(self.sizes), [1.0] * len(self.sizes)
        warm = self.t <= self.freeze
        m, v = self.moments(rows.double().mean(0)) if warm else self.compressed(rows.double())
        lengths = []
        for i, (w, u) in enumerate(zip(self.parts(self.x), self.parts(self.direction(m, v)), strict=True)):
            if not self.decays[i]:
                lengths.append(1.0)
            elif warm:
                ratio = float((w.norm() / u.norm()).clamp(0.01, 10.0))
                self.c[i] = 0.9 * (self.c[i] or ratio) + 0.1 * ratio
                lengths.append(ratio)
            else:
                lengths.append(self.c[i] * self.factor(i, self.parts(m)[i], self.parts(v)[i], u))
        scale = self.spread(lengths)
        self.x = self.x - self.lr * scale * self.direction(m, v)
        if self.t == self.freeze:
            self.m, self.v, self.fresh = m, v, v.clone()
            sizes = [part.norm() / len(part) ** 0.5 for part in self.parts(m)]
            each = [float(sum(sizes) / len(sizes) / size) for size in sizes]
            self.scaling = self.spread(each)

    def compressed(self, rows):
        b1, b2 = self.betas
        before = self.m
        self.m = self.mean((b1 * before + (1 - b1) * rows) * self.scaling) / self.scaling * (self.v != 0)
        guess = (self.m - b1 * before) / (1 - b1)
        self.fresh = b2 * self.fresh + (1 - b2) * guess * guess
        return self.m, self.v

    def factor(self, i, m, v, u):
        r = float(((v.sqrt() + self.eps) / (self.parts(self.fresh)[i].sqrt() + self.eps)).max())
        share = min(1.0, float((m / (v.sqrt() + self.eps)).norm() / u.norm()))
        r = min(max(r * share + 1 - share, 0.5), 4.0)
        self.r[i] = min(max(r, self.r[i] * 0.9), self.r[i] * 1.1)
        return self.r[i]


class ZeroOne(Simulated):
    """`policy(t)` says what step t does: "variance", "signs", "alone" or "meet"."""

    def __init__(self, *args, policy, world, **settings):
        super().__init__(*args, **settings)
        self.policy, self.updates = policy, 0
        self.world = world
        self.alone = None

    @property
    def weights(self):
        return self.x.expand(self.world, -1) if self.alone is None else self.alone[0]

    def step(self, rows):
        self.t += 1
        b1, b2 = self.betas
        what = self.policy(self.t)
        if what in ("variance", "signs"):
            if what == "variance":
                g = rows.double().mean(0)
                self.v, self.updates = b2 * self.v + (1 - b2) * g * g, self.updates + 1
            else:
                g = self.mean(rows.double()) * (self.v != 0)
            self.m = b1 * self.m + (1 - b1) * g
            m, v = self.m / (1 - b1**self.t), self.v / (1 - b2**self.updates)
            self.x = self.x - self.lr * self.direction(m, v)
            if self.t == self.freeze:
                self.m, self.v = m, v
                self.mean.worker.zero_()
                self.mean.server = [torch.zeros_like(s) for s in self.mean.server]
            return
        if self.alone is None:
            self.alone = self.x.repeat(self.world, 1), self.m.repeat(self.world, 1)
            self.went = 0.0
        w, m = self.alone
        m = (b1 * m + (1 - b1) * rows.double()) * (self.v != 0)
        root = self.v.sqrt() + self.eps
        self.alone, self.went = (w - self.lr * m / root, m), self.went + self.lr
        if what == "meet":
            self.meet()

    def meet(self):
        root = self.v.sqrt() + self.eps
        moved = self.mean((self.alone[0] - self.x) * root) * (self.v != 0)
        self.m = -moved / self.went
        self.x = self.x * (1 - self.decay * self.went) + moved / root
        self.alone = None
