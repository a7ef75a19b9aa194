"""The figures of a report: from an audit to drawings, sentences and the numbers behind them."""
