from qfair_check.report.figures.steepness import gradient_exhibit, lambda_exhibit, log_lambda_exhibit


def test_every_number_is_in_the_table(curved_audit):
    audit = curved_audit()
    rows = lambda_exhibit(audit).table.rows
    assert len(rows) == len(audit.groups) * len(audit.precisions)
    for place, row in enumerate(rows):
        index, result = place // 3, audit.precisions[place % 3]
        group = result.curvature[index]
        assert row[1:4] == [str(result.groups[index].samples), "50", result.precision]
        assert row[4] == f"{group.lambda_max:.4g}"
        assert row[5].startswith(f"{result.groups[index].accuracy:.3f} [")
        assert row[6:] == ["0.8", f"{group.gradient_norm:.4g}"]


def test_groups_are_numbered_at_the_narrowest_precision(curved_audit, texts, marks):
    audit = curved_audit([f"g{place}" for place in range(15)])
    exhibit = gradient_exhibit(audit)
    shown = texts(exhibit.drawings[0])
    assert shown.count("12") == 3  # in both panels and in the key
    assert "13" not in shown
    assert marks(exhibit.drawings[0]) == 3 + 2 * 15 * 3
    assert (
        "All groups are drawn; 3 have no number: numbered are the 11 with the lowest accuracy at int4, and the one "
        "with the highest."
    ) in exhibit.notes
    assert "Gradient and curvature were measured on a subsample of at most 50 samples of each group." in exhibit.notes


def test_a_value_of_zero_or_less_is_not_on_the_log_axis(curved_audit, marks):
    audit = curved_audit(lambda_max=-2.0)
    exhibit = log_lambda_exhibit(audit)
    assert marks(exhibit.drawings[0]) == marks(log_lambda_exhibit(curved_audit()).drawings[0]) - 1
    told = "λmax of $x$ and $y$ at int4 is 0 or less, which the logarithmic axis cannot show; the table has it."
    assert f"Not drawn: {told}" in exhibit.notes
    assert f"Not drawn: {told}" in lambda_exhibit(audit).notes
    assert exhibit.table.rows[0][-1] == "-2"


def test_all_values_at_zero_or_less_leave_an_empty_axis(curved_audit, marks):
    audit = curved_audit(["A"], ["fp32", "int4"], lambda_max=-1.0)
    exhibit = log_lambda_exhibit(audit, ["int4"])
    assert marks(exhibit.drawings[0]) == 1  # the legend
    assert marks(lambda_exhibit(audit, ["int4"]).drawings[0]) == 1


def test_what_did_not_converge_is_hollow_and_said(curved_audit, parsed):
    exhibit = log_lambda_exhibit(curved_audit(converged=False))
    assert any(use.get("fill-opacity") == "0" for use in parsed(exhibit.drawings[0]).iter("use"))
    assert "Hollow: λmax of $x$ and $y$ at int4 did not converge: the true value may be larger." in exhibit.notes
    assert exhibit.table.rows[0][-1].endswith("(not converged)")


def test_what_did_not_converge_is_hollow_among_the_points_too(curved_audit, parsed):
    drawing = lambda_exhibit(curved_audit(converged=False)).drawings[0]
    assert sum(use.get("fill-opacity") == "0" for use in parsed(drawing).iter("use")) == 3  # once in each panel
    drawing = lambda_exhibit(curved_audit()).drawings[0]
    assert not any(use.get("fill-opacity") == "0" for use in parsed(drawing).iter("use"))


def test_what_is_not_defined_is_said_with_its_reason(curved_audit):
    exhibit = gradient_exhibit(curved_audit(gradient_norm=None, undefined={"gradient_norm": "no samples"}))
    assert "Not drawn: gradient norm of $x$ and $y$ at int4 is not defined: no samples." in exhibit.notes
    assert exhibit.table.rows[2][-1] == "not defined"


def test_a_model_without_gradients_makes_them_absent_with_the_reason(curved_audit):
    nothing = {
        "gradient_norm": None,
        "lambda_max": None,
        "undefined": {"gradient_norm": "no gradients", "lambda_max": "no"},
    }
    audit = curved_audit(["A"], ["fp32", "int4"], **nothing)
    assert gradient_exhibit(audit, ["int4"]).reason == "no group has a gradient norm: no gradients"


def test_extreme_values_are_drawn(curved_audit, marks):
    many = marks(lambda_exhibit(curved_audit()).drawings[0])
    for value in (1e308, 5e-324):
        assert marks(lambda_exhibit(curved_audit(lambda_max=value)).drawings[0]) == many
