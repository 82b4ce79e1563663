"""Hardware is named as people and drivers name it, and each figure says where it is from."""

import pytest

from clinscale.engine import load_hardware
from clinscale.errors import ConfigError


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("Tesla V100-SXM2-16GB", "v100-16gb"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("Tesla T4", "t4"),
    ],
)
def test_a_driver_s_name_leads_to_its_data_sheet(reported, name):
    hardware = load_hardware()
    assert hardware.reported(reported) is hardware.devices[name]
    assert hardware.device(reported) is hardware.devices[name]


def test_every_figure_says_where_it_is_from():
    hardware = load_hardware()
    for described in (*hardware.devices.values(), *hardware.links.values()):
        assert len(described.source) > 10
        assert described.date.year >= 2026


@pytest.mark.parametrize(
    ("name", "near"),
    [("a100", "a100-40gb or a100-80gb"), ("H10", "h100"), ("l40", "l40s"), ("mi300x", "known: v100")],
)
def test_an_unknown_device_is_answered_with_the_nearest_names(name, near):
    with pytest.raises(ConfigError) as caught:
        load_hardware().device(name)
    assert near.split(" or ")[0] in str(caught.value)
    assert near.split(" or ")[-1] in str(caught.value)


def test_a_user_s_file_adds_prices_and_devices(tmp_path):
    (tmp_path / "ours.yaml").write_text(
        "devices:\n  h100: {usd_per_hour: 2.5}\n"
        "  rtx6000: {half_flops: 91.0e+12, fp32_flops: 39.0e+12, memory_bytes: 48.0e+9, memory_bytes_per_s: 960.0e+9,\n"
        "    link: pcie4, date: 2026-11-29, source: its data sheet}\n"
    )
    hardware = load_hardware(tmp_path / "ours.yaml")
    assert hardware.device("h100").usd_per_hour == 2.5
    assert hardware.device("h100").memory_bytes == load_hardware().device("h100").memory_bytes
    assert hardware.device("rtx6000").watts is None
    assert load_hardware().device("h100").usd_per_hour is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devices: {h100: {usd_per_hor: 2}}", "usd_per_hour"),
        ("devices: {h100: {usd_per_hour: -2}}", "usd_per_hour"),
        ("devices: {h100: {link: nvlink5}}", "nvlink4"),
        ("devices: {x: {half_flops: 1}}", "source"),
        ("devices: {h100: {memory_bytes: 80}}", "memory_bytes"),
        ("devices: {h100: {half_flops: 989}}", "half_flops"),
        ("links: {ethernet-100: {bytes_per_s: 100}}", "bytes_per_s"),
    ],
)
def test_a_wrong_file_is_refused_by_its_key(tmp_path, text, said):
    (tmp_path / "ours.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_hardware(tmp_path / "ours.yaml")
