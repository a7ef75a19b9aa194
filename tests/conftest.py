import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: a second thread only waits, here and in child processes

import hypothesis.strategies
import numpy as np
import pytest
import torchvision.models

import qfair_check.demo.train
import qfair_check.gate
import qfair_check.inputs.parquet
import qfair_check.measure.run
import qfair_check.remediate_command
import qfair_check.remedy.fair_qat
from qfair_check.audit_file import outcomes_digest
from qfair_check.curvature_record import CurvatureSettings, GroupCurvature
from qfair_check.outcome_rows import pack_bits, pack_positions
from qfair_check.record import (
    SCHEMA_VERSION,
    Audit,
    DataRecord,
    Histogram,
    InputsRecord,
    LayerWeights,
    Measures,
    ModelRecord,
    PrecisionResult,
    RunRecord,
    Settings,
    Weights,
)

# pytester forgets what a nested run imports: torch, torchvision and pyarrow cannot be imported twice,
# and hypothesis takes long.
PRELOADED = (
    hypothesis.strategies,
    torchvision.models,
    qfair_check.demo.train,
    qfair_check.gate,
    qfair_check.inputs.parquet,
    qfair_check.measure.run,
    qfair_check.remediate_command,
    qfair_check.remedy.fair_qat,
)

Counts = Mapping[str, int | None]
Curvatures = Mapping[str, GroupCurvature]


def measures(samples: int, correct: int | None, before: int | None, **changes: object) -> Measures:
    both = None if correct is None or before is None else min(correct, before)
    reason = "no samples" if not samples else "1 of them has NaN or infinite logits"
    known = correct is not None and before is not None and samples > 0
    made = Measures(
        samples=samples,
        correct=correct,
        accuracy=None if correct is None or not samples else correct / samples,
        accuracy_drop=float(Fraction(before - correct, samples)) if known else None,
        loss=0.5 if known else None,
        cosine_distance=0.01 if known else None,
        l1_distance=0.2 if known else None,
        l2_distance=0.1 if known else None,
        logit_variance=1.0 if known else None,
        softmax_variance=0.1 if known else None,
        prediction_probability=0.8 if known else None,
        flips=abs(before - correct) if known else None,
        flip_rate=abs(before - correct) / samples if known else None,
        both_right=both,
        right_to_wrong=before - both if known else None,
        wrong_to_right=correct - both if known else None,
        both_wrong=samples - max(before, correct) if known else None,
        nonfinite=0 if correct is not None else 1,
        null_logits=0,
        dtdb=(samples, *[0] * 49) if known else (),
        undefined={} if known else {"accuracy": reason, "accuracy_drop": reason, "flip_rate": reason},
    )
    return replace(made, **changes)


def result(precision: str, samples: Counts, correct: Counts, before: Counts) -> PrecisionResult:
    groups = tuple(measures(samples[name], correct[name], before[name]) for name in samples)
    pooled = [None if None in counts.values() else sum(counts.values()) for counts in (correct, before)]
    accuracies, bases = (
        [Fraction(counts[name], samples[name]) for name in samples if counts[name] is not None and samples[name]]
        for counts in (correct, before)
    )
    defined = len(accuracies) == len(samples) > 1
    fvo = max(accuracies) - min(accuracies) if defined else None
    both = defined and len(bases) == len(samples)
    return PrecisionResult(
        precision=precision,
        computation="fp32",
        overall=measures(sum(samples.values()), *pooled),
        groups=groups,
        fvo=None if fvo is None else float(fvo),
        fvo_increase=float(fvo - (max(bases) - min(bases))) if both else None,
        undefined={} if defined else {"fvo": "a group has no accuracy"},
        recalls=(),
        weights=Weights(
            1000,
            250,
            0.25,
            3.5,
            Histogram(-1.0, 1.0, (1000, *[0] * 100)),
            (LayerWeights("fc", (10, 100), 4, "absmax", (0.1,), (0,), 15, 250, 0, 3.5),),
        ),
    )


def curved(made: PrecisionResult, groups: Curvatures, moved: tuple[str, ...]) -> PrecisionResult:
    told = moved if groups and made.precision != "fp32" else ()
    return replace(made, curvature=tuple(groups.values()), moved=told)


def curvature_settings(samples: Mapping[str, int], curvature: Mapping[str, Curvatures]) -> CurvatureSettings | None:
    drawn = [(name, group.samples) for groups in curvature.values() for name, group in groups.items()]
    most = max((count for name, count in drawn if count < samples[name]), default=None)
    return CurvatureSettings(most, "lanczos", 0.05, 1100, 64) if curvature else None


@pytest.fixture(scope="session")
def make_curvature() -> Callable[..., GroupCurvature]:
    def make(samples: int, **changes: object) -> GroupCurvature:
        """Return a converged measurement on so many samples: `make(50, lambda_max=4.0, gradient_norm=2.0)`."""
        made = GroupCurvature(
            samples,
            loss=0.5,
            gradient_norm=1.0,
            lambda_max=4.0,
            lambda_min=-0.5,
            residual=0.01,
            hvps=8,
            converged=True,
        )
        return replace(made, **changes)

    return make


@pytest.fixture(scope="session")
def make_audit() -> Callable[..., Audit]:
    def make(
        samples: Mapping[str, int],
        *,
        curvature: Mapping[str, Curvatures] | None = None,
        moved: tuple[str, ...] = (),
        **correct: Counts,
    ) -> Audit:
        """Return an audit with these counts by group: `make({"A": 50}, fp32={"A": 40}, int4={"A": 30})`.

        `curvature` maps precisions to groups to what `make_curvature` makes; `moved` is that of every quantized one.
        """
        total = sum(samples.values())
        known = curvature or {}
        results = tuple(
            curved(result(name, samples, counts, correct["fp32"]), known.get(name, {}), moved)
            for name, counts in correct.items()
        )
        right = {
            name: np.array(
                list(
                    itertools.chain.from_iterable(
                        [1] * (counts[group] or 0) + [0] * (samples[group] - (counts[group] or 0)) for group in samples
                    )
                ),
                np.bool_,
            )
            for name, counts in correct.items()
        }
        outcomes = {name: pack_bits(bits) for name, bits in right.items()}
        group_bits = pack_positions(np.repeat(np.arange(len(samples)), list(samples.values())), len(samples))
        return Audit(
            schema_version=SCHEMA_VERSION,
            model=ModelRecord("a" * 64, 1100, 1000, ()),
            data=DataRecord("d" * 64, total, tuple(samples)),
            settings=Settings(
                "absmax/symmetric/per-tensor", "", "c" * 64, 0, 64, "cpu", curvature_settings(samples, known)
            ),
            groups=tuple(samples),
            precisions=results,
            inputs=InputsRecord(
                "m.safetensors", "resnet18", "d.csv", "race", (), None, "given", None, (), (), None, None, ()
            ),
            run=RunRecord("2026-01-01T00:00:00+00:00", ("qfair",), 1.0, "Linux", 2, 64, 0, {"torch": "2"}),
            outcomes_sha256=outcomes_digest(outcomes, group_bits),
            outcomes=outcomes,
            outcomes_hold_groups=True,
            group_bits=group_bits,
        )

    return make
