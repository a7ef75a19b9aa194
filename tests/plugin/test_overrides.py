import pytest

NET = """
import numpy as np
import pytest
import torch
from torch import nn

def linear(*rows):
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = torch.tensor(rows)
    return net

X = np.array([[1.0, 0.0]] * 40 + [[0.1, 1.0]] * 40, np.float32)
DATA = (X, [0] * 40 + [1] * 40, ["A"] * 40 + ["B"] * 40)
"""
MODEL = """
@pytest.fixture(scope="session")
def qfair_model():
    return linear([1.0, 0.0], [0.0, 0.3])
"""
OVERRIDE = (
    NET
    + MODEL
    + """
@pytest.fixture(scope="session")
def qfair_data():
    return DATA
"""
)


@pytest.mark.parametrize("arguments", [(), ("-n2",), ("-p", "no:cacheprovider")])
def test_the_gate_judges_what_the_rootdirs_conftest_gives(pytester, arguments):
    pytester.makeconftest(OVERRIDE)
    result = pytester.runpytest("--bits=8,2", *arguments)
    result.assert_outcomes(passed=3, failed=3)
    result.stdout.fnmatch_lines(
        ["qfair: model of the fixture qfair_model in conftest.py, data of the fixture qfair_data in conftest.py, at *"]
    )


def test_a_fixture_with_another_function_name_is_an_override_too(pytester):
    named = OVERRIDE.replace('(scope="session")\ndef qfair_model', "(name='qfair_model')\ndef made")
    pytester.makeconftest(named)
    pytester.runpytest("--bits=8,2").assert_outcomes(passed=3, failed=3)


def test_a_root_folder_behind_a_link_is_the_same(pytester, tmp_path_factory):
    pytester.makeconftest(OVERRIDE)
    pytester.makeini("[pytest]\n")
    link = tmp_path_factory.mktemp("links") / "project"
    link.symlink_to(pytester.path)
    pytester.runpytest("--bits=8", "-c", str(link / "tox.ini")).assert_outcomes(passed=3)


def test_a_plugin_of_the_user_may_override(pytester):
    pytester.makepyfile(mine=OVERRIDE)
    pytester.makeconftest("pytest_plugins = ['mine']")
    pytester.syspathinsert()
    result = pytester.runpytest("--bits=8,2")
    result.assert_outcomes(passed=3, failed=3)
    result.stdout.fnmatch_lines(["qfair: model of the fixture qfair_model in mine.py*"])


def test_an_override_wins_over_the_option_and_the_header_says_so(pytester):
    pytester.makeconftest(OVERRIDE)
    result = pytester.runpytest("--qfair-model=demo", "--bits=2")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["qfair: model of the fixture qfair_model in conftest.py*", "model   python*"])


def test_the_model_may_come_from_a_fixture_and_the_data_from_a_file(pytester, tiny):
    pytester.makeconftest(NET + MODEL)
    pytester.runpytest("--qfair-data=tiny.npz", "--bits=8,2").assert_outcomes(passed=3, failed=3)


def test_a_fixture_may_be_of_any_scope_and_a_test_sees_the_same(pytester, tiny):
    pytester.makeconftest(NET + MODEL.replace('(scope="session")', ""))
    pytester.makepyfile("def test_mine(qfair, qfair_model): assert qfair_model is not None; qfair.check()")
    pytester.runpytest("--qfair-data=tiny.npz", "--bits=8").assert_outcomes(passed=4)


def test_autouse_fixtures_that_look_at_their_module_do_not_disturb(pytester):
    pytester.makeconftest(
        OVERRIDE
        + """
@pytest.fixture(autouse=True)
def looking(request):
    assert request.module is not None and request.cls is None
"""
    )
    pytester.runpytest("--bits=8").assert_outcomes(passed=3)


def test_a_deeper_override_serves_the_tests_beside_it(pytester, tiny):
    folder = pytester.mkpydir("deeper")
    (folder / "conftest.py").write_text(OVERRIDE.replace("0.3", "1.0"))
    (folder / "test_deeper.py").write_text("def test_deeper(qfair): assert qfair.result.fvo == 0")
    pytester.makepyfile("def test_above(qfair): assert qfair.result.fvo == 0.75")
    options = ("--qfair-model=tiny.safetensors", "--qfair-data=tiny.npz", "--bits=2")
    pytester.runpytest(*options).assert_outcomes(passed=2, failed=3)


def test_a_deeper_override_needs_no_option(pytester):
    folder = pytester.mkpydir("deeper")
    (folder / "conftest.py").write_text(OVERRIDE)
    (folder / "test_deeper.py").write_text("def test_deeper(qfair): qfair.check()")
    pytester.runpytest().assert_outcomes(passed=1)


