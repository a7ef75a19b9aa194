from dataclasses import replace

from qfair_check.report.page.provenance import facts_of

SAMPLES = {"zero": 89, "eight": 87}


def facts(reported, rerun=()):
    return {title: {fact.term: fact.values for fact in held} for title, held in facts_of(reported, rerun)}


def test_everything_that_the_numbers_depend_on_is_told(make_audit, make_curvature, judged):
    groups = {name: make_curvature(50) for name in SAMPLES}
    made = make_audit(SAMPLES, fp32=SAMPLES, int4=SAMPLES, curvature={"fp32": groups, "int4": groups})
    inputs = replace(
        made.inputs,
        label="race",
        split="test",
        group_by=("race", "sex"),
        bins="age=0,18",
        features=("income", "debt"),
        image_size=(64, 48),
        mean=(0.5, 0.25),
        std=(0.1, 0.2),
        transforms="W",
        notices=("a file was skipped: --qfair-split",),
    )
    made = replace(
        made,
        inputs=inputs,
        model=replace(made.model, excluded=("head",)),
        settings=replace(made.settings, allocation="fc=int8", seed=7),
        run=replace(made.run, command=("qfair", "audit", "my model.pt")),
    )
    told = facts(judged(made, max_fvo="0.5,int4=0.25", insufficient="warn"), ("qfair", "gate", "my audit.json"))
    assert told["Run it again"] == {
        "measure": ("qfair audit 'my model.pt'",),
        "judge": ("qfair gate 'my audit.json'",),
    }
    assert told["Model"] == {
        "file": ("m.safetensors",),
        "architecture": ("resnet18",),
        "sha256 of the weights": ("a" * 64,),
        "parameters": ("1,100",),
        "quantized": ("1,000 parameters (90.9%)",),
        "left at fp32 on request": ("head",),
    }
    assert told["Data"] == {
        "file": ("d.csv",),
        "sha256 of inputs, labels and groups": ("d" * 64,),
        "samples": ("176 in 2 groups",),
        "split": ("test",),
        "label": ("race",),
        "groups by": ("race × sex",),
        "bins": ("age=0,18",),
        "features": ("income, debt",),
        "classes": ("zero, eight",),
        "class order": ("given",),
        "image size": ("64 × 48 pixels",),
        "mean": ("0.5, 0.25",),
        "standard deviation": ("0.1, 0.2",),
        "transforms": ("W",),
        "notices": ("a file was skipped: --split",),
    }
    assert told["Measurement"] == {
        "precisions": ("fp32: computed in fp32", "int4: computed in fp32"),
        "scheme": ("absmax/symmetric/per-tensor",),
        "bits of single layers": ("fc=int8",),
        "sha256 of scheme and bits": ("c" * 64,),
        "seed": ("7",),
        "chunk": ("64 samples",),
        "device": ("cpu",),
        "curvature": (
            "lanczos, at most 50 samples of each group, residual at most 0.05, 1,100 trained parameters, chunks of 64 "
            "samples",
        ),
    }
    assert told["Limits"] == {
        "FVO": ("at most 0.25 at int4",),
        "FVO increase": ("at most 0.05 at int4",),
        "worst group's accuracy drop": ("at most 0.05 at int4",),
        "overall accuracy drop": ("at most 0.02 at int4",),
        "limits that cannot be judged": ("warn",),
    }
    assert told["Environment"] == {
        "created": ("2026-01-01T00:00:00+00:00",),
        "took": ("1.0 s, 2 threads",),
        "platform": ("Linux",),
        "versions": ("torch 2",),
        "schema version of the audit": ("3",),
    }


def test_what_the_audit_does_not_hold_is_left_out_or_said_to_be_unknown(make_audit, judged):
    made = make_audit(SAMPLES, fp32=SAMPLES)
    made = replace(made, model=replace(made.model, sha256=None), run=replace(made.run, command=()))
    told = facts(judged(made))
    assert "Limits" not in told
    assert told["Run it again"] == {"measure": ("not known: the audit was made in Python or by pytest",)}
    assert told["Model"]["sha256 of the weights"] == ("unknown: the model is a plain callable",)
    assert "split" not in told["Data"]
    assert told["Data"]["groups by"] == ("class",)
    assert told["Measurement"]["curvature"] == ("not measured",)
