"""Linear layers and tables of tokens in narrow formats, in two tiers behind one module API."""

from mainspring.infer.quantized.convert import (
    from_quantized,
    load_packed,
    packed_metadata,
    packed_state,
    quantize_model,
    quantized_layers,
    set_quantized,
    use_kernels,
)
from mainspring.infer.quantized.kernels import PORTABLE, Kernels
from mainspring.infer.quantized.linear import QuantizedLinear
from mainspring.infer.quantized.precision import PRECISIONS, Precision, precision_named
from mainspring.infer.quantized.table import QuantizedTable

__all__ = [
    "PORTABLE",
    "PRECISIONS",
    "Kernels",
    "Precision",
    "QuantizedLinear",
    "QuantizedTable",
    "from_quantized",
    "load_packed",
    "packed_metadata",
    "packed_state",
    "precision_named",
    "quantize_model",
    "quantized_layers",
    "set_quantized",
    "use_kernels",
]