def test_a_deeper_model_reads_the_data_in_its_own_class_order(pytester, tiny):
    (tiny / "rows.csv").write_text("a,b,label\n" + "1,0,no\n" * 40 + "0.1,1,yes\n" * 40)
    folder = pytester.mkpydir("deeper")
    (folder / "conftest.py").write_text(
        NET
        + """
import qfair_check

@pytest.fixture(scope="session")
def qfair_model():
    return qfair_check.Model(linear([0.0, 0.3], [1.0, 0.0]), classes=("yes", "no"))
"""
    )
    (folder / "test_deeper.py").write_text(
        "def test_deeper(qfair): assert qfair.fp32.overall.accuracy == 1 and qfair.audit.data.classes == ('yes', 'no')"
    )
    pytester.makepyfile("def test_above(qfair): assert qfair.audit.data.classes == ('no', 'yes')")
    options = ("--qfair-model=tiny.safetensors", "--qfair-data=rows.csv", "--bits=8")
    pytester.runpytest(*options).assert_outcomes(passed=5)


def test_models_that_differ_in_code_alone_are_measured_apart(pytester):
    pytester.makeconftest(
        NET
        + """
class Signed(nn.Module):
    def __init__(self, sign):
        super().__init__()
        self.inner = linear([1.0, 0.0], [0.0, 1.0])
        self.sign = sign

    def forward(self, x):
        return self.sign * self.inner(x)

@pytest.fixture(params=[1.0, -1.0])
def qfair_model(request):
    return Signed(request.param)

@pytest.fixture
def qfair_data():
    return DATA
"""
    )
    pytester.makepyfile(
        "def test_mine(qfair, qfair_model): assert qfair.fp32.overall.accuracy == (qfair_model.sign > 0)"
    )
    pytester.runpytest().assert_outcomes(passed=2)


def test_equal_models_are_measured_once(pytester):
    pytester.makeconftest(
        OVERRIDE.replace('(scope="session")', "")
        + """
import qfair_check.measure.run as run
measured = run.audit
calls = []

@pytest.fixture(autouse=True, scope="session")
def counting():
    run.audit = lambda *args, **kwargs: calls.append(1) or measured(*args, **kwargs)
    yield
    run.audit = measured
    print("measured", len(calls), "times")
"""
    )
    pytester.makepyfile("def test_a(qfair): pass\ndef test_b(qfair_audit): pass\ndef test_c(qfair): pass")
    result = pytester.runpytest("-s")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*measured 1 times*"])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise RuntimeError('no such run')", "*RuntimeError: no such run*"),
        ("pytest.skip('no gpu')", "*were skipped (no gpu): the gate cannot do without them*"),
        ("return None", "*a model is a torch.nn.Module, or a callable from a batch to logits, not a NoneType*"),
        ("return 3", "*not a int*"),
    ],
)
@pytest.mark.parametrize("data", ["--qfair-data=tiny.npz", None])
def test_a_fixture_that_gives_no_model_is_a_usage_error(pytester, tiny, body, told, data):
    pytester.makeconftest(
        (OVERRIDE if data is None else NET + MODEL).replace("return linear([1.0, 0.0], [0.0, 0.3])", body)
    )
    result = pytester.runpytest("--bits=8", *([data] if data else []))
    assert result.ret == 4
    result.stderr.fnmatch_lines([told])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert "qfair_check/" not in result.stderr.str()


def test_a_fixture_that_gives_no_data_is_a_usage_error(pytester):
    pytester.makeconftest(OVERRIDE.replace("return DATA", "return None"))
    result = pytester.runpytest("--bits=8")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: grouped data is a GroupedData, a torch Dataset of (x, y)*NoneType*"])


def test_a_plain_callable_cannot_be_quantized(pytester):
    pytester.makeconftest(OVERRIDE.replace("return linear([1.0, 0.0], [0.0, 0.3])", "return lambda x: x"))
    result = pytester.runpytest("--bits=8")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: the model is a plain callable and has no weights to quantize*"])


def test_a_data_set_of_a_fixture_is_read_once_for_all_tests(pytester):
    pytester.makeconftest(
        OVERRIDE.replace("return DATA", "return Counted()")
        + """
from torch.utils.data import Dataset

READ = []

class Counted(Dataset):
    def __len__(self):
        return 80
    def __getitem__(self, index):
        READ.append(index)
        return torch.tensor([1.0, 0.0]), 0, "AB"[index % 2]

@pytest.fixture
def read():
    return READ
"""
    )
    pytester.makepyfile(
        """
        def test_one(qfair_audit, read):
            assert len(read) == 80

        def test_two(qfair, read):
            assert len(read) == 80
            assert qfair.audit.groups == ("A", "B")
        """
    )
    result = pytester.runpytest("--bits=8", "-k", "test_one or test_two")
    result.assert_outcomes(passed=2, deselected=3)
