"""Prometheus' and Grafana's files."""

from __future__ import annotations

import subprocess

import yaml

from tests.docker.deployment import DOCKER, find_tool, read_compose

PROVISIONING = DOCKER / "grafana" / "provisioning"


def test_promtool_takes_the_configuration() -> None:
    config = DOCKER / "prometheus" / "prometheus.yml"
    subprocess.run([find_tool("promtool"), "check", "config", str(config)], check=True)


def test_grafana_is_told_where_prometheus_is() -> None:
    text = (PROVISIONING / "datasources" / "prometheus.yml").read_text()
    (source,) = yaml.safe_load(text)["datasources"]
    assert source["type"] == "prometheus"  # The dashboard's variable takes any of the type.
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in read_compose()["services"]


def test_grafana_is_told_where_its_dashboard_is() -> None:
    text = (PROVISIONING / "dashboards" / "heliostat.yml").read_text()
    (provider,) = yaml.safe_load(text)["providers"]
    mounts = read_compose()["services"]["grafana"]["volumes"]
    assert f"./grafana/heliostat.json:{provider['options']['path']}/heliostat.json:ro" in mounts
