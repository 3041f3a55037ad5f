"""Grafana dashboards as code: `python -m monitoring.grafana.generate` writes the JSON that Grafana is given."""
