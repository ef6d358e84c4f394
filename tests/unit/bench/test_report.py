import io
import json

import pytest
from rich.console import Console

from serve_app.bench.plot import write_plot
from serve_app.bench.report import SCHEMA_VERSION, Measurements, build_report, weights_bytes
from serve_app.bench.tables import print_report

MIB = 1 << 20
MACHINE = {
    "cpu": "A CPU",
    "cores": 2,
    "cores_usable": 2,
    "flags": {"amx_bf16": True, "avx512_bf16": False},
    "memory_bytes": 8 << 30,
    "gpu": None,
    "cpu_busy_percent_before": 1.0,
    "versions": {"torch": "2"},
}
TIMES = {"mean_ms": 21.0, "p50_ms": 20.0, "p95_ms": 30.0, "p99_ms": 40.0}


def in_process(name, rate):
    return {
        "name": name,
        "precision": "bf16",
        "threads": 1,
        "batch": 8,
        "requests": 100,
        "requests_per_s": rate,
        "batch_latency": TIMES,
    }


def load(transport, clients, rate, p50):
    return {
        "transport": transport,
        "clients": clients,
        "seconds": 10.0,
        "requests": 100,
        "requests_per_s": rate,
        **TIMES,
        "p50_ms": p50,
        "answered": 120,
        "failures": 0,
        "faults": {},
        "exhausted": False,
        "client_cpu_ms_per_request": 0.4,
    }


@pytest.fixture
def measured():
    return Measurements(
        start_up_s=12.0,
        limit=[in_process("1 process x 2 threads", 40.0), in_process("2 processes x 1", 50.0)],
        in_process=in_process("1 process x 1 thread", 25.0),
        plain={
            "precision": "fp32",
            "threads": 2,
            "requests": 9,
            "requests_per_s": 8.0,
            "latency": TIMES,
        },
        served=[
            load("http-multipart", 1, 30.0, 25.0),
            load("http-multipart", 16, 40.0, 300.0),
            load("handle", 1, 35.0, 22.0),
            load("handle", 16, 45.0, 250.0),
        ],
        model={"precision": "bf16", "parameters": 100 * MIB},
        memory={
            "requests": 2000,
            "replicas": [
                {"deployment": "pool-default", "pid": 1, "pss_bytes": 1000 * MIB},
                {"deployment": "pool-default", "pid": 2, "pss_bytes": 1100 * MIB},
                {"deployment": "ingress", "pid": 3, "pss_bytes": 5000 * MIB},
            ],
        },
    )


def report_of(measured, machine=MACHINE):
    return build_report({"seconds": 10}, machine, measured, "2000-01-01T00:00:00+00:00")


def test_ratios_are_taken_of_the_right_figures(measured):
    ratios = {ratio["name"]: ratio for ratio in report_of(measured)["ratios"]}
    values = {name: (ratio["value"], ratio["met"]) for name, ratio in ratios.items()}
    assert values == {
        "HTTP, 16 clients / in-process limit": (pytest.approx(40 / 50), True),
        "HTTP, 16 clients / plain open_clip": (pytest.approx(40 / 8), True),
        "HTTP, p50 at 1 client / in process": (pytest.approx(25 / 20), True),
        "Handle, 16 callers / in-process limit": (pytest.approx(45 / 50), None),
        "Handle, p50 at 1 caller / in process": (pytest.approx(22 / 20), None),
        # The worst replica of the pool, less two bytes for each parameter.
        "Replica's PSS over its weights": (pytest.approx(1100 - 200), True),
        "Start-up of the demo service": (12.0, True),
    }
    assert [ratio["goal"] for ratio in ratios.values()] == [0.65, 3.0, 1.3, None, None, 900.0, 30.0]


def test_the_schema_is_stable(measured):
    report = report_of(measured)
    assert report["schema_version"] == SCHEMA_VERSION == 1
    # Scripts of others read this: a change of these names needs a new schema version.
    assert list(report) == [
        "schema_version",
        "created",
        "settings",
        "machine",
        "precision",
        "limit",
        "in_process",
        "plain",
        "served",
        "model",
        "memory",
        "start_up_s",
        "ratios",
        "notes",
        "errors",
    ]
    assert set(report["ratios"][0]) == {"name", "value", "comparison", "goal", "unit", "met"}
    assert json.loads(json.dumps(report)) == report


def test_what_was_not_measured_is_none_and_no_failure():
    report = report_of(Measurements(errors=[{"part": "service", "detail": "did not start"}]))
    assert all(ratio["value"] is None and ratio["met"] is None for ratio in report["ratios"])
    assert list(report) == list(report_of(Measurements()))
    assert report["errors"] == [{"part": "service", "detail": "did not start"}]


def test_what_spoils_figures_is_noted(measured):
    assert report_of(measured)["notes"] == []
    measured.model["precision"] = "fp32"
    measured.served[0] |= {"failures": 2, "faults": {"HTTP 503": 2}}
    measured.served[1] |= {"exhausted": True}
    notes = "\n".join(report_of(measured, {**MACHINE, "cpu_busy_percent_before": 60.0})["notes"])
    assert "60 % busy" in notes
    assert "computes in fp32" in notes
    assert "2 requests failed (HTTP 503)" in notes
    assert "used up after 10.0 s" in notes


def test_weights_need_parameters_and_a_known_precision():
    assert weights_bytes({"precision": "fp32", "parameters": 10}) == 40
    assert weights_bytes({"precision": "bf16", "parameters": 10}) == 20
    assert weights_bytes({"precision": "bf16"}) is None
    assert weights_bytes(None) is None


@pytest.mark.parametrize("empty", [True, False])
def test_the_tables_show_every_figure(measured, empty):
    console = Console(width=80, record=True, file=io.StringIO())
    print_report(console, report_of(Measurements() if empty else measured))
    text = console.export_text()
    assert "A CPU, 2 cores (amx_bf16)" in text
    assert ("limit: 2 processes x 1" in text) is not empty
    assert ("handle, 16 clients" in text) is not empty
    assert ("0.80 x" in text) is not empty


def test_the_plot_is_a_png(measured, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "deep" / "bench.png"
    assert write_plot(report_of(measured), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_nothing_measured_gives_no_plot(tmp_path):
    assert not write_plot(report_of(Measurements()), tmp_path / "bench.png")
