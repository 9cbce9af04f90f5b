"""The enumerations that the vendor's package exposes, as far as its public users name them.

Public sources: the model zoo imports `InferenceContext` from the package and `States` from this module, and compares
`runner.state` with the members of `States`. The values are documented only.
"""

from enum import Enum


class States(str, Enum):
    """What a runner holds."""

    UNINITIALIZED = "uninitialized"
    HAILO_MODEL = "hailo_model"
    FP_OPTIMIZED_MODEL = "fp_optimized_model"
    QUANTIZED_MODEL = "quantized_model"
    COMPILED_MODEL = "compiled_model"


class InferenceContext(Enum):
    """Which form of the model `infer` runs."""

    SDK_NATIVE = "sdk_native"
    SDK_FP_OPTIMIZED = "sdk_fp_optimized"
    SDK_QUANTIZED = "sdk_quantized"
    SDK_HAILO_HW = "sdk_hailo_hw"
