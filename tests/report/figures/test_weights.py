from dataclasses import replace

from qfair_check.record import Histogram
from qfair_check.report.figures.weights import weight_change_exhibit, weight_distribution_exhibit


def audit_of(make_audit):
    return make_audit({"A": 50, "B": 60}, fp32={"A": 40, "B": 50}, int4={"A": 30, "B": 50})


def test_difference_and_sparsity_stand_beside_their_bars(make_audit, texts):
    exhibit = weight_change_exhibit(audit_of(make_audit))
    assert exhibit.table.rows == [
        ["fp32", "1,000", "3.5", "250", "25.0%"],
        ["int4", "1,000", "3.5", "250", "25.0%"],
        ["int4: fc", "1,000", "3.5", "250", "25.0%"],
    ]
    assert texts(exhibit.drawings[0]).count("25.0%") == 2
    assert "25.0% of them are 0" in exhibit.drawings[0].alt


def test_each_precision_has_a_panel_and_each_bin_a_row(make_audit, texts):
    audit = audit_of(make_audit)
    finer = replace(audit.precisions[1].weights, histogram=Histogram(-1.0, 1.0, (0, 3, 4, 0)))
    audit = replace(audit, precisions=(audit.precisions[0], replace(audit.precisions[1], weights=finer)))
    exhibit = weight_distribution_exhibit(audit)
    assert {"fp32", "int4"} <= set(texts(exhibit.drawings[0]))
    assert exhibit.table.head == ["weight", "fp32", "int4"]
    assert exhibit.table.rows == [
        ["-1 to -0.9802", "1000", "-"],
        ["-0.5 to 0", "-", "3"],
        ["0 to 0.5", "-", "4"],
    ]


def test_weights_that_are_all_zero_can_be_drawn(make_audit):
    audit = audit_of(make_audit)
    flat = tuple(
        replace(result, weights=replace(result.weights, histogram=Histogram(0.0, 0.0, (10,))))
        for result in audit.precisions
    )
    assert weight_distribution_exhibit(replace(audit, precisions=flat)).drawings


def test_levels_are_of_a_channel_where_channels_have_scales(make_audit):
    audit = audit_of(make_audit)
    assert "At int4 a layer has at most 15 distinct values." in weight_distribution_exhibit(audit).drawings[0].alt
    weights = audit.at(4).weights
    layer = replace(weights.layers[0], scale=(0.1,) * 10, zero_point=(0,) * 10)
    channels = replace(audit.at(4), weights=replace(weights, layers=(layer,)))
    alt = weight_distribution_exhibit(replace(audit, precisions=(audit.fp32, channels))).drawings[0].alt
    assert "At int4 a channel has at most 15 distinct values." in alt
