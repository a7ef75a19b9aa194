import io
import sys
import time

import pytest

from qfair_check.progress import training_bar
from qfair_check.remedy.epoch import Step


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_bar_shows_epoch_and_loss_and_is_gone_at_the_end(monkeypatch, error):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    try:
        with training_bar() as bar:
            for epoch in (1, 2):
                for batch in (1, 2, 3):
                    bar.step(Step(epoch, batch, 3, 0.5))
                    time.sleep(0.12)  # the bar is drawn ten times a second
                bar.close()
            bar.step(Step(3, 1, 3, 0.5))
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    shown = terminal.getvalue()
    assert "epoch   1:" in shown
    assert "epoch   2:" in shown
    assert "loss 0.5000" in shown
    assert shown.rsplit("\r", 2)[-1].strip() == ""


def test_nothing_is_shown_where_nobody_looks(capsys):
    with training_bar() as bar:
        bar.step(Step(1, 1, 3, 0.5))
    assert capsys.readouterr().err == ""
