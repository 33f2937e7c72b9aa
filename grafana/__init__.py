"""What Prometheus scrapes and Grafana shows: dashboards, alerts, and a picture of them."""
