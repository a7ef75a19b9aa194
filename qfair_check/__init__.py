"""Fairness regression tests for quantized models: a pytest plugin, a command line and a library."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qfair_check.baseline_file import read_baseline as read_baseline
    from qfair_check.baseline_file import write_baseline as write_baseline
    from qfair_check.baseline_record import Baseline as Baseline
    from qfair_check.errors import FairnessError as FairnessError
    from qfair_check.errors import InputError as InputError
    from qfair_check.errors import MeasureError as MeasureError
    from qfair_check.errors import OptionError as OptionError
    from qfair_check.errors import QFairError as QFairError
    from qfair_check.errors import UntrustedPickleError as UntrustedPickleError
    from qfair_check.inputs.data import GroupedData as GroupedData
    from qfair_check.inputs.data import LabelledData as LabelledData
    from qfair_check.inputs.data import grouped_data as grouped_data
    from qfair_check.inputs.data import load_data as load_data
    from qfair_check.inputs.model import Model as Model
    from qfair_check.inputs.model import load_model as load_model
    from qfair_check.inputs.model import save_model as save_model
    from qfair_check.inputs.quantized_file import FileSize as FileSize
    from qfair_check.inputs.quantized_file import model_file_size as model_file_size
    from qfair_check.judge.assertions import InsufficientDataWarning as InsufficientDataWarning
    from qfair_check.judge.assertions import assert_accuracy_drop_below as assert_accuracy_drop_below
    from qfair_check.judge.assertions import assert_cosine_distance_below as assert_cosine_distance_below
    from qfair_check.judge.assertions import assert_flip_rate_below as assert_flip_rate_below
    from qfair_check.judge.assertions import assert_fvo_below as assert_fvo_below
    from qfair_check.judge.assertions import assert_fvo_increase_below as assert_fvo_increase_below
    from qfair_check.judge.assertions import assert_group_accuracy_drop_below as assert_group_accuracy_drop_below
    from qfair_check.judge.assertions import assert_overall_accuracy_above as assert_overall_accuracy_above
    from qfair_check.judge.assertions import assert_sparsity_below as assert_sparsity_below
    from qfair_check.judge.assertions import assert_worst_group_accuracy_above as assert_worst_group_accuracy_above
    from qfair_check.judge.curvature_assertions import assert_gradient_norm_ratio as assert_gradient_norm_ratio
    from qfair_check.judge.curvature_assertions import assert_lambda_max_ratio as assert_lambda_max_ratio
    from qfair_check.judge.limits import gate_limits as gate_limits
    from qfair_check.judge.pareto_assertion import assert_on_pareto_front as assert_on_pareto_front
    from qfair_check.judge.regression import judge_regression as judge_regression
    from qfair_check.judge.text import describe as describe
    from qfair_check.judge.verdicts import Outcome as Outcome
    from qfair_check.judge.verdicts import Verdict as Verdict
    from qfair_check.judge.verdicts import judge_audit as judge_audit
    from qfair_check.measure.curvature_options import CurvatureOptions as CurvatureOptions
    from qfair_check.measure.run import audit as audit
    from qfair_check.quantize.allocation import Allocation as Allocation
    from qfair_check.quantize.export import export_quantized as export_quantized
    from qfair_check.quantize.model import quantize_model as quantize_model
    from qfair_check.quantize.saved import save_quantized as save_quantized
    from qfair_check.quantize.spec import Scheme as Scheme
    from qfair_check.record import Audit as Audit
    from qfair_check.remedy.attach import attach_lsq as attach_lsq
    from qfair_check.remedy.attach import freeze_lsq as freeze_lsq
    from qfair_check.remedy.attach import lsq_layers as lsq_layers
    from qfair_check.remedy.attach import step_parameters as step_parameters
    from qfair_check.remedy.augment import augmented as augmented
    from qfair_check.remedy.batchnorm import reestimate_batchnorm as reestimate_batchnorm
    from qfair_check.remedy.dampening import OscillationTracker as OscillationTracker
    from qfair_check.remedy.dampening import dampening_coefficient as dampening_coefficient
    from qfair_check.remedy.dampening import dampening_loss as dampening_loss
    from qfair_check.remedy.epoch import distillation_loss as distillation_loss
    from qfair_check.remedy.fair_qat import Remedy as Remedy
    from qfair_check.remedy.fair_qat import remediate as remediate
    from qfair_check.remedy.loss import group_weights as group_weights
    from qfair_check.remedy.loss import group_weights_from_difficulty as group_weights_from_difficulty
    from qfair_check.remedy.loss import weighted_cross_entropy as weighted_cross_entropy
    from qfair_check.remedy.lsq import LSQ as LSQ
    from qfair_check.remedy.lsq import lsq_quantize as lsq_quantize
    from qfair_check.remedy.offsets import equalizing_offsets as equalizing_offsets
    from qfair_check.remedy.offsets import output_bias as output_bias
    from qfair_check.remedy.recipe import Recipe as Recipe
    from qfair_check.remedy.sampling import GroupBalancedSampler as GroupBalancedSampler

__version__ = "0.1.0"

_HOMES = {
    "qfair_check.baseline_file": ("read_baseline", "write_baseline"),
    "qfair_check.baseline_record": ("Baseline",),
    "qfair_check.errors": (
        "FairnessError",
        "InputError",
        "MeasureError",
        "OptionError",
        "QFairError",
        "UntrustedPickleError",
    ),
    "qfair_check.inputs.data": ("GroupedData", "LabelledData", "grouped_data", "load_data"),
    "qfair_check.inputs.model": ("Model", "load_model", "save_model"),
    "qfair_check.inputs.quantized_file": ("FileSize", "model_file_size"),
    "qfair_check.judge.assertions": (
        "InsufficientDataWarning",
        "assert_accuracy_drop_below",
        "assert_cosine_distance_below",
        "assert_flip_rate_below",
        "assert_fvo_below",
        "assert_fvo_increase_below",
        "assert_group_accuracy_drop_below",
        "assert_overall_accuracy_above",
        "assert_sparsity_below",
        "assert_worst_group_accuracy_above",
    ),
    "qfair_check.judge.curvature_assertions": ("assert_gradient_norm_ratio", "assert_lambda_max_ratio"),
    "qfair_check.judge.limits": ("gate_limits",),
    "qfair_check.judge.pareto_assertion": ("assert_on_pareto_front",),
    "qfair_check.judge.regression": ("judge_regression",),
    "qfair_check.judge.text": ("describe",),
    "qfair_check.judge.verdicts": ("Outcome", "Verdict", "judge_audit"),
    "qfair_check.measure.curvature_options": ("CurvatureOptions",),
    "qfair_check.measure.run": ("audit",),
    "qfair_check.quantize.allocation": ("Allocation",),
    "qfair_check.quantize.export": ("export_quantized",),
    "qfair_check.quantize.model": ("quantize_model",),
    "qfair_check.quantize.saved": ("save_quantized",),
    "qfair_check.quantize.spec": ("Scheme",),
    "qfair_check.record": ("Audit",),
    "qfair_check.remedy.attach": (
        "attach_lsq",
        "freeze_lsq",
        "lsq_layers",
        "step_parameters",
    ),
    "qfair_check.remedy.augment": ("augmented",),
    "qfair_check.remedy.batchnorm": ("reestimate_batchnorm",),
    "qfair_check.remedy.dampening": (
        "OscillationTracker",
        "dampening_coefficient",
        "dampening_loss",
    ),
    "qfair_check.remedy.epoch": ("distillation_loss",),
    "qfair_check.remedy.fair_qat": ("Remedy", "remediate"),
    "qfair_check.remedy.loss": (
        "group_weights",
        "group_weights_from_difficulty",
        "weighted_cross_entropy",
    ),
    "qfair_check.remedy.lsq": (
        "LSQ",
        "lsq_quantize",
    ),
    "qfair_check.remedy.offsets": ("equalizing_offsets", "output_bias"),
    "qfair_check.remedy.recipe": ("Recipe",),
    "qfair_check.remedy.sampling": ("GroupBalancedSampler",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
