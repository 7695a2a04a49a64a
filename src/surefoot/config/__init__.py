"""Every option of a run, in sections; imports no third party but `annotated_types`."""

from surefoot.config.config import (
    Config,
    from_mapping,
    in_words,
    option_names,
    parse_options,
    range_of,
    validate,
)
from surefoot.config.options import (
    SECTIONS,
    AdvantageOptions,
    CollectOptions,
    LossOptions,
    MemoryOptions,
    NetworkOptions,
    NormalizationOptions,
    OnEnvFailure,
    OptimizerOptions,
    OverlapOptions,
    RecordOptions,
    RunOptions,
    TrustRegionOptions,
)

__all__ = [
    "SECTIONS",
    "AdvantageOptions",
    "CollectOptions",
    "Config",
    "LossOptions",
    "MemoryOptions",
    "NetworkOptions",
    "NormalizationOptions",
    "OnEnvFailure",
    "OptimizerOptions",
    "OverlapOptions",
    "RecordOptions",
    "RunOptions",
    "TrustRegionOptions",
    "from_mapping",
    "in_words",
    "option_names",
    "parse_options",
    "range_of",
    "validate",
]
