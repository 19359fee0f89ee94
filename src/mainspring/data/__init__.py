"""Data: readers, token shards, mixtures, the global order of samples, and batches. Building is in
`mainspring.data.build`."""

from mainspring.data.batch import IGNORE, TokenBatch, bidirectional_batch, causal_batch, pad_rows
from mainspring.data.build import BuildReport, Progress, build, build_from, source_of
from mainspring.data.config import BuildConfig, DataConfig, SourceConfig
from mainspring.data.dataset import TokenData, TokenStream
from mainspring.data.documents import Document, Fault, ReadReport
from mainspring.data.embedded import docstring_documents, udhr_documents
from mainspring.data.loader import holdout_batch, holdout_count, holdout_rows, row_generators, rows
from mainspring.data.readers import read
from mainspring.data.sampler import Mixture, mixture_of, sample

__all__ = [
    "IGNORE",
    "BuildConfig",
    "BuildReport",
    "DataConfig",
    "Document",
    "Fault",
    "Mixture",
    "Progress",
    "ReadReport",
    "SourceConfig",
    "TokenBatch",
    "TokenData",
    "TokenStream",
    "bidirectional_batch",
    "build",
    "build_from",
    "causal_batch",
    "docstring_documents",
    "holdout_batch",
    "holdout_count",
    "holdout_rows",
    "mixture_of",
    "pad_rows",
    "read",
    "row_generators",
    "rows",
    "sample",
    "source_of",
    "udhr_documents",
]
